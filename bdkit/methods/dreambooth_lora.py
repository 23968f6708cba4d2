"""DreamBooth-LoRA: DreamBooth that trains low-rank additions to the U-Net's attention (arXiv 2106.09685) alone."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import nn

from bdkit.checkpoints.adapters import ADAPTER, LORA_B, lora_tensors, save_adapter
from bdkit.checkpoints.files import LORA
from bdkit.methods.dreambooth import DreamBooth
from bdkit.models.latent_diffusion import LatentDiffusion
from bdkit.training.config import DreamBoothLoraConfig
from bdkit.training.finetuning import Snapshot, frozen
from bdkit.utils.errors import InputError

INITIAL = "gaussian"  # that of the public recipe: A from a normal distribution, B zero


class DreamBoothLora(DreamBooth):
    """A few megabytes a subject: the U-Net's other weights are shared with the model and stay as they are."""

    name: ClassVar[str] = "dreambooth-lora"

    def __init__(self, model: LatentDiffusion, config: DreamBoothLoraConfig) -> None:
        self.lora = config
        super().__init__(model, config)

    def _trained_unet(self) -> UNet2DConditionModel:
        """A U-Net that shares the model's weights, with the additions."""
        lora, shared = self.lora, self.model.unet
        for target in lora.target_modules:
            chosen = [part for name, part in shared.named_modules() if f".{name}".endswith(f".{target}")]
            if not chosen or not all(isinstance(part, nn.Linear) for part in chosen):
                raise InputError(
                    f"target_modules has {target!r}, which names no linear layers of this U-Net; use ends of their "
                    "names, such as to_q or to_out.0"
                )
        weights = [*shared.parameters(), *shared.buffers()]
        flags = [weight.requires_grad for weight in weights]
        unet = copy.deepcopy(shared, {id(weight): weight for weight in weights})
        with torch.random.fork_rng():
            unet.add_adapter(
                LoraConfig(
                    r=lora.rank,
                    lora_alpha=lora.alpha or lora.rank,
                    target_modules=list(lora.target_modules),
                    init_lora_weights=INITIAL,
                ),
                adapter_name=ADAPTER,
            )
        for weight, flag in zip(weights, flags, strict=True):
            weight.requires_grad_(flag)
        for parameter in _added(unet):
            parameter.data = parameter.data.float()
        return unet

    def _restart(self, seed: int) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for layer in self._unet.modules():
                if isinstance(layer, LoraLayer):
                    layer.reset_lora_parameters(ADAPTER, INITIAL)

    @contextmanager
    def _training(self) -> Iterator[None]:
        with frozen(self.model.unet):
            for parameter in _added(self._unet):
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
        return save_adapter(folder, LORA, state, settings, self.model)


def _added(unet: UNet2DConditionModel) -> list[nn.Parameter]:
    return [parameter for name, parameter in unet.named_parameters() if ".lora_" in name]
