"""Latent diffusion: a text encoder, a U-Net and an autoencoder (arXiv 2112.10752); Stable Diffusion v1 is one."""

import importlib
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, Self, TypeAlias

import torch
from accelerate import cpu_offload_with_hook
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn
from transformers import CLIPTokenizer

from bdkit.models.configs import GenerationDefaults
from bdkit.models.preprocessing import to_images, to_unit
from bdkit.models.prompts import Lost, one_each, text_list, tokenize, warn_of_lost
from bdkit.models.speed import compile_once
from bdkit.models.text_encoder import SubjectTextEncoder
from bdkit.sampling import Callback, Control, check_guidance, initial_noise, make_scheduler, sample, with_timesteps
from bdkit.utils.env import shared_draw
from bdkit.utils.errors import InputError
from bdkit.utils.progress import progress_bar

Vae: TypeAlias = AutoencoderKL | AutoencoderTiny

MAX_SIDE = 8192  # pixels
OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def encode_images(vae: Vae, pixels: Tensor, generator: torch.Generator | None = None, *, mean: bool = False) -> Tensor:
    """Pixels in -1..1, (B, 3, H, W), to scaled latents (B, C, H/f, W/f).

    The one place that knows a deterministic autoencoder (``latents``) from a variational one (``latent_dist``), which
    is sampled unless ``mean``.
    """
    encoded = vae.encode(pixels)
    if hasattr(encoded, "latents"):
        raw = encoded.latents
    else:
        raw = encoded.latent_dist.mode() if mean else _sampled(encoded.latent_dist, generator)
    return (raw - _shift(vae)) * vae.config.scaling_factor


def _sampled(distribution: Any, generator: torch.Generator | None) -> Tensor:
    """``distribution.sample(generator)``; of several processes each draws for its part of the batch."""
    mean = distribution.mean
    options = {"generator": generator, "device": mean.device, "dtype": mean.dtype}
    noise = shared_draw(lambda rows: randn_tensor((rows, *mean.shape[1:]), **options), len(mean))
    return mean + distribution.std * noise


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


class ResidualControl(Protocol):
    """What steers a generation from outside, such as `bdkit.editing.structure_control.StructureControl`."""

    def residuals(self, unet: UNet2DConditionModel, count: int, height: int, width: int, factor: int) -> Control:
        """What `bdkit.sampling.sample` takes as ``control``, for ``count`` images of height x width pixels."""


def checkpoint_module(name: str) -> ModuleType:
    """A module of `bdkit.checkpoints`, which is above this package: imported only when a model is read or written."""
    return importlib.import_module(f"bdkit.checkpoints.{name}")


class LatentDiffusion(nn.Module):
    """Plain text-to-image: VAE, U-Net, text encoder, tokenizer and scheduler.

    Attributes:
        source: the folder, name or hub id it was read from, "" for a model made in memory.
        read_with: what else it was read from: "base" and "qformer_tokenizer", where they were given.
        record: what its folder's record says, such as how it was fine-tuned.
    """

    def __init__(
        self,
        *,
        vae: Vae,
        unet: UNet2DConditionModel,
        text_encoder: SubjectTextEncoder,
        tokenizer: CLIPTokenizer,
        scheduler: Any,
        defaults: GenerationDefaults,
        record: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.vae, self.unet, self.text_encoder = vae, unet, text_encoder
        self.tokenizer, self.scheduler, self.defaults = tokenizer, scheduler, defaults
        self.record = record or {}
        self.source: str = ""
        self.read_with: dict[str, str] = {}
        self.compiled = False  # see `bdkit.models.speed`
        self._offload_device: torch.device | None = None
        self._offload_hooks: list[Any] = []
        self.eval()

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, local_files_only: bool = False, dtype: torch.dtype = torch.float32
    ) -> Self:
        """Reads a plain Stable Diffusion v1 in diffusers' format; the safety checker, where there is one, is not read.

        Args:
            path: a folder or a hub id.
            local_files_only: never ask the hub.
            dtype: of the weights in memory.
        """
        load = checkpoint_module("load")
        model: Self = load.load_stable_diffusion(path, load.LoadOptions(local_files_only=local_files_only, dtype=dtype))
        return model

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
        """Writes diffusers' format with safetensors; nothing half-written is left when it fails."""
        saved: Path = checkpoint_module("save").save_model(self, Path(folder), dtype)
        return saved

    @property
    def device(self) -> torch.device:
        """Where it computes; with offloading, where the part at work is."""
        return self._offload_device or self.unet.device

    @property
    def resolution(self) -> int:
        return self.defaults.resolution

    def settings(self) -> dict[str, Any]:
        """What a run record says of the model."""
        return {"model": self.source, **asdict(self.defaults), "scheduler": type(self.scheduler).__name__}

    def enable_cpu_offload(self, device: str | torch.device = "cuda:0") -> None:
        """Keeps every part on the CPU but the one at work: less GPU memory, a little slower. For generation only."""
        self._offload_device = torch.device(device)
        for part in self._parts_in_turn():
            previous = self._offload_hooks[-1] if self._offload_hooks else None
            _, hook = cpu_offload_with_hook(part, self._offload_device, prev_module_hook=previous)
            self._offload_hooks.append(hook)

    def _parts_in_turn(self) -> list[nn.Module]:
        """The parts in the order in which a generation calls them."""
        return [self.text_encoder, self.unet, self.vae]

    def tokenize(
        self, prompts: Sequence[str], class_nouns: Sequence[str] | None = None, *, prompt_reps: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Token ids and the mask of the subject vectors' places, both (B, L); over-long text is cut with one warning.

        Each prompt holds ``{}`` at most once, for the class noun. Without class nouns the prompts are taken literally.
        """
        ids, mask, lost = self._tokenize(prompts, class_nouns, prompt_reps)
        warn_of_lost(lost)
        return ids, mask

    def _tokenize(
        self, prompts: Sequence[str], class_nouns: Sequence[str] | None, prompt_reps: int, **options: Any
    ) -> tuple[Tensor, Tensor, Lost]:
        length = self.text_encoder.max_length
        return tokenize(self.tokenizer, prompts, class_nouns, length, prompt_reps=prompt_reps, **options)

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        *,
        class_noun: str | Sequence[str] | None = None,
        prompt_reps: int | None = None,
    ) -> Tensor:
        """Hidden states (B, L, D) that guide the U-Net.

        Args:
            prompt: templates with one ``{}`` for the class noun; without ``{}`` and with a class noun it becomes
                ``a {} <prompt>``, as in the public code.
            class_noun: one for all, or one a prompt; None takes the prompts literally.
        """
        hidden, lost = self._encode_prompt(prompt, class_noun, prompt_reps)
        warn_of_lost(lost)
        return hidden

    def _encode_prompt(
        self,
        prompt: str | Sequence[str],
        class_noun: str | Sequence[str] | None,
        prompt_reps: int | None,
        subject_embeddings: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, Lost]:
        """Hidden states, and the texts that were cut off; ``options`` as `tokenize` takes it."""
        subjects = 1 if subject_embeddings is None else subject_embeddings.shape[0]
        prompts = [prompt] * subjects if isinstance(prompt, str) else list(prompt)
        nouns = [class_noun] * len(prompts) if isinstance(class_noun, str) else class_noun
        if nouns is not None and len(nouns) != len(prompts):
            raise InputError(f"{len(nouns)} class nouns for {len(prompts)} prompts; give 1 or as many")
        reps = self.defaults.prompt_reps if prompt_reps is None else prompt_reps
        if reps < 1:
            raise InputError(f"prompt_reps is {reps}; use at least 1")
        if subject_embeddings is not None:
            options["queries"] = subject_embeddings.shape[1]
        ids, mask, lost = self._tokenize(prompts, nouns, reps, **options)
        if subject_embeddings is not None:
            if subjects not in (1, len(prompts)):
                raise InputError(f"{subjects} subjects for {len(prompts)} prompts; give 1 or as many")
            subject_embeddings = subject_embeddings.expand(len(prompts), -1, -1).to(self.device)
        with torch.no_grad():
            return self.text_encoder(ids.to(self.device), subject_embeddings, mask.to(self.device)), lost

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        target_subject: str | Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        latents: Tensor | None = None,
        prompt_reps: int | None = None,
        **drawing: Any,
    ) -> Any:
        """Generates one image a prompt or seed; None means the model's own default.

        Args:
            prompt: text, or a template with ``{}`` where ``target_subject`` goes.
            drawing: further arguments of `draw`.
        """
        prompts, nouns, seeds = one_each(prompt, target_subject, seeds, latents)
        hidden, lost = self._encode_prompt(prompts, nouns, prompt_reps)
        return self.draw(hidden, seeds, latents, lost=lost, **drawing)

    @torch.no_grad()
    def draw(
        self,
        encoder_hidden_states: Tensor,
        seeds: Sequence[int],
        latents: Tensor | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        height: int | None = None,
        width: int | None = None,
        scheduler: Any = None,
        output_type: str = "pil",
        callback: Callback | None = None,
        progress: bool = False,
        control: ResidualControl | None = None,
        lost: Lost | None = None,
    ) -> Any:
        """Images of encoded prompts; None means the model's own default.

        Args:
            encoder_hidden_states: (B, L, D), as `encode_prompt` gives them.
            seeds: one an image; image k depends on seed k alone.
            latents: (B, C, h, w) initial noise instead of the seeds' own.
            scheduler: name of a sampler (`bdkit.sampling.SAMPLERS`), or a diffusers scheduler of such a class.
            output_type: "pil", "np" (B, H, W, 3 float32 in 0..1), "pt" (B, 3, H, W, likewise) or "latent".
            callback: called with (index, timestep, latents) after each step; may return latents that replace these.
            progress: show a bar of the steps.
            control: ControlNets and the structure they keep (Sec. 4.2).
            lost: texts that were cut off already, for the one warning about all of them.
        """
        if output_type not in OUTPUT_TYPES:
            raise InputError(f"output_type {output_type!r} is not known; use 'pil', 'np', 'pt' or 'latent'")
        count, factor = len(encoder_hidden_states), latent_factor(self.vae)
        height, width = self.size(height, width, latents, count)
        scheduler = make_scheduler(scheduler, self.scheduler)
        defaults, lost = self.defaults, lost or {}
        scale = defaults.guidance_scale if guidance_scale is None else guidance_scale
        steps = defaults.num_inference_steps if num_inference_steps is None else num_inference_steps
        check_guidance(scale)
        negative = None
        if scale <= 1 and negative_prompt:
            warnings.warn(f"guidance_scale {scale} is no guidance, so the negative prompt does nothing", stacklevel=3)
        if scale > 1:
            texts = defaults.negative_prompt if negative_prompt is None else negative_prompt
            texts = text_list(texts, "a negative prompt")
            if len(texts) not in (1, count):
                raise InputError(f"{len(texts)} negative prompts for {count} images; give 1 or as many")
            negative, more = self._encode_prompt(texts, None, 1, what="the negative prompt")
            negative, lost = negative.expand(count, -1, -1), {**lost, **more}
        warn_of_lost(lost)
        if self.compiled:
            compile_once(self.unet, self.vae.decoder)
        noise, generators = initial_noise(seeds, (self.unet.config.in_channels, height // factor, width // factor))
        with progress_bar(total=len(with_timesteps(scheduler, steps).timesteps), unit=" steps", show=progress) as bar:

            def after_step(index: int, timestep: int, now: Tensor) -> Tensor | None:
                bar.update()
                return callback(index, timestep, now) if callback else None

            result = sample(
                self.unet,
                scheduler,
                noise if latents is None else latents,
                encoder_hidden_states,
                negative,
                guidance_scale=scale,
                num_inference_steps=steps,
                generators=generators,
                callback=after_step,
                control=None if control is None else control.residuals(self.unet, count, height, width, factor),
            )
        if output_type != "latent":
            result = self.decode(result, output_type)
        for hook in self._offload_hooks:
            hook.offload()
        return result

    def decode(self, latents: Tensor, output_type: str) -> Any:
        """Images of scaled latents (B, C, h, w), as an output type but "latent" of `draw` says."""
        pixels = decode_latents(self.vae, latents)
        if output_type == "pil":
            return to_images(pixels)
        unit = to_unit(pixels)
        return unit if output_type == "pt" else unit.permute(0, 2, 3, 1).cpu().numpy()

    def size(
        self, height: int | None, width: int | None, latents: Tensor | None = None, count: int = 1
    ) -> tuple[int, int]:
        """Height and width in pixels of ``count`` images: as given, of the initial latents, or the model's own."""
        factor = latent_factor(self.vae)
        fallback = [self.resolution] * 2 if latents is None else [side * factor for side in latents.shape[-2:]]
        height, width = (fallback[k] if side is None else side for k, side in enumerate((height, width)))
        if not isinstance(height, int) or not isinstance(width, int):
            raise InputError(f"height {height!r} and width {width!r} must be whole numbers of pixels")
        if height % factor or width % factor or not 1 <= min(height, width) <= max(height, width) <= MAX_SIDE:
            raise InputError(
                f"height {height} and width {width} must be multiples of {factor}, from {factor} to {MAX_SIDE}"
            )
        if latents is not None:
            if latents.shape[0] != count:
                raise InputError(f"{latents.shape[0]} initial latents for {count} images; give as many")
            expected = (count, self.unet.config.in_channels, height // factor, width // factor)
            if tuple(latents.shape) != expected:
                raise InputError(f"the initial latents have shape {tuple(latents.shape)} instead of {expected}")
        return height, width
