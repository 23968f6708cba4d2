"""Latents of an autoencoder."""

from typing import TypeAlias

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

Vae: TypeAlias = AutoencoderKL | AutoencoderTiny


def encode_images(vae: Vae, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Pixels in -1..1, (B, 3, H, W), to scaled latents (B, C, H/f, W/f).

    The one place that knows a deterministic autoencoder (``latents``) from a variational one (``latent_dist``).
    """
    encoded = vae.encode(pixels)
    raw = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.sample(generator)
    return (raw - _shift(vae)) * vae.config.scaling_factor


def decode_latents(vae: Vae, latents: Tensor) -> Tensor:
    """Scaled latents to pixels in -1..1 (clamped), (B, 3, H, W)."""
    raw = latents / vae.config.scaling_factor + _shift(vae)
    return vae.decode(raw.to(vae.dtype)).sample.clamp(-1, 1)


def _shift(vae: Vae) -> float:
    return getattr(vae.config, "shift_factor", None) or 0.0


def latent_factor(vae: Vae) -> int:
    """Pixels per latent, along one side."""
    if isinstance(vae, AutoencoderTiny):
        return 2 ** (len(vae.config.encoder_block_out_channels) - 1)
    return 2 ** (len(vae.config.block_out_channels) - 1)
