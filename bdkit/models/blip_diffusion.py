"""The assembly of BLIP-Diffusion: encode a subject, compose the prompt, denoise (Sec. 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from tqdm import tqdm
from transformers import BertTokenizer, CLIPTokenizer

from bdkit.models.conditioning import SubjectConditioning, check_noun
from bdkit.models.conventions import Conventions
from bdkit.models.latent_diffusion import Vae, decode_latents, latent_factor
from bdkit.models.multimodal_encoder import MultimodalEncoder
from bdkit.models.offload import offload_in_turn
from bdkit.models.options import LoadOptions
from bdkit.models.preprocessing import to_images, to_unit
from bdkit.models.prompts import warn_of_lost
from bdkit.models.subjects import group_subjects, mean_subjects
from bdkit.models.text_encoder import SubjectTextEncoder
from bdkit.sampling import Callback, initial_noise, sample
from bdkit.utils.errors import InputError

if TYPE_CHECKING:
    from bdkit.editing.structure_control import StructureControl

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass(frozen=True, kw_only=True)
class GenerationDefaults:
    """What a model was made for; any call can override each of them.

    Args:
        resolution: pixels along a side.
        prompt_reps: how often the text is repeated ("a hacky way to amplify the prompt strength" of the public code).
    """

    resolution: int = 512
    guidance_scale: float = 7.5
    num_inference_steps: int = 50
    prompt_reps: int = 1
    negative_prompt: str = ""


class BlipDiffusion(SubjectConditioning):
    """VAE, U-Net, subject text encoder, multimodal encoder, tokenizers and scheduler in one.

    ``subject_embeddings`` (1, Q, D) and ``subject_class`` hold the cached subject of a fine-tuned model, else None.
    """

    def __init__(
        self,
        *,
        vae: Vae,
        unet: UNet2DConditionModel,
        text_encoder: SubjectTextEncoder,
        multimodal_encoder: MultimodalEncoder,
        tokenizer: CLIPTokenizer,
        qformer_tokenizer: BertTokenizer,
        scheduler: Any,
        defaults: GenerationDefaults,
        conventions: Conventions | None = None,
        record: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.vae, self.unet = vae, unet
        self.text_encoder, self.multimodal_encoder = text_encoder, multimodal_encoder
        self.tokenizer, self.qformer_tokenizer = tokenizer, qformer_tokenizer
        self.scheduler, self.defaults = scheduler, defaults
        self.conventions = conventions or Conventions()
        self.record = record or {}
        self.subject_embeddings: Tensor | None = None
        self.subject_class: str | None = None
        self.source: str = ""
        self.options = LoadOptions()
        self._offload_device: torch.device | None = None
        self._offload_hooks: list[Any] = []
        self.eval()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        qformer_tokenizer: str | Path | None = None,
        base: str | Path | None = None,
        local_files_only: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> BlipDiffusion:
        """Read a model, in bdkit's layout, the public diffusers layout or LAVIS's (a folder or its tar).

        Args:
            path: a folder; "mini" / "mini-base" for the weights that are shipped with bdkit; or a hub id such as
                "salesforce/blipdiffusion", of which only what is needed is fetched. Offline its cached copy is used.
            qformer_tokenizer: folder of a BERT tokenizer (bert-base-uncased), which the public layouts lack; by default
                the one beside the weights, else that of the hub's cache.
            base: a Stable Diffusion 1.5 folder: tokenizer, scheduler and configs for a LAVIS checkpoint; and a warning
                when the U-Net or text encoder are its very own, though stage 2 trains them.
            local_files_only: never ask the hub.
            dtype: of the weights in memory.

        Raises:
            InputError: no such folder, a part is missing or damaged, a file has the wrong hash or holds more than
                tensors, or keys are missing or unexpected.
        """
        from bdkit.checkpoints.load import load_model

        return load_model(
            path,
            LoadOptions(qformer_tokenizer=qformer_tokenizer, base=base, local_files_only=local_files_only, dtype=dtype),
        )

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
        """Write the diffusers layout with safetensors; nothing half-written is left when it fails."""
        from bdkit.checkpoints.load import save_model

        return save_model(self, Path(folder), dtype)

    @property
    def device(self) -> torch.device:
        """Where it computes; with offloading, where the part at work is."""
        return self._offload_device or self.unet.device

    @property
    def resolution(self) -> int:
        return self.defaults.resolution

    def enable_cpu_offload(self, device: str | torch.device = "cuda:0") -> None:
        """Keep every part on the CPU but the one at work: less GPU memory, a little slower. For generation only."""
        parts = [self.multimodal_encoder, self.text_encoder, self.unet, self.vae]
        self._offload_device = torch.device(device)
        self._offload_hooks = offload_in_turn([part for part in parts if part is not None], self._offload_device)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        reference_images: Any = None,
        source_subject: str | Sequence[str] | None = None,
        target_subject: str | Sequence[str] | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        height: int | None = None,
        width: int | None = None,
        seeds: Sequence[int] | None = None,
        latents: Tensor | None = None,
        prompt_reps: int | None = None,
        scheduler: Any = None,
        output_type: str = "pil",
        subject_embeddings: Tensor | None = None,
        reference_weights: Sequence[Any] | None = None,
        template: str | None = None,
        callback: Callback | None = None,
        progress: bool = False,
        control: StructureControl | None = None,
    ) -> Any:
        """Generate one image a prompt, subject or seed (Sec. 3, Sec. 4.1); None means the model's own default.

        Args:
            prompt: template(s) with ``{}`` where the subject goes, e.g. ``a {} in the jungle``.
            reference_images: images of one subject; their vectors are averaged. Of n subjects: with n words in
                ``source_subject`` a list of n images (or of n lists). With neither these nor
                ``subject_embeddings`` (nor a cached subject) it is plain text-to-image.
            source_subject: category word of the reference images.
            target_subject: word that stands in the prompt, by default the source's.
            seeds: one an image (default 0, 1, ...); image k depends on seed k alone.
            latents: (B, C, h, w) initial noise instead of the seeds' own.
            scheduler: any diffusers scheduler.
            output_type: "pil", "np" (B, H, W, 3 float32 in 0..1), "pt" (B, 3, H, W, likewise) or "latent".
            reference_weights: how much each reference image counts in the mean.
            template: where the subject vectors go, "place", "public" or "paper"; see `encode_prompt`.
            callback: called with (index, timestep, latents) after each step; may return latents that replace these.
            progress: show a bar of the steps.
            control: ControlNets and the structure they keep (Sec. 4.2).

        Raises:
            InputError: numbers of prompts, seeds, subjects that do not fit, unknown output type, bad sizes.
        """
        if output_type not in OUTPUT_TYPES:
            raise InputError(f"output_type {output_type!r} is not known; use 'pil', 'np', 'pt' or 'latent'")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        embeddings, noun = self._subject(reference_images, source_subject, subject_embeddings, reference_weights)
        target = target_subject if target_subject is not None else noun
        nouns = [target] if isinstance(target, str) else None if target is None else list(target)
        wanted = [len(part) for part in (prompts, seeds, latents, nouns, embeddings) if part is not None]
        count = max([1, *wanted])
        prompts = prompts * count if len(prompts) == 1 else prompts
        nouns = nouns * count if nouns is not None and len(nouns) == 1 else nouns
        seeds = list(seeds) if seeds is not None else list(range(count))
        if len(prompts) != count or len(seeds) != count or (nouns is not None and len(nouns) != count):
            raise InputError(
                f"{len(prompts)} prompts, {len(seeds)} seeds and {len(nouns or [])} target subjects do not fit"
            )
        factor = latent_factor(self.vae)
        height, width = self._size(height, width, latents, count, factor)
        defaults = self.defaults
        scale = defaults.guidance_scale if guidance_scale is None else guidance_scale
        steps = defaults.num_inference_steps if num_inference_steps is None else num_inference_steps
        check_noun(embeddings, nouns)
        cond, lost = self._encode_prompt(prompts, embeddings, nouns, prompt_reps, template)
        negative = None
        if scale > 1:
            texts = defaults.negative_prompt if negative_prompt is None else negative_prompt
            texts = [texts] if isinstance(texts, str) else list(texts)
            if len(texts) not in (1, count):
                raise InputError(f"{len(texts)} negative prompts for {count} images; give 1 or as many")
            negative, more = self._encode_prompt(texts, None, None, 1, None, "the negative prompt")
            negative, lost = negative.expand(count, -1, -1), {**lost, **more}
        warn_of_lost(lost)
        noise, generators = initial_noise(seeds, (self.unet.config.in_channels, height // factor, width // factor))
        scheduler = scheduler or self.scheduler
        with tqdm(total=_evaluations(scheduler, steps), unit=" steps", disable=not progress) as bar:

            def after_step(index: int, timestep: int, now: Tensor) -> Tensor | None:
                bar.update()
                return callback(index, timestep, now) if callback else None

            result = sample(
                self.unet,
                scheduler,
                noise if latents is None else latents,
                cond,
                negative,
                guidance_scale=scale,
                num_inference_steps=steps,
                generators=generators,
                callback=after_step,
                control=None if control is None else control.residuals(self.unet, count, height, width, factor),
            )
        if output_type != "latent":
            result = self._pictures(result, output_type)
        for hook in self._offload_hooks:
            hook.offload()
        return result

    def _pictures(self, latents: Tensor, output_type: str) -> Any:
        pixels = decode_latents(self.vae, latents)
        if output_type == "pil":
            return to_images(pixels)
        unit = to_unit(pixels)
        return unit if output_type == "pt" else unit.permute(0, 2, 3, 1).cpu().numpy()

    def _size(
        self, height: int | None, width: int | None, latents: Tensor | None, count: int, factor: int
    ) -> tuple[int, int]:
        """Height and width in pixels: as given, those of the initial latents, or the model's own."""
        fallback = [self.resolution] * 2 if latents is None else [side * factor for side in latents.shape[-2:]]
        height, width = (fallback[k] if side is None else side for k, side in enumerate((height, width)))
        if height % factor or width % factor or min(height, width) < 1:
            raise InputError(f"height {height} and width {width} must be multiples of {factor}")
        if latents is not None:
            if latents.shape[0] != count:
                raise InputError(f"{latents.shape[0]} initial latents for {count} images; give as many")
            expected = (count, self.unet.config.in_channels, height // factor, width // factor)
            if tuple(latents.shape) != expected:
                raise InputError(f"the initial latents have shape {tuple(latents.shape)} instead of {expected}")
        return height, width

    def _subject(
        self,
        images: Any,
        noun: str | Sequence[str] | None,
        embeddings: Tensor | None,
        weights: Sequence[Any] | None,
    ) -> tuple[Tensor | None, str | list[str] | None]:
        """The subjects' vectors and their words."""
        words = noun if noun is None or isinstance(noun, str) else list(noun)
        if embeddings is not None:
            return embeddings, words or self.subject_class
        if images is not None:
            if noun is None:
                raise InputError("reference images need source_subject, their category word")
            return mean_subjects(self, group_subjects(images, noun, weights)), words
        if self.subject_embeddings is not None:
            return self.subject_embeddings, words or self.subject_class
        return None, words

    def settings(self) -> dict[str, Any]:
        """What a run record says of the model."""
        return {"model": self.source, **asdict(self.defaults), "scheduler": type(self.scheduler).__name__}


def _evaluations(scheduler: Any, num_inference_steps: int) -> int | None:
    """How often the U-Net is run; some schedulers take more than a step at a time. None for a number that is wrong."""
    if not 1 <= num_inference_steps <= scheduler.config.num_train_timesteps:
        return None
    fresh = type(scheduler).from_config(scheduler.config)
    fresh.set_timesteps(num_inference_steps)
    return len(fresh.timesteps)
