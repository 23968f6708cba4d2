"""Initial noise, one guided U-Net evaluation and the sampling loop; nothing here knows about subjects."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from bdkit.utils.errors import InputError

Control: TypeAlias = Callable[[int, int, Tensor, Tensor, Tensor], dict[str, Any]]
"""(index of the step, number of steps, model input, timestep, context) -> further arguments of the U-Net."""

Callback: TypeAlias = Callable[[int, int, Tensor], Tensor | None]
"""(index of the step, timestep, latents after it) -> latents that replace the step's, or None."""


def initial_noise(seeds: Sequence[int], shape: tuple[int, ...]) -> tuple[Tensor, list[torch.Generator]]:
    """Unit Gaussian noise (len(seeds), *shape), float32 on the CPU, one generator an image.

    Image k depends on seeds[k] alone, never on the batch or the device. The generators go on to the sampler's step.
    """
    generators = [torch.Generator().manual_seed(int(seed) & 0x7FFF_FFFF_FFFF_FFFF) for seed in seeds]
    return torch.stack([torch.randn(shape, generator=g) for g in generators]), generators


def guided_noise(
    unet: UNet2DConditionModel,
    model_input: Tensor,
    timestep: Tensor,
    encoder_hidden_states: Tensor,
    guidance_scale: float,
    **unet_arguments: Any,
) -> Tensor:
    """The noise that the U-Net predicts, with classifier-free guidance when ``guidance_scale`` > 1; (B, C, h, w).

    Args:
        model_input: scaled latents; with guidance (2B, C, h, w), the same latents twice.
        encoder_hidden_states: with guidance (2B, L, D), [negative; positive].
    """
    noise_pred: Tensor = unet(model_input, timestep, encoder_hidden_states, **unet_arguments).sample
    if guidance_scale <= 1.0:
        return noise_pred
    negative, positive = noise_pred.chunk(2)
    return negative + guidance_scale * (positive - negative)


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
    callback: Callback | None = None,
    control: Control | None = None,
) -> Tensor:
    """Denoise unit-Gaussian ``latents`` (B, C, h, w) with classifier-free guidance and any diffusers scheduler.

    Args:
        encoder_hidden_states: (B, L, D) of the prompt.
        negative_hidden_states: (B, L, D) of the negative or empty prompt; may be None when ``guidance_scale`` <= 1,
            where a single evaluation a step suffices.
        callback: called with (index, timestep, latents) after each step; may return latents that replace these.
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
        noise_pred = guided_noise(unet, model_input, timestep, context, guidance_scale, **residuals)
        latents = scheduler.step(noise_pred.to(exact), timestep, latents, **extra).prev_sample.to(exact)
        replaced = callback(index, int(timestep), latents) if callback else None
        latents = latents if replaced is None else replaced.to(latents)
    return latents
