"""BLIP-Diffusion: encode a subject, compose the prompt, denoise (Sec. 3)."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch import Tensor, nn
from transformers import BertTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from bdkit.models.configs import ModelConfig
from bdkit.models.latent_diffusion import LatentDiffusion, checkpoint_module
from bdkit.models.multimodal_encoder import MultimodalEncoder
from bdkit.models.preprocessing import AnyImage, image_list
from bdkit.models.prompts import Conventions, Lost, check_words, find_template, one_each, text_list, warn_of_lost
from bdkit.models.subjects import Subject, group_subjects
from bdkit.models.text_encoder import SubjectTextEncoder
from bdkit.utils.errors import InputError


class BlipDiffusion(LatentDiffusion):
    """A latent diffusion whose prompts may hold subjects: vectors that the multimodal encoder makes of their images.

    ``subject_embeddings`` (1, Q, D) and ``subject_class`` hold the cached subject of a fine-tuned model, else None.
    """

    def __init__(
        self,
        *,
        multimodal_encoder: MultimodalEncoder,
        qformer_tokenizer: BertTokenizer,
        conventions: Conventions | None = None,
        **parts: Any,
    ) -> None:
        """``parts`` are those of `LatentDiffusion`."""
        super().__init__(**parts)
        self.multimodal_encoder, self.qformer_tokenizer = multimodal_encoder.eval(), qformer_tokenizer
        self.conventions = conventions or Conventions()
        self.subject_embeddings: Tensor | None = None
        self.subject_class: str | None = None

    @classmethod
    def from_config(
        cls,
        config: ModelConfig,
        tokenizer: CLIPTokenizer,
        qformer_tokenizer: BertTokenizer,
        scheduler: Any,
        *,
        conventions: Conventions | None = None,
        record: dict[str, Any] | None = None,
    ) -> Self:
        """A model of random weights; what the vocabularies' sizes and special tokens are, its tokenizers know."""
        kind = AutoencoderTiny if "encoder_block_out_channels" in config.vae else AutoencoderKL
        special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        words = {"vocab_size": len(qformer_tokenizer), "pad_token_id": qformer_tokenizer.pad_token_id}
        multimodal = replace(config.multimodal, qformer={**words, **config.multimodal.qformer})
        return cls(
            vae=kind(**config.vae),
            unet=UNet2DConditionModel(**config.unet),
            text_encoder=SubjectTextEncoder(
                CLIPTextModel(CLIPTextConfig(**{"vocab_size": len(tokenizer), **special, **config.text_encoder}))
            ),
            multimodal_encoder=MultimodalEncoder(multimodal),
            tokenizer=tokenizer,
            qformer_tokenizer=qformer_tokenizer,
            scheduler=scheduler,
            defaults=config.defaults,
            conventions=conventions,
            record=record,
        )

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        qformer_tokenizer: str | Path | None = None,
        base: str | Path | None = None,
        local_files_only: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Reads a model in bdkit's format, the public diffusers format or LAVIS's (a folder or its tar).

        Args:
            path: a folder; "mini" / "mini-base" for the weights that are shipped with bdkit; or a hub id such as
                "salesforce/blipdiffusion", of which only what is needed is fetched. Offline its cached copy is used.
            qformer_tokenizer: folder of a BERT tokenizer (bert-base-uncased), which the public formats lack; by default
                the one beside the weights, else that of the hub's cache.
            base: a Stable Diffusion 1.5 folder: tokenizer, scheduler and configs for a LAVIS checkpoint; and a warning
                when the U-Net or text encoder are the same as its, though stage 2 trains them.
            local_files_only: never ask the hub.
            dtype: of the weights in memory.

        Raises:
            InputError: no such folder, a part is missing or damaged, a file has the wrong hash or holds more than
                tensors, or keys are missing or unexpected.
        """
        load = checkpoint_module("load")
        options = load.LoadOptions(
            qformer_tokenizer=qformer_tokenizer, base=base, local_files_only=local_files_only, dtype=dtype
        )
        model: Self = load.load_model(path, options)
        return model

    def _parts_in_turn(self) -> list[nn.Module]:
        return [self.multimodal_encoder, *super()._parts_in_turn()]

    def encode_subject(self, images: AnyImage | Sequence[AnyImage], subject: str | Sequence[str]) -> Tensor:
        """Subject vectors (B, Q, D) of B images, with the category word of each (or one for all); Sec. 3.1.

        Images are PIL images, arrays (H, W, C) or tensors (C, H, W), of floats in 0..1 or whole numbers in 0..255; a
        PIL image or an array counts as `read_image` reads it from a file.
        """
        shown = image_list(images)
        words = text_list(subject, "a class word")
        words = words * len(shown) if len(words) == 1 else words
        shown = shown * len(words) if len(shown) == 1 else shown
        if not shown:
            raise InputError("no subject image was given; give at least one")
        if len(words) != len(shown):
            raise InputError(f"{len(shown)} images but {len(words)} category words; give one word, or one an image")
        for word in words:
            check_words(word)
        pixels = self.conventions.pixels(shown, self.multimodal_encoder.image_size)
        config = self.multimodal_encoder.qformer.config
        longest = min(self.qformer_tokenizer.model_max_length, config.max_position_embeddings)
        texts = words if self.conventions.subject_text else [""] * len(words)
        tokens = self.qformer_tokenizer(
            texts, padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(self.device)
        strange = [
            w for w, ids in zip(texts, tokens.input_ids, strict=True) if self.qformer_tokenizer.unk_token_id in ids
        ]
        if strange:
            named = " and ".join(repr(word) for word in dict.fromkeys(strange))
            warnings.warn(f"the Q-Former's tokenizer does not know the class word {named}", stacklevel=2)
        known = config.vocab_size
        if int(tokens.input_ids.max()) >= known:
            raise InputError(f"the BERT tokenizer gives ids that the Q-Former, with its {known} words, does not know")
        with torch.no_grad():
            return self.multimodal_encoder(
                pixels.to(self.device, self.multimodal_encoder.query_tokens.dtype),
                tokens.input_ids,
                tokens.attention_mask,
            )

    def mean_subjects(self, images: Any, nouns: str | Sequence[str], weights: Sequence[Any] | None = None) -> Tensor:
        """The (weighted) mean of each subject's vectors (Sec. 3.3), (S, Q, D); see `group_subjects`."""
        return torch.stack([self._mean(subject) for subject in group_subjects(images, nouns, weights)])

    def _mean(self, subject: Subject) -> Tensor:
        vectors = self.encode_subject(subject.images, subject.noun)
        if len(set(subject.weights)) == 1:
            return vectors.mean(dim=0)
        return (vectors * torch.tensor(subject.weights).to(vectors).view(-1, 1, 1)).sum(dim=0)

    def tokenize(
        self,
        prompts: Sequence[str],
        class_nouns: Sequence[str] | None = None,
        *,
        prompt_reps: int = 1,
        with_subject: bool = False,
        template: str | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As in the base class; where the subject vectors go (when ``with_subject``) is the template's choice."""
        queries = self.multimodal_encoder.config.num_query_tokens if with_subject else 0
        ids, mask, lost = self._tokenize(prompts, class_nouns, prompt_reps, **self._template(template), queries=queries)
        warn_of_lost(lost)
        return ids, mask

    def _template(self, template: str | None) -> dict[str, Any]:
        conventions = self.conventions
        return {"template": template or conventions.template, "position": conventions.ctx_begin_pos}

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        subject_embeddings: Tensor | None = None,
        class_noun: str | Sequence[str] | None = None,
        *,
        prompt_reps: int | None = None,
        template: str | None = None,
    ) -> Tensor:
        """As in the base class, with subjects.

        Args:
            subject_embeddings: (B or 1, Q, D); None for plain text. One prompt serves B subjects.
            class_noun: one for all, or one a prompt; None takes the prompts literally (with subject vectors in the
                template "public" alone).
            template: where the subject vectors go: "place", "public" or "paper" (`PROMPT_TEMPLATES`); by default
                what the weights were trained with.
        """
        if find_template(template or self.conventions.template).vectors != "position":
            _check_noun(subject_embeddings, class_noun)
        hidden, lost = self._encode(prompt, subject_embeddings, class_noun, prompt_reps, template)
        warn_of_lost(lost)
        return hidden

    def _encode(
        self,
        prompt: str | Sequence[str],
        subject_embeddings: Tensor | None,
        class_noun: str | Sequence[str] | None,
        prompt_reps: int | None,
        template: str | None,
    ) -> tuple[Tensor, Lost]:
        if prompt_reps is None and template is not None:
            prompt_reps = find_template(template).prompt_reps
        return self._encode_prompt(prompt, class_noun, prompt_reps, subject_embeddings, **self._template(template))

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
        **drawing: Any,
    ) -> Any:
        """Generates one image a prompt, subject or seed (Sec. 3, Sec. 4.1); None means the model's own default.

        Args:
            prompt: template(s) with ``{}`` where the subject goes, e.g. ``a {} in the jungle``.
            reference_images: images of one subject; their vectors are averaged. Of n subjects: with n words in
                ``source_subject`` a list of n images (or of n lists). With neither these nor
                ``subject_embeddings`` (nor a cached subject) it is plain text-to-image.
            source_subject: category word of the reference images.
            target_subject: word that stands in the prompt, by default the source's.
            subject_embeddings: (B or 1, Q, D) in place of reference images.
            reference_weights: how much each reference image counts in the mean.
            template: where the subject vectors go, "place", "public" or "paper"; see `encode_prompt`.
            drawing: callback, progress and control. These and the others are those of `LatentDiffusion.draw`.
        """
        embeddings, noun = self._subject(reference_images, source_subject, subject_embeddings, reference_weights)
        target = noun if target_subject is None else target_subject
        prompts, nouns, seeds = one_each(prompt, target, seeds, latents, embeddings)
        _check_noun(embeddings, nouns)
        hidden, lost = self._encode(prompts, embeddings, nouns, prompt_reps, template)
        return self.draw(
            hidden,
            seeds,
            latents,
            negative_prompt=negative_prompt,
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            height=height,
            width=width,
            scheduler=scheduler,
            output_type=output_type,
            lost=lost,
            **drawing,
        )

    def _subject(
        self,
        images: Any,
        noun: str | Sequence[str] | None,
        embeddings: Tensor | None,
        weights: Sequence[Any] | None,
    ) -> tuple[Tensor | None, str | Sequence[str] | None]:
        """The subjects' vectors and their words."""
        if embeddings is not None:
            return embeddings, noun or self.subject_class
        if images is not None:
            if noun is None:
                raise InputError("reference images need source_subject, their category word")
            return self.mean_subjects(images, noun, weights), noun
        if self.subject_embeddings is not None:
            return self.subject_embeddings, noun or self.subject_class
        return None, noun


def _check_noun(subject_embeddings: Tensor | None, class_noun: str | Sequence[str] | None) -> None:
    if subject_embeddings is not None and class_noun is None:
        raise InputError("subject vectors need the class noun that follows them; give source_subject or target_subject")


def require_blip_diffusion(model: LatentDiffusion) -> BlipDiffusion:
    """The model itself, where it can look at images; InputError says what a plain Stable Diffusion can do instead."""
    if isinstance(model, BlipDiffusion):
        return model
    raise InputError(
        f"{model.source or 'the model'} is a plain Stable Diffusion and cannot look at images; "
        "give a BLIP-Diffusion, or train dreambooth, dreambooth-lora or textual-inversion on them"
    )
