"""The assembly of BLIP-Diffusion: encode a subject, compose the prompt, denoise (Sec. 3)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn
from transformers import BertTokenizer, CLIPTokenizer

from bdkit.diffusion import Vae, decode_latents, initial_noise, latent_factor, sample
from bdkit.errors import InputError
from bdkit.models.images import pixels_from_images, to_images
from bdkit.models.multimodal_encoder import MultimodalEncoder
from bdkit.models.subject_text_encoder import SubjectTextEncoder, insert_placeholder_ids


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


class BlipDiffusion(nn.Module):
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
        record: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.vae, self.unet = vae, unet
        self.text_encoder, self.multimodal_encoder = text_encoder, multimodal_encoder
        self.tokenizer, self.qformer_tokenizer = tokenizer, qformer_tokenizer
        self.scheduler, self.defaults = scheduler, defaults
        self.record = record or {}
        self.subject_embeddings: Tensor | None = None
        self.subject_class: str | None = None
        self.source: str = ""
        self.eval()

    @classmethod
    def from_pretrained(cls, path: str | Path) -> BlipDiffusion:
        """Read a model: a folder, or "mini" / "mini-base" for the weights that are shipped with bdkit.

        Raises:
            InputError: no such folder, a part is missing, a file has the wrong hash, or keys do not fit.
        """
        from bdkit.models.checkpoints import load_model

        return load_model(path)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
        """Write the diffusers layout with safetensors; nothing half-written is left when it fails."""
        from bdkit.models.checkpoints import save_model

        return save_model(self, Path(folder), dtype)

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def resolution(self) -> int:
        return self.defaults.resolution

    def encode_subject(self, images: Image.Image | Sequence[Image.Image], subject: str | Sequence[str]) -> Tensor:
        """Subject vectors (B, Q, D) of B pictures, with the category word of each (or one for all); Sec. 3.1.

        Raises:
            InputError: no picture, or as many words as neither one nor the pictures.
        """
        images = [images] if isinstance(images, Image.Image) else list(images)
        words = [subject] * len(images) if isinstance(subject, str) else list(subject)
        if not images:
            raise InputError("no subject picture was given; give at least one")
        if len(words) != len(images):
            raise InputError(f"{len(images)} pictures but {len(words)} category words; give one word, or one a picture")
        size = self.multimodal_encoder.image_size
        pixels = pixels_from_images(images, size, clip=True).to(self.device, self.unet.dtype)
        tokens = self.qformer_tokenizer(words, padding=True, truncation=True, return_tensors="pt").to(self.device)
        with torch.no_grad():
            return self.multimodal_encoder(pixels, tokens.input_ids, tokens.attention_mask)

    def tokenize(
        self, prompts: Sequence[str], class_nouns: Sequence[str] | None, *, with_subject: bool, prompt_reps: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Token ids and the mask of the subject's places, both (B, L); over-long text is cut with one warning.

        Each prompt holds ``{}`` at most once: there go the subject vectors (when ``with_subject``) and the class noun.
        Without class nouns the prompts are taken as they are.
        """
        tokenizer = self.tokenizer
        queries = self.multimodal_encoder.config.num_query_tokens if with_subject else 0
        room = self.text_encoder.max_length - 2 - queries
        rows, masks, lost = [], [], []
        for index, prompt in enumerate(prompts):
            before, after = split_prompt(prompt, class_nouns[index] if class_nouns else None)
            prefix, suffix = (tokenizer(t, add_special_tokens=False).input_ids for t in (before, after))
            lost.append(tokenizer.decode((prefix + suffix)[room:]))  # of the text itself, not of its repetitions
            if prompt_reps > 1:
                after = ", ".join([after] + [f"{before} {after}".strip()] * (prompt_reps - 1))
                suffix = tokenizer(after, add_special_tokens=False).input_ids
            ids, mask, _ = insert_placeholder_ids(
                prefix,
                suffix,
                bos=tokenizer.bos_token_id,
                eos=tokenizer.eos_token_id,
                queries=queries,
                length=self.text_encoder.max_length,
            )
            rows.append(ids)
            masks.append(mask)
        if any(lost):
            named = " and ".join(repr(text) for text in dict.fromkeys(filter(None, lost)))
            warnings.warn(f"the prompt is longer than {room} tokens; this is cut off: {named}", stacklevel=3)
        return torch.tensor(rows), torch.tensor(masks)

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        subject_embeddings: Tensor | None = None,
        class_noun: str | Sequence[str] | None = None,
        *,
        prompt_reps: int | None = None,
    ) -> Tensor:
        """Hidden states (B, L, D) that guide the U-Net.

        Args:
            prompt: templates with one ``{}`` for "<subject vectors> class noun"; without ``{}`` and with a class noun
                it becomes ``a {} <prompt>``, as in the public code.
            subject_embeddings: (B or 1, Q, D); None for plain text.
            class_noun: one for all, or one a prompt; None takes the prompts literally.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        nouns = [class_noun] * len(prompts) if isinstance(class_noun, str) else class_noun
        if nouns is None and subject_embeddings is not None:
            raise InputError("subject vectors need the class noun that follows them")
        reps = self.defaults.prompt_reps if prompt_reps is None else prompt_reps
        if reps < 1:
            raise InputError(f"prompt_reps is {reps}; use at least 1")
        ids, mask = self.tokenize(prompts, nouns, with_subject=subject_embeddings is not None, prompt_reps=reps)
        if subject_embeddings is not None:
            if subject_embeddings.shape[0] not in (1, len(prompts)):
                raise InputError(
                    f"{subject_embeddings.shape[0]} subjects for {len(prompts)} prompts; give 1 or as many"
                )
            subject_embeddings = subject_embeddings.expand(len(prompts), -1, -1).to(self.device)
        with torch.no_grad():
            return self.text_encoder(ids.to(self.device), subject_embeddings, mask.to(self.device))

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        reference_images: Image.Image | Sequence[Image.Image] | None = None,
        source_subject: str | None = None,
        target_subject: str | Sequence[str] | None = None,
        *,
        negative_prompt: str | None = None,
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
        callback: Callable[[int, int, Tensor], None] | None = None,
    ) -> Any:
        """Generate one picture a prompt or seed (Sec. 3, Sec. 4.1); None means the model's own default.

        Args:
            prompt: template(s) with ``{}`` where the subject goes, e.g. ``a {} in the jungle``.
            reference_images: pictures of one subject; their vectors are averaged. With neither these nor
                ``subject_embeddings`` (nor a cached subject) it is plain text-to-image.
            source_subject: category word of the reference pictures.
            target_subject: word that stands in the prompt, by default the source's.
            seeds: one a picture (default 0, 1, ...); picture k depends on seed k alone.
            latents: (B, C, h, w) initial noise instead of the seeds' own.
            output_type: "pil", "np" (B, H, W, 3 in 0..1) or "latent".

        Raises:
            InputError: numbers of prompts, seeds, subjects that do not fit, unknown output type, bad sizes.
        """
        if output_type not in ("pil", "np", "latent"):
            raise InputError(f"output_type {output_type!r} is not known; use 'pil', 'np' or 'latent'")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        embeddings, noun = self._subject(reference_images, source_subject, subject_embeddings)
        target = target_subject if target_subject is not None else noun
        count = max(
            len(prompts), len(seeds) if seeds is not None else 1, latents.shape[0] if latents is not None else 1
        )
        prompts = prompts * count if len(prompts) == 1 else prompts
        nouns = [target] * count if isinstance(target, str) else target
        seeds = list(seeds) if seeds is not None else list(range(count))
        if len(prompts) != count or len(seeds) != count or (nouns is not None and len(nouns) != count):
            raise InputError(
                f"{len(prompts)} prompts, {len(seeds)} seeds and {len(nouns or [])} target subjects do not fit"
            )
        if latents is not None and latents.shape[0] != count:
            raise InputError(f"{latents.shape[0]} initial latents for {count} pictures; give as many")
        factor = latent_factor(self.vae)
        height, width = (self.resolution if side is None else side for side in (height, width))
        if height % factor or width % factor or min(height, width) < 1:
            raise InputError(f"height {height} and width {width} must be multiples of {factor}")
        defaults = self.defaults
        scale = defaults.guidance_scale if guidance_scale is None else guidance_scale
        cond = self.encode_prompt(prompts, embeddings, nouns, prompt_reps=prompt_reps)
        negative = None
        if scale > 1:
            text = defaults.negative_prompt if negative_prompt is None else negative_prompt
            negative = self.encode_prompt(text, prompt_reps=1).expand(count, -1, -1)
        noise, generators = initial_noise(seeds, (self.unet.config.in_channels, height // factor, width // factor))
        result = sample(
            self.unet,
            scheduler or self.scheduler,
            noise if latents is None else latents,
            cond,
            negative,
            guidance_scale=scale,
            num_inference_steps=defaults.num_inference_steps if num_inference_steps is None else num_inference_steps,
            generators=generators,
            callback=callback,
        )
        if output_type == "latent":
            return result
        pictures = to_images(decode_latents(self.vae, result))
        return pictures if output_type == "pil" else np.stack([np.asarray(p) for p in pictures]) / np.float32(255)

    def _subject(self, images: Any, noun: str | None, embeddings: Tensor | None) -> tuple[Tensor | None, str | None]:
        if embeddings is not None:
            return embeddings, noun or self.subject_class
        if images is not None:
            if noun is None:
                raise InputError("reference pictures need source_subject, their category word")
            return self.encode_subject(images, noun).mean(dim=0, keepdim=True), noun
        if self.subject_embeddings is not None:
            return self.subject_embeddings, noun or self.subject_class
        return None, noun

    def settings(self) -> dict[str, Any]:
        """What a run record says of the model."""
        return {"model": self.source, **asdict(self.defaults), "scheduler": type(self.scheduler).__name__}


def split_prompt(prompt: str, class_noun: str | None) -> tuple[str, str]:
    """The text before and after the subject's place; the class noun opens the second part.

    Raises InputError for an empty prompt or more than one ``{}``.
    """
    if class_noun is None:
        if "{}" in prompt:
            raise InputError(f"the prompt {prompt!r} has a place for a subject, but no subject was given")
        return prompt, ""
    if prompt.count("{}") > 1:
        raise InputError(f"the prompt {prompt!r} has {prompt.count('{}')} places for a subject; use one {{}}")
    template = prompt if "{}" in prompt else f"a {{}} {prompt}".strip()
    before, after = template.split("{}")
    return before.strip(), f"{class_noun} {after.strip()}".strip()
