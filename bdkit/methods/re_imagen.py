"""Re-Imagen (arXiv 2209.14491): a text-to-image model that looks at the subject's images; nothing is trained here."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from bdkit.checkpoints.load import SHIPPED
from bdkit.checkpoints.re_imagen import MINI_RE_IMAGEN, TRAIN, WEIGHTS, load_re_imagen
from bdkit.methods.base import ModelMethod, exchanged
from bdkit.models.latent_diffusion import LatentDiffusion
from bdkit.models.prompts import one_placeholder
from bdkit.models.retrieval import InterleavedGuidance
from bdkit.sampling import check_guidance
from bdkit.training.finetuning import CAPTION, cache_latents
from bdkit.training.method_config import ReImagenConfig
from bdkit.utils.errors import InputError
from bdkit.utils.io import file_hash


class ReImagen(ModelMethod):
    """The subject's images with "a" and the class word are the neighbours, as on DreamBench in the paper.

    `fit` encodes ``config.neighbours`` of the images, which its seed chooses where there are more.

    Raises:
        InputError: the adapter is missing, or of another model.
    """

    name: ClassVar[str] = "re-imagen"

    def __init__(self, model: LatentDiffusion, config: ReImagenConfig) -> None:
        super().__init__(model, config)
        if config.neighbour_guidance_scale is not None:
            check_guidance(config.neighbour_guidance_scale)
        self.config = config
        folder = find_adapter(config.adapter, model.source)
        self._unet = load_re_imagen(folder, model)
        self._adapter = file_hash(folder / WEIGHTS)[:12]
        self._neighbours: Tensor | None = None

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "adapter": self._adapter}

    def fit(self, images: list[Image.Image], class_noun: str, seed: int) -> None:
        self.check_class_noun(class_noun)
        self._neighbours = None
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed & 0x7FFF_FFFF_FFFF_FFFF))
        chosen = [images[index] for index in order[: self.config.neighbours]]
        latents = cache_latents(self.model, chosen, seed).to(self.model.unet.dtype)
        text = self.model.encode_prompt(CAPTION.format(class_noun), prompt_reps=1)
        with torch.no_grad():
            encoded = self._unet.encode(latents, text.expand(len(latents), -1, -1).to(latents))
        self._neighbours = encoded.flatten(0, 1)[None].float().cpu()

    def select(self, step: int | None) -> None:
        if step is not None:
            raise InputError("re-imagen is not trained on a subject and has no snapshots; leave the step out")

    def generate(self, prompt_template: str | list[str], class_noun: str, seeds: list[int]) -> list[Image.Image]:
        self.check_class_noun(class_noun)
        if self._neighbours is None:
            raise InputError(f"{self.name} has no subject yet; call fit first")
        config, model = self.config, self.model
        scale = model.defaults.guidance_scale if config.guidance_scale is None else config.guidance_scale
        near = scale if config.neighbour_guidance_scale is None else config.neighbour_guidance_scale
        negative = model.defaults.negative_prompt if config.negative_prompt is None else config.negative_prompt
        null = model.encode_prompt(negative, prompt_reps=1)
        guided = InterleavedGuidance(
            self._unet,
            self._neighbours.to(model.device, model.unet.dtype),
            null,
            seeds,
            guidance_scale=scale,
            neighbour_guidance_scale=near,
            text_share=config.text_share,
        )
        templates = [prompt_template] if isinstance(prompt_template, str) else prompt_template
        with exchanged(model, unet=guided):
            images: list[Image.Image] = model(
                [one_placeholder(template) for template in templates],
                target_subject=class_noun,
                seeds=seeds,
                guidance_scale=1.0,  # the U-Net's stand-in guides
                negative_prompt="",
                num_inference_steps=config.num_inference_steps,
                prompt_reps=config.prompt_reps,
                scheduler=self.scheduler,
            )
        return images

    def state(self) -> dict[str, Tensor]:
        return {} if self._neighbours is None else {"neighbours": self._neighbours}

    def load_state(self, state: dict[str, Tensor]) -> None:
        if set(state) != {"neighbours"}:
            raise InputError("this fit belongs to another method than re-imagen")
        self._neighbours = state["neighbours"]


def find_adapter(given: str | None, start: str) -> Path:
    """The folder of the additions: the given one, mini-re-imagen beside the start, or the shipped one of that name.

    Raises:
        InputError: there is none; the message says how to train one.
    """
    if given is not None:
        return Path(given)
    beside = [Path(start).parent / MINI_RE_IMAGEN] if start and Path(start).is_dir() else []
    shipped = [SHIPPED / MINI_RE_IMAGEN] if start and (SHIPPED / start).is_dir() else []
    for folder in (*beside, *shipped):
        if folder.is_dir():
            return folder
    raise InputError(
        f"re-imagen has no additions for {start or 'this model'} (the shipped ones are for mini-base); train them with "
        f"{TRAIN}, and name their folder as the method's adapter"
    )
