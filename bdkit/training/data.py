"""Batches that a training can resume exactly: iterables that know their position."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch

from bdkit.utils.env import rank, world_size


class Batches(Protocol):
    """What `TrainingLoop` trains on: an endless iterable that can be saved and resumed.

    Each item is a pair ``(batch, generator)``: what the module's ``forward`` takes, and the CPU generator that its loss
    goes on drawing from. The generator is seeded by ids alone (`step_generator`), never by the process's random state.

    Of several processes each iterates over its own batches; their state is the same, and the first one's is saved.
    """

    def __iter__(self) -> Iterator[tuple[Any, torch.Generator]]:
        """Iterates from the current position."""

    def state_dict(self) -> dict[str, Any]:
        """The position behind the last item that was taken: numbers, texts and tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to a position of `state_dict`: the next item is the one that would have followed."""


class FunctionBatches:
    """`Batches` from a function; the position is an index.

    Args:
        make: ``(index, generator) -> batch``; must depend on its arguments only.
        seed: of the generators.
    """

    def __init__(self, make: Callable[[int, torch.Generator], Any], seed: int) -> None:
        self.make, self.seed, self.index = make, seed, 0

    def __iter__(self) -> Iterator[tuple[Any, torch.Generator]]:
        return self

    def __next__(self) -> tuple[Any, torch.Generator]:
        generator = step_generator(self.seed, self.index, rank())
        batch = self.make(self.index, generator)
        self.index += 1
        return batch, generator

    def state_dict(self) -> dict[str, Any]:
        return {"index": self.index}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.index = state["index"]


def step_generator(seed: int, index: int, rank: int = 0) -> torch.Generator:
    """CPU generator of one batch: a function of ids alone, so a resumed run draws the same numbers."""
    mixed = (seed * 1_000_003 + index) * 4_099 + rank
    return torch.Generator().manual_seed(mixed & 0x7FFF_FFFF_FFFF_FFFF)


def epoch_indices(size: int, batch: int, seed: int) -> Callable[[int], np.ndarray]:
    """``index of the batch -> indices of its items``: every item once an epoch, in another order each epoch.

    Of several processes each takes its own ``batch`` items.
    """
    if size < batch:
        raise ValueError(f"a corpus of {size} images is smaller than the batch of {batch}")
    cached: dict[int, np.ndarray] = {}

    def indices(index: int) -> np.ndarray:
        total = batch * world_size()
        epoch, position = divmod(index, max(1, size // total))
        if epoch not in cached:
            cached.clear()
            cached[epoch] = np.random.default_rng([seed, epoch]).permutation(size)
        first = position * total + rank() * batch
        return cached[epoch][first : first + batch]

    return indices
