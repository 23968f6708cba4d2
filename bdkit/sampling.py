"""Samplers by name, initial noise, one guided U-Net evaluation, the loop; nothing here knows about subjects."""

import inspect
import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, TypeAlias

import diffusers
import torch
from diffusers import PNDMScheduler, UNet2DConditionModel
from torch import Tensor

from bdkit.utils.errors import InputError

Control: TypeAlias = Callable[[int, int, Tensor, Tensor, Tensor], dict[str, Any]]
"""(index of the step, number of steps, model input, timestep, context) -> further arguments of the U-Net."""

Callback: TypeAlias = Callable[[int, int, Tensor], Tensor | None]
"""(index of the step, timestep, latents after it) -> latents that replace the step's, or None."""


# The samplers that fit a latent diffusion, and what they need said: diffusers' own defaults are for pixels in -1..1
# (clip_sample) or of another lineage, and a scheduler's file says only what its own class knows. Left out on purpose:
# flow matching, EDM, discrete diffusion, ...Inverse (they add noise), and DPMSolverSDE, whose noise does not come from
# an image's own generator.
SAMPLERS: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {"clip_sample": False, "set_alpha_to_one": False, "timestep_spacing": "leading"},
    "DDPMScheduler": {"clip_sample": False, "variance_type": "fixed_small", "timestep_spacing": "leading"},
    "PNDMScheduler": {"skip_prk_steps": True, "set_alpha_to_one": False, "timestep_spacing": "leading"},
    "LMSDiscreteScheduler": {},
    "EulerDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "HeunDiscreteScheduler": {},
    "KDPM2DiscreteScheduler": {},
    "KDPM2AncestralDiscreteScheduler": {},
    "DPMSolverMultistepScheduler": {"algorithm_type": "dpmsolver++", "final_sigmas_type": "zero"},
    "DPMSolverSinglestepScheduler": {"algorithm_type": "dpmsolver++", "lower_order_final": True},
    "DEISMultistepScheduler": {"algorithm_type": "deis", "solver_type": "logrho"},
    "UniPCMultistepScheduler": {"solver_type": "bh2"},
    "SASolverScheduler": {"algorithm_type": "data_prediction"},
}
DISTILLED: dict[str, dict[str, Any]] = {"LCMScheduler": {}, "TCDScheduler": {}}
"""Those of models distilled for them alone: a model may have one as its own, a caller may give an instance."""
STEPS_OFFSET = 1  # Stable Diffusion's, where the model's own file does not say
NOISE_FIELDS = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr"),
    "prediction_type",
)
"""What the model was trained with: every sampler of it shares these."""


def make_scheduler(sampler: Any, own: Any) -> Any:
    """The diffusers scheduler that is asked for; the one place where the command, methods and models look it up.

    What neither the caller nor the model says takes the value of `SAMPLERS`, not the class's default.

    Args:
        sampler: a name in `SAMPLERS`; an instance of such a class, or of a `DISTILLED` one, whose stated values stay;
            None: the model's own.
        own: the model's own scheduler. Its noise schedule and kind of prediction hold for the others, too.
    """
    if sampler is None or sampler is own or sampler == type(own).__name__:
        return own
    named = isinstance(sampler, str)
    names = [sampler] if named else [base.__name__ for base in type(sampler).__mro__]
    table = SAMPLERS if named else SAMPLERS | DISTILLED
    name = next((name for name in names if name in table), None)
    if name is None:
        raise InputError(f"no scheduler {names[0]!r} for this kind of model; use {', '.join(SAMPLERS)}")
    known = inspect.signature(getattr(diffusers, name).__init__).parameters
    if own.config.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in known:
        raise InputError(f"{name} cannot start from the pure noise that this model needs; use DDIMScheduler")
    values = table[name] | {field: own.config[field] for field in NOISE_FIELDS if field in own.config}
    if named:
        stated = _stated(own.config)
        values = values | {"steps_offset": stated.get("steps_offset", STEPS_OFFSET)}
        if stated.get("timestep_spacing") == "trailing":
            values["timestep_spacing"] = "trailing"
        return getattr(diffusers, name)(**{field: value for field, value in values.items() if field in known})
    stated = _stated(sampler.config)
    unsaid = {field: value for field, value in values.items() if field in known and field not in stated}
    return type(sampler).from_config(sampler.config, **unsaid) if unsaid else sampler


def _stated(config: Any) -> dict[str, Any]:
    """What a scheduler's configuration says, without what its class took for granted."""
    taken = config.get("_use_default_values", ())
    return {field: value for field, value in config.items() if field[0] != "_" and field not in taken}


def with_timesteps(scheduler: Any, num_inference_steps: int, device: torch.device | None = None) -> Any:
    """A copy of ``scheduler`` without the state of an earlier call, its timesteps set."""
    name, most = type(scheduler).__name__, scheduler.config.num_train_timesteps
    if not isinstance(num_inference_steps, Integral) or not 1 <= num_inference_steps <= most:
        raise InputError(f"num_inference_steps is {num_inference_steps}; use 1 to {most}")
    if isinstance(scheduler, PNDMScheduler) and not scheduler.config.skip_prk_steps and num_inference_steps < 4:
        raise InputError(
            f"num_inference_steps is {num_inference_steps}; {name} without skip_prk_steps needs at least 4"
        )
    fresh = type(scheduler).from_config(scheduler.config)
    try:
        fresh.set_timesteps(num_inference_steps, device=device)
    except (ValueError, IndexError) as error:
        line = " ".join(str(error).split())
        raise InputError(f"{name} cannot take {num_inference_steps} steps: {line}; use another number") from None
    sigmas = getattr(fresh, "sigmas", None)
    twice = fresh.order == 1 and sigmas is not None and bool((sigmas.diff() == 0).any())  # a step of no length: 0 / 0
    if twice or float(fresh.timesteps.max()) > most - 1:  # an offset pushes the first one out of the schedule
        raise InputError(f"num_inference_steps is {num_inference_steps}; {name} takes at most {most - 1} here")
    if sigmas is not None and float(fresh.timesteps[0]) < most / 2:  # all of the noise would be left in
        raise InputError(f"num_inference_steps is {num_inference_steps}; {name} needs at least 2")
    return fresh


def check_guidance(guidance_scale: float) -> None:
    """Refuses what is no strength of guidance."""
    if not isinstance(guidance_scale, Real) or not 0 <= guidance_scale < math.inf:
        raise InputError(f"guidance_scale is {guidance_scale}; use a number of at least 0 (up to 1: no guidance)")


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
    check_guidance(guidance_scale)
    guided = guidance_scale > 1.0
    context = encoder_hidden_states
    if guided:
        if negative_hidden_states is None:
            raise InputError("guidance_scale > 1 needs the hidden states of the negative (or empty) prompt")
        context = torch.cat([negative_hidden_states, encoder_hidden_states])
    device, dtype = encoder_hidden_states.device, encoder_hidden_states.dtype
    scheduler = with_timesteps(scheduler, num_inference_steps, device)
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
    if not torch.isfinite(latents).all():
        raise InputError(
            f"the latents are not finite after {num_inference_steps} steps with guidance_scale {guidance_scale}; use "
            "less guidance, or weights in float32"
        )
    return latents
