"""DreamBooth-LoRA: DreamBooth that trains low-rank additions to the U-Net's attention (arXiv 2106.09685) alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import torch
from diffusers import UNet2DConditionModel

from bdkit.checkpoints.adapters import LORA_B, lora_parameters, lora_tensors, restart_lora, save_adapter, with_lora
from bdkit.checkpoints.files import LORA
from bdkit.methods.dreambooth import DreamBooth
from bdkit.models.latent_diffusion import LatentDiffusion
from bdkit.training.finetuning import Snapshot, frozen
from bdkit.training.method_config import DreamBoothLoraConfig


class DreamBoothLora(DreamBooth):
    """A few megabytes a subject: the U-Net's other weights are shared with the model and stay as they are."""

    name: ClassVar[str] = "dreambooth-lora"

    def __init__(self, model: LatentDiffusion, config: DreamBoothLoraConfig) -> None:
        self.lora = config
        super().__init__(model, config)

    def _trained_unet(self) -> UNet2DConditionModel:
        """A U-Net that shares the model's weights, with the additions."""
        lora = self.lora
        return with_lora(self.model.unet, lora.rank, lora.alpha or lora.rank, lora.target_modules)

    def _restart(self, seed: int) -> None:
        restart_lora(self._unet, seed)

    @contextmanager
    def _training(self) -> Iterator[None]:
        with frozen(self.model.unet):
            for parameter in lora_parameters(self._unet).values():
                parameter.requires_grad_(True)
            try:
                yield
            finally:
                self._unet.eval()

    def _apply(self, snapshot: Snapshot) -> None:
        parameters = dict(self._unet.named_parameters())
        with torch.no_grad():
            for name, value in snapshot.items():
                parameters[name.removeprefix("unet.")].copy_(value)

    def save(self, folder: str | Path) -> Path:
        """The additions as diffusers' ``load_lora_weights`` reads them, and their settings."""
        settings = self.fitted_settings
        self.selected()
        scale = (self.lora.alpha or self.lora.rank) / self.lora.rank  # multiplied in: readers take alpha for the rank
        state = lora_tensors(self._unet)
        state |= {name: value * scale for name, value in state.items() if name.endswith(LORA_B)}
        return save_adapter(folder, {LORA: state}, settings, self.model)
