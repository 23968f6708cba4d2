"""Textual Inversion (arXiv 2208.01618): one new word, nothing else is trained."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from bdkit.checkpoints.adapters import placeholder_words, save_adapter, with_rows, with_token
from bdkit.checkpoints.files import WORD
from bdkit.methods.base import TrainedMethod, exchanged
from bdkit.models.latent_diffusion import LatentDiffusion
from bdkit.models.prompts import one_placeholder
from bdkit.training.finetuning import (
    Snapshot,
    cache_latents,
    draw_latents,
    frozen,
    noise_process,
    subject_loss,
    train_few_steps,
    training_settings,
)
from bdkit.training.method_config import TextualInversionConfig
from bdkit.utils.errors import InputError


class PlaceholderLoss(nn.Module):
    """Noise prediction through a frozen U-Net and text encoder; the placeholder's embedding alone is trained.

    Args:
        embedding: (D,), the initial value; trained in float32.
        ids: (T, L) captions, with any id at the placeholder.
        mask: (T, L) bool, True at the placeholder, once a caption.
    """

    def __init__(self, model: LatentDiffusion, embedding: Tensor, ids: Tensor, mask: Tensor) -> None:
        super().__init__()
        self.placeholder = nn.Parameter(embedding.detach().float().clone())
        self.shared = (model.unet, model.text_encoder)  # a tuple, so that they are not registered
        self.ids, self.mask = ids.to(model.device), mask.to(model.device)
        self.scheduler = noise_process(model)

    def forward(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        latents, captions = batch
        unet, text_encoder = self.shared
        vectors = self.placeholder.expand(len(captions), 1, -1)
        hidden = text_encoder(self.ids[captions], vectors, self.mask[captions])
        return subject_loss(unet, self.scheduler, latents, hidden, generator), {}


class TextualInversion(TrainedMethod):
    """The token embedding of a new word, "a <*> dog", initialised with the class noun's."""

    name: ClassVar[str] = "textual-inversion"
    title: ClassVar[str] = "Textual Inversion"

    def __init__(self, model: LatentDiffusion, config: TextualInversionConfig) -> None:
        super().__init__(model, config, config)
        if not config.steps:
            raise InputError(f"{self.name} with 0 steps learns nothing; use at least 1, or the method base")
        if not config.templates:
            raise InputError(f"{self.name} needs captions; give at least one template")
        self.config = config
        self._captions = [one_placeholder(template) for template in config.templates]
        self._tokenizer = with_token(model.tokenizer, config.placeholder_token)
        self._token_id: int = self._tokenizer.convert_tokens_to_ids(config.placeholder_token)
        self._token_embedding: nn.Embedding | None = None

    def fit(self, images: list[Image.Image], class_noun: str, seed: int) -> None:
        self.check_class_noun(class_noun)
        self._keep({}, [])
        config, model = self.config, self.model
        latents = cache_latents(model, images, seed, random_flip=config.random_flip)
        batches = self._batches(latents, class_noun)
        module = self._loss(class_noun)
        with self._training():
            kept, history = train_few_steps(
                module,
                batches,
                config,
                seed,
                device=model.device,
                name=f"{self.title} on a {class_noun}",
                progress=self.progress,
                work=self.work,
                after_step=self._after_step,
            )
        self.class_noun = class_noun
        self._keep(kept, history)

    def _batches(self, latents: Tensor, class_noun: str) -> Callable[[int, torch.Generator], tuple[Tensor, ...]]:
        """What draws the latents of a step and the numbers of their captions."""
        config, device = self.config, self.model.device

        def batches(step: int, generator: torch.Generator) -> tuple[Tensor, ...]:
            subject = draw_latents(latents, config.batch_size, generator, random_flip=config.random_flip)
            captions = torch.randint(0, len(self._captions), (config.batch_size,), generator=generator)
            return subject, captions.to(device)

        return batches

    def _loss(self, class_noun: str) -> PlaceholderLoss:
        """The module that is trained."""
        return PlaceholderLoss(self.model, self._embedding_of(class_noun), *self._caption_ids(class_noun))

    @contextmanager
    def _training(self) -> Iterator[None]:
        """Gradients for nothing of the model."""
        model = self.model
        with frozen(model.unet, model.text_encoder), training_settings(model.unet, self.config):
            yield

    def _words(self, class_noun: str) -> str:
        return placeholder_words(self.config.placeholder_token, class_noun, self.config.with_class_noun)

    def _caption_ids(self, class_noun: str) -> tuple[Tensor, Tensor]:
        """The captions (T, L) with the end token at the placeholder, and (T, L) bool, True there."""
        model = self.model
        with exchanged(model, tokenizer=self._tokenizer):
            ids, _ = model.tokenize(self._captions, [self._words(class_noun)] * len(self._captions))
        mask = ids == self._token_id
        if not (mask.sum(dim=1) == 1).all():
            raise InputError(f"a caption of {self.name} is too long for the text encoder; give shorter templates")
        return ids.masked_fill(mask, model.tokenizer.eos_token_id), mask

    def _embedding_of(self, words: str) -> Tensor:
        """(D,), the mean over the tokens of the words."""
        model = self.model
        ids = torch.tensor(model.tokenizer(words, add_special_tokens=False).input_ids, device=model.device)
        weight: Tensor = model.text_encoder.model.embeddings.token_embedding.weight
        return weight.detach()[ids].mean(dim=0)

    def generate(self, prompt_template: str | list[str], class_noun: str, seeds: list[int]) -> list[Image.Image]:
        self.check_class_noun(class_noun)
        self.selected()
        with self._drawing():
            return self.draw(prompt_template, self._words(class_noun), seeds)

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """The model draws with what was learned within the block."""
        embeddings = self.model.text_encoder.model.embeddings
        with (
            exchanged(self.model, tokenizer=self._tokenizer),
            exchanged(embeddings, token_embedding=self._token_embedding),
        ):
            yield

    def save(self, folder: str | Path) -> Path:
        """The new word's vector, as diffusers' ``load_textual_inversion`` reads it, and how it was learned."""
        settings = self.fitted_settings
        vector = self.selected()["placeholder"].unsqueeze(0)
        return save_adapter(folder, {WORD: {self.config.placeholder_token: vector}}, settings, self.model)

    def _apply(self, snapshot: Snapshot) -> None:
        embedding = self.model.text_encoder.model.embeddings.token_embedding
        if self._token_embedding is None:
            self._token_embedding = with_rows(embedding, self._token_id + 1)
        with torch.no_grad():
            self._token_embedding.weight[self._token_id] = snapshot["placeholder"].to(embedding.weight)
