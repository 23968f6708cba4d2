"""Noise-prediction loss, latents and the sampling loop; nothing here knows of subjects."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderTiny, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from bdkit.utils.errors import InputError

Vae: TypeAlias = AutoencoderKL | AutoencoderTiny

Control: TypeAlias = Callable[[int, int, Tensor, Tensor, Tensor], dict[str, Any]]
"""(index of the step, number of steps, model input, timestep, context) -> further arguments of the U-Net."""

# Stable Diffusion v1's noise schedule (paper Sec. 4.1 builds on v1-5); the same numbers serve mini size.
NOISE_SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


def training_scheduler() -> DDPMScheduler:
    """The forward process of training: noise prediction with Stable Diffusion's schedule."""
    return DDPMScheduler(prediction_type="epsilon", clip_sample=False, **NOISE_SCHEDULE)


@contextmanager
def training_attention(unet: UNet2DConditionModel) -> Iterator[None]:
    """On the CPU, train with diffusers' plain attention: torch's fused one is slow backwards on short sequences.

    The processors of before come back afterwards, so a later generation is that of a fresh process.
    """
    before = unet.attn_processors
    if unet.device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())
    try:
        yield
    finally:
        unet.set_attn_processor(before)


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


def initial_noise(seeds: Sequence[int], shape: tuple[int, ...]) -> tuple[Tensor, list[torch.Generator]]:
    """Unit Gaussian noise (len(seeds), *shape), float32 on the CPU, one generator an image.

    Image k depends on seeds[k] alone, never on the batch or the device. The generators go on to the sampler's step.
    """
    generators = [torch.Generator().manual_seed(int(seed) & 0x7FFF_FFFF_FFFF_FFFF) for seed in seeds]
    return torch.stack([torch.randn(shape, generator=g) for g in generators]), generators


def noise_prediction_loss(
    unet: UNet2DConditionModel,
    scheduler: DDPMScheduler,
    latents: Tensor,
    encoder_hidden_states: Tensor,
    generator: torch.Generator,
    weights: Tensor | None = None,
    *,
    importance_sampling: bool = False,
    pixel_weights: Tensor | None = None,
) -> Tensor:
    """Mean squared error of the predicted noise at uniform timesteps (Sec. 3.2, Eq. of latent diffusion).

    Args:
        latents: (B, C, h, w), scaled.
        encoder_hidden_states: (B, L, D), the text encoder's output.
        generator: CPU generator of the timesteps and, through `draw_noise`, of the noise.
        weights: (timesteps,), how much each timestep's error counts, such as `timestep_weights`; None: all the same.
        importance_sampling: draw the timesteps by `draw_timesteps`: the same loss in the mean, with less variance.
        pixel_weights: (B, 1, h, w), how much each place of an image counts; divided by its mean over the batch.
    """
    noise = draw_noise(latents, generator)
    plain = weights is None and not importance_sampling and pixel_weights is None
    if weights is None:
        weights = torch.ones(scheduler.config.num_train_timesteps)
    if importance_sampling:
        timesteps, factors = draw_timesteps(weights, latents.shape[0], generator)
    else:
        timesteps = torch.randint(0, len(weights), (latents.shape[0],), generator=generator)
        factors = weights[timesteps]
    timesteps = timesteps.to(latents.device)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    noise_pred = unet(noisy, timesteps, encoder_hidden_states).sample
    if plain:
        return F.mse_loss(noise_pred.float(), noise.float())
    errors = (noise_pred.float() - noise.float()).square()
    if pixel_weights is not None:
        errors = errors * (pixel_weights / pixel_weights.mean())
    return (errors.mean(dim=(1, 2, 3)) * factors.to(errors.device)).mean()


def draw_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Unit Gaussian noise of the shape, type and device of ``like``, drawn there: a large batch's takes a CPU too long.

    Args:
        generator: on the CPU; elsewhere it seeds a generator of that device, so its state alone decides there, too.
    """
    if like.device.type == "cpu":
        return torch.randn(like.shape, generator=generator).to(like.dtype)
    seed = int(torch.randint(2**62, (1,), generator=generator))
    there = torch.Generator(like.device).manual_seed(seed)
    return torch.randn(like.shape, generator=there, device=like.device).to(like.dtype)


def timestep_weights(scheduler: DDPMScheduler, low: float, high: float) -> Tensor:
    """1 / SNR of each timestep, kept within ``low`` and ``high``, divided by its mean; (timesteps,) float64."""
    alphas = scheduler.alphas_cumprod.double().cpu()
    weights = ((1 - alphas) / alphas).clamp(low, high)
    return weights / weights.mean()


def draw_timesteps(weights: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Timesteps where the weights are large, and the factors that keep the mean loss what uniform ones would give.

    A timestep is drawn in proportion to the root of its weight, because errors are small where weights are large; the
    draws are stratified over the batch: one from each of ``count`` equal shares of the probability.

    Args:
        weights: (timesteps,), positive.
        generator: on the CPU.

    Returns:
        Timesteps (count,) int64 and factors (count,) float32: weight / (timesteps x probability).
    """
    chances = weights.double().sqrt()
    chances = chances / chances.sum()
    places = (torch.arange(count) + torch.rand(count, generator=generator, dtype=torch.float64)) / count
    timesteps = torch.searchsorted(chances.cumsum(0), places, right=True).clamp(max=len(weights) - 1)
    return timesteps, (weights / (len(weights) * chances))[timesteps].float()


@torch.no_grad()
def sample(
    unet: UNet2DConditionModel,
    scheduler: Any,
    latents: Tensor,
    encoder_hidden_states: Tensor,
    negative_hidden_states: Tensor | None = None,
    *,
    guidance_scale: float = 7.5,
    num_inference_steps: int = 50,
    generators: list[torch.Generator] | None = None,
    callback: Callable[[int, int, Tensor], None] | None = None,
    control: Control | None = None,
) -> Tensor:
    """Denoise unit-Gaussian ``latents`` (B, C, h, w) with classifier-free guidance and any diffusers scheduler.

    Args:
        encoder_hidden_states: (B, L, D) of the prompt.
        negative_hidden_states: (B, L, D) of the negative or empty prompt; may be None when ``guidance_scale`` <= 1,
            where a single evaluation a step suffices.
        callback: called with (index, timestep, latents) after each step.
        control: gives further arguments of the U-Net for each step, such as a ControlNet's residuals.
    """
    most = scheduler.config.num_train_timesteps
    if not 1 <= num_inference_steps <= most:
        raise InputError(f"num_inference_steps is {num_inference_steps}; use 1 to {most}")
    guided = guidance_scale > 1.0
    context = encoder_hidden_states
    if guided:
        if negative_hidden_states is None:
            raise InputError("guidance_scale > 1 needs the hidden states of the negative (or empty) prompt")
        context = torch.cat([negative_hidden_states, encoder_hidden_states])
    device, dtype = encoder_hidden_states.device, encoder_hidden_states.dtype
    scheduler = type(scheduler).from_config(scheduler.config)  # no state of an earlier call
    scheduler.set_timesteps(num_inference_steps, device=device)
    exact = torch.promote_types(dtype, torch.float32)  # half precision is for the U-Net alone: the steps add up
    latents = latents.to(device, exact) * scheduler.init_noise_sigma
    extra = {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for index, timestep in enumerate(scheduler.timesteps):
        model_input = scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, timestep)
        model_input = model_input.to(dtype)
        residuals = control(index, len(scheduler.timesteps), model_input, timestep, context) if control else {}
        noise_pred = unet(model_input, timestep, context, **residuals).sample
        if guided:
            negative, positive = noise_pred.chunk(2)
            noise_pred = negative + guidance_scale * (positive - negative)
        latents = scheduler.step(noise_pred.to(exact), timestep, latents, **extra).prev_sample.to(exact)
        if callback:
            callback(index, int(timestep), latents)
    return latents
