"""Prompted context generation (Sec. 3.2) as training sees it: what is drawn for an input, and the input it gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bdkit.models.prompts import tokenize
from bdkit.training.pretraining.config import SubjectRepresentationConfig

if TYPE_CHECKING:  # loader workers need no model
    from bdkit.models.blip_diffusion import BlipDiffusion

EMPTY, DROPPED, WITH_SUBJECT = 0, 1, 2  # prompts: none at all, the caption without its subject, with it


@dataclass(frozen=True, kw_only=True)
class ContextDraw:
    """What is random in one input.

    kind: of its prompt: EMPTY, DROPPED or WITH_SUBJECT
    background: number of the image behind the subject
    move: (2, 3) float32, from output to input coordinates of `torch.nn.functional.affine_grid`; None: nothing moves
    """

    kind: int
    background: int
    move: np.ndarray | None


def draw_context(rng: np.random.Generator, backgrounds: int, config: SubjectRepresentationConfig) -> ContextDraw:
    """Draws kind, background and, with ``jitter``, a move: mirrored, scaled (0.8 to 1.15), shifted (up to 10%).

    With ``same_image`` nothing moves.
    """
    share = rng.random()
    kind = EMPTY if share < config.empty_share else WITH_SUBJECT
    if config.empty_share <= share < config.empty_share + config.subject_drop:
        kind = DROPPED
    background = int(rng.integers(backgrounds))
    moves = config.jitter and not config.same_image
    return ContextDraw(kind=kind, background=background, move=draw_move(rng) if moves else None)


def draw_move(rng: np.random.Generator) -> np.ndarray:
    """A random move, as `ContextDraw` holds it."""
    scale, mirror = rng.uniform(0.8, 1.15), -1.0 if rng.random() < 0.5 else 1.0
    shift = rng.uniform(-0.1, 0.1, 2) * 2  # of a side, which measures 2 here
    return np.array(
        [[mirror / scale, 0, -shift[0] / scale], [0, 1 / scale, -shift[1] / scale]],
        dtype=np.float32,
    )


def jitter_cutouts(cutouts: Tensor, moves: np.ndarray) -> Tensor:
    """Moves cut-outs (B, 4, S, S), colours multiplied by alpha, and alpha, 0 outside the subject; moves (B, 2, 3)."""
    grid = F.affine_grid(torch.from_numpy(moves).to(cutouts.device), list(cutouts.shape), align_corners=False)
    return F.grid_sample(cutouts, grid, align_corners=False)


def synthesise_inputs(cutouts: Tensor, backgrounds: Tensor, draws: Sequence[ContextDraw]) -> Tensor:
    """Input images, uint8 (B, S, S, 3): cut-outs, moved as drawn, on backgrounds.

    Args:
        cutouts: float (B, 4, S, S), colours 0..255 multiplied by alpha, and alpha 0..1.
        backgrounds: uint8 (B, 3, S, S).
    """
    moves = [draw.move for draw in draws if draw.move is not None]
    if moves:
        cutouts = jitter_cutouts(cutouts, np.stack(moves))
    mixed = cutouts[:, :3] + backgrounds.float() * (1 - cutouts[:, 3:])
    return mixed.round().clamp(0, 255).byte().permute(0, 2, 3, 1)


@dataclass(frozen=True, kw_only=True)
class PromptTokenizer:
    """The two tokenizers of a model and what they need to know of it; goes to other processes without its weights."""

    tokenizer: Any
    qformer_tokenizer: Any
    length: int
    word_length: int
    queries: int
    template: str
    position: int
    subject_text: bool = True

    @classmethod
    def of(cls, model: "BlipDiffusion", word_length: int) -> "PromptTokenizer":
        """The one of a model."""
        return cls(
            tokenizer=model.tokenizer,
            qformer_tokenizer=model.qformer_tokenizer,
            length=model.text_encoder.max_length,
            word_length=word_length,
            queries=model.multimodal_encoder.config.num_query_tokens,
            template=model.conventions.template,
            position=model.conventions.ctx_begin_pos,
            subject_text=model.conventions.subject_text,
        )

    def prompts(self, templates: Sequence[str], nouns: Sequence[str], kind: int) -> tuple[Tensor, Tensor]:
        """Token ids and the mask of the subject's positions, (B, L), of prompts of one kind; captions are cut."""
        if kind == EMPTY:
            ids, mask = self.literal([""])
            return ids.expand(len(templates), -1), mask.expand(len(templates), -1)
        queries = self.queries if kind == WITH_SUBJECT else 0
        options: dict[str, Any] = {"template": self.template, "position": self.position, "queries": queries}
        ids, mask, _ = tokenize(self.tokenizer, templates, nouns, self.length, **options)
        return ids, mask

    def literal(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and an empty mask, (B, L), of texts that are taken as they are."""
        ids, mask, _ = tokenize(self.tokenizer, texts, None, self.length)
        return ids, mask

    def words(self, nouns: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask of class nouns for the multimodal encoder, (B, T)."""
        texts = list(nouns) if self.subject_text else [""] * len(nouns)
        tokens = self.qformer_tokenizer(
            texts, padding="max_length", max_length=self.word_length, truncation=True, return_tensors="pt"
        )
        return tokens.input_ids, tokens.attention_mask
