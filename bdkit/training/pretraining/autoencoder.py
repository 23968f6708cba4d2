"""Autoencoder of the mini world; full size takes Stable Diffusion's."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from bdkit.losses import draw_noise
from bdkit.models.latent_diffusion import encode_images
from bdkit.models.preprocessing import pixels_from_arrays
from bdkit.training.config import TrainingConfig
from bdkit.training.data import FunctionBatches, epoch_indices
from bdkit.training.loop import TrainingLoop
from bdkit.training.pretraining.corpus import Corpus


class AutoencoderLoss(nn.Module):
    """L1 + MSE of the reconstruction; noise on the latents makes the decoder robust to the U-Net's errors."""

    def __init__(self, vae: AutoencoderTiny, latent_noise: float) -> None:
        super().__init__()
        self.vae, self.latent_noise = vae, latent_noise

    def forward(self, pixels: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        latents = self.vae.encoder(pixels)
        noise = draw_noise(latents, generator)
        reconstruction = self.vae.decoder(latents + self.latent_noise * latents.detach().std() * noise).float()
        mse = F.mse_loss(reconstruction, pixels)
        loss = F.l1_loss(reconstruction, pixels) + mse
        return loss, {"psnr": 10 * torch.log10(4 / mse.detach())}


def train_autoencoder(
    vae: AutoencoderTiny,
    corpus: Corpus,
    config: TrainingConfig,
    out: Path | None,
    *,
    latent_noise: float = 0.05,
    **loop: Any,
) -> list[dict[str, float]]:
    """Trains ``vae`` and stores its latents' scale and shift: scaled latents have mean 0 and deviation 1."""
    indices = epoch_indices(len(corpus), config.batch_size, config.seed)

    def batch(index: int, _generator: torch.Generator) -> Tensor:
        pixels = pixels_from_arrays(corpus.images[indices(index)])
        return pixels.to(device=vae.device, memory_format=torch.channels_last)

    vae.to(memory_format=torch.channels_last)
    module, batches = AutoencoderLoss(vae, latent_noise), FunctionBatches(batch, config.seed)
    history = TrainingLoop(module, batches, config, out=out, name="autoencoder", **loop).run()
    vae.register_to_config(scaling_factor=1.0, shift_factor=0.0)
    latents = encode_corpus(vae, corpus.images[: min(len(corpus), 2048)])
    vae.register_to_config(scaling_factor=float(1 / latents.float().std()), shift_factor=float(latents.float().mean()))
    return history


@torch.no_grad()
def encode_corpus(vae: Any, images: np.ndarray) -> Tensor:
    """Scaled latents of uint8 images (N, H, W, 3), float16 on the CPU; a variational autoencoder's mean."""
    batch = latent_batch(images.shape[1])
    parts = []
    for start in range(0, len(images), batch):
        pixels = pixels_from_arrays(torch.as_tensor(images[start : start + batch]).to(vae.device))
        pixels = pixels.to(memory_format=torch.channels_last)
        parts.append(encode_images(vae, pixels, mean=True).half().cpu())
    return torch.cat(parts).contiguous()


def latent_batch(size: int) -> int:
    """How many images of a size are encoded at a time: 128 of 64 pixels, 2 of 512."""
    return max(1, 128 * 64 * 64 // size**2)
