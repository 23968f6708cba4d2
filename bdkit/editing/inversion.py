"""Inversions of a real image: the path of latents from it to noise, so that an edit can start from there.

All follow DDIM (arXiv 2010.02502) backwards; the noise of a step is predicted at its later timestep, as the public
codes do. Any prediction type works: a step of DDIM is linear in the latents and the model's output.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor

from bdkit.editing.attention_control import contiguous_weights
from bdkit.editing.prompt_tokens import encode_prompts
from bdkit.models.latent_diffusion import LatentDiffusion, decode_latents, encode_images, latent_factor
from bdkit.models.preprocessing import as_image, pixels_from_arrays, to_images
from bdkit.sampling import sample
from bdkit.utils.errors import InputError

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(latents (B, C, h, w), timestep, hidden states (B, L, D)) -> the U-Net's output, float32."""


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """What `invert` gives and `prompt_to_prompt` starts from.

    Args:
        latents: (steps + 1, 1, C, h, w) float32, from the image's latents to noise.
        method: one of `METHODS`.
        unconditional: (steps, 1, L, D), by step of an edit, instead of the negative prompt's hidden states.
        reconstruction: what the method makes of the image without an edit.
        unet_calls: evaluations of the U-Net for one image; the reconstruction's own are not counted.
        seconds: that it took, the reconstruction left out.
        scheduler: whose steps were inverted; an edit takes the same.
        source_guidance_scale: guidance of the source's branch in an edit; None: as the targets'.
        losses: null-text: (steps, inner_steps) of the optimisation, NaN where it stopped before.
    """

    latents: Tensor
    method: str
    unconditional: Tensor | None = None
    reconstruction: Image.Image | None = None
    unet_calls: int = 0
    seconds: float = 0.0
    scheduler: Any = None
    source_guidance_scale: float | None = None
    losses: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"unknown inversion {self.method!r}; use {', '.join(METHODS)}")
        if self.latents.dim() != 5 or self.latents.shape[1] != 1 or len(self.latents) < 2:
            raise InputError(
                f"the latents of an inversion have shape {tuple(self.latents.shape)}, not (steps + 1, 1, C, h, w)"
            )
        if self.unconditional is not None and len(self.unconditional) != self.steps:
            raise InputError(
                f"{len(self.unconditional)} unconditional embeddings for {self.steps} steps; give one a step"
            )

    @property
    def steps(self) -> int:
        return len(self.latents) - 1


def ddim_scheduler(scheduler: Any) -> DDIMScheduler:
    """DDIM with the noise schedule and prediction type of another scheduler, and Stable Diffusion's public settings.

    A `DDIMScheduler` keeps its own timesteps. Clipping is switched off: a clipped step has no inverse.
    """
    settings: dict[str, Any] = {"clip_sample": False, "thresholding": False}
    if not isinstance(scheduler, DDIMScheduler):
        settings |= {"steps_offset": 1, "set_alpha_to_one": False, "timestep_spacing": "leading"}
    return DDIMScheduler.from_config(scheduler.config, **settings)


def ddim_coefficients(scheduler: DDIMScheduler, timestep: int) -> tuple[float, float]:
    """(a, b) of a DDIM step without noise: latents before = a latents + b output of the model."""
    before = timestep - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    later = float(scheduler.alphas_cumprod[timestep])
    earlier = float(scheduler.alphas_cumprod[before] if before >= 0 else scheduler.final_alpha_cumprod)
    signal, noise = later**0.5, (1 - later) ** 0.5
    signal_before, noise_before = earlier**0.5, (1 - earlier) ** 0.5
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return signal_before / signal, noise_before - signal_before * noise / signal
    if kind == "v_prediction":
        return signal_before * signal + noise_before * noise, noise_before * signal - signal_before * noise
    if kind == "sample":
        return noise_before / noise, signal_before - noise_before * signal / noise
    raise InputError(f"an inversion needs a model that predicts epsilon, v or the sample, not {kind!r}")


@torch.no_grad()
def ddim_inversion(predict: Predict, scheduler: DDIMScheduler, latents: Tensor, hidden: Tensor) -> Tensor:
    """DDIM backwards without guidance (arXiv 2105.05233, Sec. F); (steps + 1, 1, C, h, w)."""
    path = [latents]
    for timestep in reversed(scheduler.timesteps):
        factor, slope = ddim_coefficients(scheduler, int(timestep))
        path.append((path[-1] - slope * predict(path[-1], timestep, hidden)) / factor)
    return torch.stack(path)


@torch.no_grad()
def fixed_point_inversion(
    predict: Predict,
    scheduler: DDIMScheduler,
    latents: Tensor,
    hidden: Tensor,
    *,
    iterations: int = 10,
    tolerance: float = 1e-4,
) -> Tensor:
    """Solves each step's implicit equation by iteration, averaged over two (AIDI, arXiv 2309.04907, Alg. 1 and Eq. 9).

    Args:
        iterations: at most so many U-Net calls a step.
        tolerance: root mean square of the change that ends a step sooner.
    """
    path = [latents]
    for timestep in reversed(scheduler.timesteps):
        factor, slope = ddim_coefficients(scheduler, int(timestep))
        current, before = path[-1], None
        for _ in range(iterations):
            solved = (path[-1] - slope * predict(current, timestep, hidden)) / factor
            change = float((solved - current).square().mean().sqrt())
            current, before = (solved if before is None else (solved + before) / 2), solved
            if change < tolerance:
                current = solved
                break
        path.append(current)
    return torch.stack(path)


def null_text_optimization(
    predict: Predict,
    scheduler: DDIMScheduler,
    path: Tensor,
    hidden: Tensor,
    unconditional: Tensor,
    *,
    guidance_scale: float = 7.5,
    inner_steps: int = 10,
    early_stop_epsilon: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """Unconditional embeddings that lead guided denoising back along ``path`` (arXiv 2211.09794, Alg. 1).

    Args:
        path: (steps + 1, 1, C, h, w) of `ddim_inversion`.
        hidden, unconditional: (1, L, D) of the source prompt and of the empty one.
        inner_steps: at most so many Adam steps a timestep, learning rate 0.01 (1 - i / 100) at step i.
        early_stop_epsilon: a step i ends once its loss is below this + 2e-5 i.

    Returns:
        Embeddings (steps, 1, L, D) float32, the latents that they lead to (1, C, h, w), losses (steps, inner_steps).
    """
    embedding, latents = unconditional.float(), path[-1]
    found, losses = [], torch.full((len(path) - 1, inner_steps), float("nan"))
    for i, timestep in enumerate(scheduler.timesteps):
        factor, slope = ddim_coefficients(scheduler, int(timestep))
        with torch.no_grad():
            positive = predict(latents, timestep, hidden)

        def step(embedding: Tensor) -> Tensor:
            negative = predict(latents, timestep, embedding.to(hidden.dtype))  # noqa: B023
            return factor * latents + slope * (negative + guidance_scale * (positive - negative))  # noqa: B023

        embedding = embedding.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([embedding], lr=1e-2 * (1 - i / 100))
        for j in range(inner_steps):
            with torch.enable_grad():
                loss = F.mse_loss(step(embedding), path[len(path) - i - 2])
                # half precision would lose gradients this small, and Adam does not mind their scale
                scale = 2.0**14 if hidden.dtype == torch.float16 else 1.0
                embedding.grad = torch.autograd.grad(loss * scale, embedding)[0] / scale
            optimizer.step()
            losses[i, j] = float(loss.detach())
            if losses[i, j] < early_stop_epsilon + i * 2e-5:
                break
        embedding = embedding.detach()
        found.append(embedding)
        with torch.no_grad():
            latents = step(embedding)
    return torch.stack(found), latents, losses


def invert(
    model: LatentDiffusion,
    image: Any,
    prompt: str,
    method: str = "direct",
    num_inference_steps: int = 50,
    *,
    scheduler: Any = None,
    guidance_scale: float = 7.5,
    source_guidance_scale: float | None = None,
    negative_prompt: str = "",
    inner_steps: int = 10,
    early_stop_epsilon: float = 1e-5,
    iterations: int = 10,
    tolerance: float = 1e-4,
    reconstruct: bool = True,
) -> Inversion:
    """Inverts an image for `prompt_to_prompt`.

    Methods: ``direct`` (arXiv 2310.01506; the source's branch is set back to the path in each step of an edit, so it is
    the image itself), ``ddim``, ``negative-prompt`` (arXiv 2305.16807; the source's hidden states serve as the
    unconditional ones), ``null-text`` (arXiv 2211.09794), ``fixed-point`` (arXiv 2309.04907; source without guidance).

    Args:
        image: PIL image, array or tensor (3, H, W), sides multiples of the autoencoder's factor; or latents
            (1, C, h, w), scaled.
        prompt: describes the image.
        scheduler: a `DDIMScheduler`; None: made of the model's by `ddim_scheduler`.
        guidance_scale: of the edit to come; null-text optimises for it.
        source_guidance_scale: see `Inversion`; at most 1 saves the source's negative evaluations.
        negative_prompt: where null-text begins; also for the reconstruction.
        inner_steps, early_stop_epsilon: see `null_text_optimization`.
        iterations, tolerance: see `fixed_point_inversion`.
        reconstruct: whether to make ``reconstruction``, for which some methods denoise once more.
    """
    if method not in METHODS:
        raise InputError(f"unknown inversion {method!r}; use {', '.join(METHODS)}")
    ddim = _fresh_ddim(
        scheduler if scheduler is not None else ddim_scheduler(model.scheduler), num_inference_steps, model
    )
    if min(inner_steps, iterations) < 1:
        raise InputError("inner_steps and iterations must be at least 1")
    with torch.no_grad():
        hidden, negative = encode_prompts(model, [prompt, negative_prompt])[1].split(1)
        latents = _image_latents(model, image)
    calls = 0

    def predict(latents: Tensor, timestep: Tensor, hidden: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        model_input = ddim.scale_model_input(latents, timestep).to(hidden.dtype)
        return model.unet(model_input, timestep, hidden).sample.float()

    begin = time.perf_counter()
    result: dict[str, Any] = {}
    with contiguous_weights(model.unet):
        if method == "fixed-point":
            path = fixed_point_inversion(predict, ddim, latents, hidden, iterations=iterations, tolerance=tolerance)
            source_guidance_scale = 1.0 if source_guidance_scale is None else source_guidance_scale
        else:
            path = ddim_inversion(predict, ddim, latents, hidden)
        end = latents
        if method == "negative-prompt":
            result["unconditional"] = hidden.expand(num_inference_steps, *hidden.shape)
        elif method == "null-text":
            result["unconditional"], end, result["losses"] = null_text_optimization(
                predict,
                ddim,
                path,
                hidden,
                negative,
                guidance_scale=guidance_scale,
                inner_steps=inner_steps,
                early_stop_epsilon=early_stop_epsilon,
            )
    seconds = time.perf_counter() - begin
    inversion = Inversion(
        latents=path,
        method=method,
        unet_calls=calls,
        seconds=seconds,
        scheduler=ddim,
        source_guidance_scale=source_guidance_scale,
        **result,
    )
    if not reconstruct:
        return inversion
    if method in ("ddim", "negative-prompt", "fixed-point"):
        scale = guidance_scale if source_guidance_scale is None else source_guidance_scale
        scale = 1.0 if method == "negative-prompt" else scale  # both halves of the guidance are the same
        with contiguous_weights(model.unet):
            end = sample(
                model.unet,
                ddim,
                path[-1],
                hidden,
                negative,
                guidance_scale=scale,
                num_inference_steps=num_inference_steps,
            )
    with torch.no_grad():
        return replace(inversion, reconstruction=to_images(decode_latents(model.vae, end))[0])


METHODS = ("direct", "ddim", "negative-prompt", "null-text", "fixed-point")


def _fresh_ddim(scheduler: Any, num_inference_steps: int, model: LatentDiffusion) -> DDIMScheduler:
    if not isinstance(scheduler, DDIMScheduler):
        raise InputError(f"an inversion needs a DDIMScheduler, not a {type(scheduler).__name__}")
    most = scheduler.config.num_train_timesteps
    if not 1 <= num_inference_steps <= most:
        raise InputError(f"num_inference_steps is {num_inference_steps}; use 1 to {most}")
    fresh = ddim_scheduler(scheduler)
    fresh.set_timesteps(num_inference_steps, device=model.device)
    return fresh


def _image_latents(model: LatentDiffusion, image: Any) -> Tensor:
    """(1, C, h, w) float32: the mean of the autoencoder's distribution, or latents as given."""
    if isinstance(image, Tensor) and image.dim() == 4:
        expected = (1, model.unet.config.in_channels)
        if tuple(image.shape[:2]) != expected:
            raise InputError(
                f"the latents to invert have shape {tuple(image.shape)} instead of {(*expected, 'h', 'w')}"
            )
        return image.to(model.device, torch.float32)
    picture, factor = as_image(image), latent_factor(model.vae)
    if picture.width % factor or picture.height % factor:
        raise InputError(f"the image is {picture.width} x {picture.height}; its sides must be multiples of {factor}")
    pixels = pixels_from_arrays(np.array(picture)[None]).to(model.device, model.vae.dtype)
    # contiguous: see `contiguous_weights`; here the latents would be off by 5e-3
    return encode_images(model.vae, pixels.contiguous(), mean=True).float()
