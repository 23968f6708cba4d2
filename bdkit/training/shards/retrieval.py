"""Records of shards with their neighbours, for Re-Imagen (arXiv 2209.14491)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bdkit.models.prompts import tokenize
from bdkit.training.finetuning import CAPTION
from bdkit.training.pretraining.config import RetrievalAugmentedConfig
from bdkit.training.pretraining.retrieval_augmented import draw_retrieval
from bdkit.training.shards.read import Record, Shards
from bdkit.training.shards.samples import square


@dataclass(frozen=True, kw_only=True)
class RetrievalSamples:
    """Image and caption with those of its neighbours.

    length: positions of the text encoder
    neighbours: (N, K) record numbers, `bm25_neighbours` of `captions_of` the shards
    """

    tokenizer: Any
    length: int
    resolution: int
    config: RetrievalAugmentedConfig
    shards: Shards
    neighbours: np.ndarray

    def __call__(self, record: Record, rng: np.random.Generator) -> tuple[np.ndarray, list[str], bool]:
        """Images (1 + K, R, R, 3) uint8 and their texts, its own first; and whether it sees its neighbours."""
        draw = draw_retrieval(rng.random(4).tolist(), self.config)
        near = [self.shards[int(number)] for number in self.neighbours[record.number]]
        texts = ["" if draw.empty else record.text() if draw.detailed else _caption(record)]
        for other in near:
            noun = other.details["subject"]
            texts.append(CAPTION.format(noun) if draw.class_noun and noun else _caption(other))
        images = [square(each.image(), self.resolution, each.details.get("box")) for each in (record, *near)]
        return np.stack(images), texts, draw.shown

    def collate(self, samples: Sequence[tuple[np.ndarray, list[str], bool]]) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 1 + K, R, R, 3) uint8, token ids (B, 1 + K, L) and what is shown, (B,) bool."""
        images, texts, shown = zip(*samples, strict=True)
        ids, _, _ = tokenize(self.tokenizer, [text for row in texts for text in row], None, self.length)
        return torch.from_numpy(np.stack(images)), ids.unflatten(0, (len(samples), -1)), torch.tensor(shown)


def _caption(record: Record) -> str:
    """The caption without the details that the mini world has besides."""
    return str(record.details["caption"] or record.text())


def captions_of(shards: Shards) -> list[str]:
    """What neighbours are found by: the (detailed) captions of all records, in their order."""
    return [shards[number].text() for number in range(len(shards))]
