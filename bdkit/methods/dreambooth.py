"""DreamBooth (arXiv 2208.12242): a rare token, the whole U-Net trained, and optionally a prior that is preserved."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn

from bdkit.methods.base import TrainedMethod, exchanged, load_weights
from bdkit.models.latent_diffusion import LatentDiffusion
from bdkit.models.text_encoder import SubjectTextEncoder
from bdkit.training.finetuning import (
    CAPTION,
    Snapshot,
    cache_latents,
    cast,
    draw_latents,
    noise_process,
    subject_loss,
    train_few_steps,
    training_settings,
)
from bdkit.training.method_config import DreamBoothConfig
from bdkit.utils.errors import InputError


class DreamBoothLoss(nn.Module):
    """Noise prediction on the subject ("a sks dog") plus weight x noise prediction on the class ("a dog").

    Args:
        text_encoder: trained if ``train_text_encoder``, else both texts are encoded once, here.
        ids: (2, L), the subject's and the class's caption.
        scheduler: the forward process, `bdkit.training.finetuning.noise_process`.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text_encoder: SubjectTextEncoder,
        ids: Tensor,
        scheduler: DDPMScheduler,
        *,
        train_text_encoder: bool,
        prior_loss_weight: float,
    ) -> None:
        super().__init__()
        self.unet, self.prior_loss_weight = unet, prior_loss_weight
        self.ids = ids[: 2 if prior_loss_weight else 1]
        self.text_encoder = text_encoder if train_text_encoder else None
        with torch.no_grad():
            self.hidden: Tensor = text_encoder(self.ids)
        self.scheduler = scheduler

    def forward(
        self, batch: tuple[Tensor, Tensor | None], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        subject, prior = batch
        hidden = self.hidden if self.text_encoder is None else self.text_encoder(self.ids)
        guide = hidden[:1].expand(len(subject), -1, -1)
        loss = subject_loss(self.unet, self.scheduler, subject, guide, generator)
        if prior is None:
            return loss, {}
        guide = hidden[1:].expand(len(prior), -1, -1)
        prior_loss = subject_loss(self.unet, self.scheduler, prior, guide, generator)
        return loss + self.prior_loss_weight * prior_loss, {"prior_loss": prior_loss.detach()}


class DreamBooth(TrainedMethod):
    """The U-Net, and optionally the text encoder, learn what "a sks dog" looks like."""

    name: ClassVar[str] = "dreambooth"

    def __init__(self, model: LatentDiffusion, config: DreamBoothConfig) -> None:
        super().__init__(model, config, config)
        if not config.steps:
            raise InputError("dreambooth with 0 steps learns nothing; use at least 1, or the method base")
        self.config = config
        self._unet = self._trained_unet()
        self._text_encoder = copy.deepcopy(model.text_encoder) if config.train_text_encoder else model.text_encoder

    def fit(self, images: list[Image.Image], class_noun: str, seed: int) -> None:
        self.check_class_noun(class_noun)
        self._keep({}, [])
        config, model = self.config, self.model
        latents = cache_latents(model, images, seed, random_flip=config.random_flip)
        prior = self._prior(class_noun, config.class_images) if config.prior_loss_weight else None
        self._restart(seed)
        ids, _ = model.tokenize([CAPTION] * 2, [f"{config.token} {class_noun}", class_noun])
        module = DreamBoothLoss(
            self._unet,
            self._text_encoder,
            ids.to(model.device),
            noise_process(model),
            train_text_encoder=config.train_text_encoder,
            prior_loss_weight=config.prior_loss_weight,
        )

        def batches(step: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
            subject = draw_latents(latents, config.batch_size, generator, random_flip=config.random_flip)
            return subject, None if prior is None else draw_latents(prior, config.batch_size, generator)

        with self._training(), training_settings(self._unet, config):
            name = f"DreamBooth on a {class_noun}"
            kept, history = train_few_steps(
                module,
                batches,
                config,
                seed,
                device=model.device,
                name=name,
                progress=self.progress,
                work=self.work,
                after_step=self._after_step,
            )
        self.class_noun = class_noun
        self._keep(kept, history)

    def _trained_unet(self) -> UNet2DConditionModel:
        """The U-Net that is trained instead of the model's."""
        return copy.deepcopy(self.model.unet)

    def _parts(self) -> list[nn.Module]:
        return [self._unet, self._text_encoder] if self.config.train_text_encoder else [self._unet]

    def _restart(self, seed: int) -> None:
        """The trained parts as they are before any subject, in float32."""
        for part, start in zip(self._parts(), (self.model.unet, self.model.text_encoder), strict=False):
            cast(part, torch.float32).load_state_dict(start.state_dict())

    @contextmanager
    def _training(self) -> Iterator[None]:
        """Gradients for the trained parts; afterwards they have the model's precision, ready to generate."""
        text_model = self._text_encoder.model
        checkpointing = self.config.gradient_checkpointing and self.config.train_text_encoder
        try:
            for part in self._parts():
                part.requires_grad_(True)
            if checkpointing:
                switch_checkpointing(text_model, True)
            yield
        finally:
            if checkpointing:
                switch_checkpointing(text_model, False)
            for part in self._parts():
                cast(part, self.model.unet.dtype).requires_grad_(False).eval()

    def generate(self, prompt_template: str | list[str], class_noun: str, seeds: list[int]) -> list[Image.Image]:
        self.check_class_noun(class_noun)
        self.selected()
        with exchanged(self.model, unet=self._unet, text_encoder=self._text_encoder):
            return self.draw(prompt_template, f"{self.config.token} {class_noun}", seeds)

    def save(self, folder: str | Path) -> Path:
        """A whole model that knows the subject by its rare word, readable part by part by diffusers."""
        record = {**self.model.record, "finetuned": self.fitted_settings}
        parts = exchanged(self.model, unet=self._unet, text_encoder=self._text_encoder, record=record)
        with self.exact(self._parts()), parts:
            return self.model.save_pretrained(folder)

    def _apply(self, snapshot: Snapshot) -> None:
        load_weights(self._unet, snapshot, "unet.")
        if self.config.train_text_encoder:
            load_weights(self._text_encoder, snapshot, "text_encoder.")


def switch_checkpointing(text_model: Any, on: bool) -> None:
    """Gradient checkpointing of a transformers model; recent versions call it activation checkpointing."""
    word = "enable" if on else "disable"
    getattr(text_model, f"activation_checkpointing_{word}", getattr(text_model, f"gradient_checkpointing_{word}"))()
