"""From images, words and prompts to the hidden states that guide the U-Net (Sec. 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import BertTokenizer, CLIPTokenizer

from bdkit.models.conventions import Conventions
from bdkit.models.multimodal_encoder import MultimodalEncoder
from bdkit.models.preprocessing import Picture
from bdkit.models.prompts import PromptLayout, find_template, prompt_ids, warn_of_lost
from bdkit.models.text_encoder import SubjectTextEncoder
from bdkit.utils.errors import InputError

if TYPE_CHECKING:
    from bdkit.models.blip_diffusion import GenerationDefaults


class SubjectConditioning(nn.Module):
    """The conditioning half of `BlipDiffusion`, which sets these parts."""

    text_encoder: SubjectTextEncoder
    multimodal_encoder: MultimodalEncoder
    tokenizer: CLIPTokenizer
    qformer_tokenizer: BertTokenizer
    conventions: Conventions
    defaults: GenerationDefaults

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        raise NotImplementedError

    def encode_subject(self, images: Picture | Sequence[Picture], subject: str | Sequence[str]) -> Tensor:
        """Subject vectors (B, Q, D) of B images, with the category word of each (or one for all); Sec. 3.1.

        Images are PIL images, arrays (H, W, 3) or tensors (3, H, W), of floats in 0..1 or whole numbers in 0..255.

        Raises:
            InputError: no image, or as many words as neither one nor the images.
        """
        pictures: list[Any] = (
            [images] if isinstance(images, Image.Image) or getattr(images, "ndim", 4) == 3 else list(images)
        )
        words = [subject] * len(pictures) if isinstance(subject, str) else list(subject)
        pictures = pictures * len(words) if len(pictures) == 1 else pictures
        if not pictures:
            raise InputError("no subject image was given; give at least one")
        if len(words) != len(pictures):
            raise InputError(f"{len(pictures)} images but {len(words)} category words; give one word, or one an image")
        pixels = self.conventions.pixels(pictures, self.multimodal_encoder.image_size)
        config = self.multimodal_encoder.qformer.config
        longest = min(self.qformer_tokenizer.model_max_length, config.max_position_embeddings)
        tokens = self.qformer_tokenizer(
            words, padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(self.device)
        known = config.vocab_size
        if int(tokens.input_ids.max()) >= known:
            raise InputError(f"the BERT tokenizer gives ids that the Q-Former, with its {known} words, does not know")
        with torch.no_grad():
            return self.multimodal_encoder(
                pixels.to(self.device, self.multimodal_encoder.query_tokens.dtype),
                tokens.input_ids,
                tokens.attention_mask,
            )

    def tokenize(
        self,
        prompts: Sequence[str],
        class_nouns: Sequence[str] | None,
        *,
        with_subject: bool,
        prompt_reps: int = 1,
        template: str | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Token ids and the mask of the subject's places, both (B, L); over-long text is cut with one warning.

        Each prompt holds ``{}`` at most once, for the class noun; where the subject vectors go (when ``with_subject``)
        is the template's choice. Without class nouns the prompts are taken as they are.
        """
        ids, mask, lost = self._tokenize(prompts, class_nouns, with_subject, prompt_reps, template)
        warn_of_lost(lost)
        return ids, mask

    def _tokenize(
        self,
        prompts: Sequence[str],
        class_nouns: Sequence[str] | None,
        with_subject: bool,
        prompt_reps: int,
        template: str | None,
        what: str = "the prompt",
    ) -> tuple[Tensor, Tensor, dict[str, list[str]]]:
        layout = PromptLayout(
            length=self.text_encoder.max_length,
            queries=self.multimodal_encoder.config.num_query_tokens if with_subject else 0,
            position=self.conventions.ctx_begin_pos,
        )
        chosen = find_template(template or self.conventions.template)
        nouns: Sequence[str | None] = class_nouns or [None] * len(prompts)
        rows = [
            prompt_ids(self.tokenizer, prompt, noun, chosen, layout, prompt_reps=prompt_reps)
            for prompt, noun in zip(prompts, nouns, strict=True)
        ]
        lost = {f"{what} is longer than {layout.room} tokens": [row[2] for row in rows]}
        return torch.tensor([row[0] for row in rows]), torch.tensor([row[1] for row in rows]), lost

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        subject_embeddings: Tensor | None = None,
        class_noun: str | Sequence[str] | None = None,
        *,
        prompt_reps: int | None = None,
        template: str | None = None,
    ) -> Tensor:
        """Hidden states (B, L, D) that guide the U-Net.

        Args:
            prompt: templates with one ``{}`` for the class noun; without ``{}`` and with a class noun it becomes
                ``a {} <prompt>``, as in the public code.
            subject_embeddings: (B or 1, Q, D); None for plain text. One prompt serves B subjects.
            class_noun: one for all, or one a prompt; None takes the prompts literally (with subject vectors in the
                template "public" alone).
            template: where the subject vectors go: "place", "public" or "paper" (`PROMPT_TEMPLATES`); by default
                what the weights were trained with.
        """
        if find_template(template or self.conventions.template).vectors != "position":
            check_noun(subject_embeddings, class_noun)
        hidden, lost = self._encode_prompt(prompt, subject_embeddings, class_noun, prompt_reps, template)
        warn_of_lost(lost)
        return hidden

    def _encode_prompt(
        self,
        prompt: str | Sequence[str],
        subject_embeddings: Tensor | None,
        class_noun: str | Sequence[str] | None,
        prompt_reps: int | None,
        template: str | None,
        what: str = "the prompt",
    ) -> tuple[Tensor, dict[str, list[str]]]:
        subjects = 1 if subject_embeddings is None else subject_embeddings.shape[0]
        prompts = [prompt] * subjects if isinstance(prompt, str) else list(prompt)
        nouns = [class_noun] * len(prompts) if isinstance(class_noun, str) else class_noun
        if nouns is not None and len(nouns) != len(prompts):
            raise InputError(f"{len(nouns)} class nouns for {len(prompts)} prompts; give 1 or as many")
        reps = self._prompt_reps(prompt_reps, template)
        ids, mask, lost = self._tokenize(prompts, nouns, subject_embeddings is not None, reps, template, what)
        if subject_embeddings is not None:
            if subjects not in (1, len(prompts)):
                raise InputError(f"{subjects} subjects for {len(prompts)} prompts; give 1 or as many")
            subject_embeddings = subject_embeddings.expand(len(prompts), -1, -1).to(self.device)
        with torch.no_grad():
            return self.text_encoder(ids.to(self.device), subject_embeddings, mask.to(self.device)), lost

    def _prompt_reps(self, prompt_reps: int | None, template: str | None) -> int:
        reps = prompt_reps
        if reps is None and template is not None:
            reps = find_template(template).prompt_reps
        reps = self.defaults.prompt_reps if reps is None else reps
        if reps < 1:
            raise InputError(f"prompt_reps is {reps}; use at least 1")
        return reps


def check_noun(subject_embeddings: Tensor | None, class_noun: str | Sequence[str] | None) -> None:
    """Raises InputError when subject vectors come without the word that they belong to."""
    if subject_embeddings is not None and class_noun is None:
        raise InputError("subject vectors need the class noun that follows them; give source_subject or target_subject")
