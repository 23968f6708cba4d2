"""BLIP-Diffusion: zero-shot, or after a few steps on the subject (Sec. 3.3)."""

import copy
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from bdkit.methods.base import TrainedMethod, exchanged, load_weights
from bdkit.models.blip_diffusion import BlipDiffusion, require_blip_diffusion
from bdkit.models.latent_diffusion import LatentDiffusion
from bdkit.training.finetuning import Snapshot, cast, finetune_subject
from bdkit.training.method_config import BlipDiffusionConfig


class BlipDiffusionMethod(TrainedMethod):
    """The mean subject embedding of the images, and a U-Net trained with it for ``config.steps`` steps."""

    name: ClassVar[str] = "blip-diffusion"
    model: BlipDiffusion

    def __init__(self, model: LatentDiffusion, config: BlipDiffusionConfig) -> None:
        super().__init__(require_blip_diffusion(model), config, config)
        self.config = config
        self._unet = copy.deepcopy(model.unet) if config.steps else model.unet

    def fit(self, images: list[Image.Image], class_noun: str, seed: int) -> None:
        self.check_class_noun(class_noun)
        if self.config.steps:
            cast(self._unet, torch.float32).load_state_dict(self.model.unet.state_dict())
            self._unet.requires_grad_(True)
        self._keep({}, [])
        try:
            kept, history = finetune_subject(
                self.model,
                self._unet,
                images,
                class_noun,
                self.config,
                seed,
                progress=self.progress,
                work=self.work,
                after_step=self._after_step,
            )
        finally:
            if self.config.steps:
                cast(self._unet, self.model.unet.dtype).requires_grad_(False).eval()
        self.class_noun = class_noun
        self._keep(kept, history)

    def generate(self, prompt_template: str | list[str], class_noun: str, seeds: list[int]) -> list[Image.Image]:
        self.check_class_noun(class_noun)
        snapshot = self.selected()
        with exchanged(self.model, unet=self._unet):
            return self.draw(prompt_template, class_noun, seeds, self._embeddings(snapshot))

    def save(self, folder: str | Path) -> Path:
        """A model folder of the fitted subject: its U-Net, and the cached embedding with the class noun."""
        settings, snapshot = self.fitted_settings, self.selected()
        with (
            self.exact([self._unet] if self.config.steps else []),
            exchanged(
                self.model,
                unet=self._unet,
                subject_embeddings=snapshot["subject_embeddings"],
                subject_class=self.class_noun,
                record={**self.model.record, "finetuned": settings},
            ),
        ):
            return self.model.save_pretrained(folder)

    def _embeddings(self, snapshot: Snapshot) -> Tensor:
        return snapshot["subject_embeddings"].to(self.model.device, self.model.unet.dtype)

    def _apply(self, snapshot: Snapshot) -> None:
        if self.config.steps:
            load_weights(self._unet, snapshot, "unet.")
