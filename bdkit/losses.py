"""The noise-prediction loss of training, its timesteps and noise; nothing here knows about subjects."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from bdkit.utils.env import shared_draw
from bdkit.utils.errors import InputError

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


@contextmanager
def gradient_checkpointing(modules: Sequence[Any], *, on: bool) -> Iterator[None]:
    """Computes activations a second time for the gradients within the block: slower, with less memory.

    Args:
        modules: stock models of diffusers or transformers.
    """
    # diffusers, today's transformers and that of before name the switches differently
    names = [
        ("activation_checkpointing_enable", "activation_checkpointing_disable"),
        ("enable_gradient_checkpointing", "disable_gradient_checkpointing"),
        ("gradient_checkpointing_enable", "gradient_checkpointing_disable"),
    ]
    switches = [next(pair for pair in names if hasattr(module, pair[0])) for module in modules] if on else []
    used = list(zip(modules, switches, strict=False))
    for module, (enable, _) in used:
        getattr(module, enable)()
    try:
        yield
    finally:
        for module, (_, disable) in used:
            getattr(module, disable)()


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

    Where ``scheduler`` says that the U-Net predicts something else ("v_prediction", "sample"), that is the target.

    Args:
        latents: (B, C, h, w), scaled.
        encoder_hidden_states: (B, L, D), the text encoder's output.
        generator: CPU generator of the timesteps and, through `draw_noise`, of the noise; the same in all processes.
        weights: (timesteps,), how much each timestep's error counts, such as `timestep_weights`; None: all the same.
        importance_sampling: draw the timesteps by `draw_timesteps`: the same loss in the mean, with less variance.
        pixel_weights: (B, 1, h, w), how much each pixel of the latents counts; their mean should be 1.
    """
    noise = draw_noise(latents, generator)
    plain = weights is None and not importance_sampling and pixel_weights is None
    if weights is None:
        weights = torch.ones(scheduler.config.num_train_timesteps)
    if importance_sampling:
        timesteps = shared_draw(partial(draw_timesteps, weights, generator=generator), latents.shape[0])
        factors = importance_factors(weights)[timesteps]
    else:
        count = len(weights)
        timesteps = shared_draw(lambda rows: torch.randint(0, count, (rows,), generator=generator), latents.shape[0])
        factors = weights[timesteps]
    timesteps = timesteps.to(latents.device)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    prediction = unet(noisy, timesteps, encoder_hidden_states).sample
    target = _target(scheduler, latents, noise, timesteps)
    if plain:
        return F.mse_loss(prediction.float(), target.float())
    errors = (prediction.float() - target.float()).square()
    if pixel_weights is not None:
        errors = errors * pixel_weights
    return (errors.mean(dim=(1, 2, 3)) * factors.to(errors.device)).mean()


def _target(scheduler: DDPMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the U-Net should predict, by the scheduler's kind of prediction."""
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(latents, noise, timesteps)
    if kind == "sample":
        return latents
    raise InputError(f"the scheduler's prediction_type is {kind!r}; use epsilon, v_prediction or sample")


def draw_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Unit Gaussian noise of the shape, type and device of ``like``, drawn there: a large batch's takes a CPU too long.

    Args:
        like: (B, ...), this process's part of the batch.
        generator: on the CPU; elsewhere it seeds a generator of that device, so its state alone decides there, too.
    """
    device = like.device
    if device.type != "cpu":
        seed = int(torch.randint(2**62, (1,), generator=generator))
        generator = torch.Generator(device).manual_seed(seed)
    shape = like.shape[1:]
    noise: Tensor = shared_draw(
        lambda rows: torch.randn((rows, *shape), generator=generator, device=device), like.shape[0]
    )
    return noise.to(like.dtype)


def timestep_weights(scheduler: DDPMScheduler, low: float, high: float) -> Tensor:
    """1 / SNR of each timestep, kept within ``low`` and ``high``, divided by its mean; (timesteps,) float64."""
    alphas = scheduler.alphas_cumprod.double().cpu()
    weights = ((1 - alphas) / alphas).clamp(low, high)
    return weights / weights.mean()


def draw_timesteps(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Timesteps (count,) int64 where the weights are large; `importance_factors` keep the mean loss what it would be.

    A timestep is drawn in proportion to the root of its weight, because errors are small where weights are large; the
    draws are stratified over the batch: one from each of ``count`` equal shares of the probability.

    Args:
        weights: (timesteps,), positive.
        generator: on the CPU.
    """
    positions = (torch.arange(count) + torch.rand(count, generator=generator, dtype=torch.float64)) / count
    return torch.searchsorted(_chances(weights).cumsum(0), positions, right=True).clamp(max=len(weights) - 1)


def importance_factors(weights: Tensor) -> Tensor:
    """How much each timestep's error counts where `draw_timesteps` draws them: weight / (timesteps x probability)."""
    return (weights / (len(weights) * _chances(weights))).float()


def _chances(weights: Tensor) -> Tensor:
    chances = weights.double().sqrt()
    return chances / chances.sum()
