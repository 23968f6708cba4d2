"""Batches that a training can resume exactly: iterables that know their position."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch

from bdkit.training.config import TrainingConfig
from bdkit.utils.env import rank, world_size
from bdkit.utils.errors import InputError


class Batches(Protocol):
    """What `TrainingLoop` trains on: an endless iterable that can be saved and resumed.

    Each item is a pair ``(batch, generator)``: what the module's ``forward`` takes, and the CPU generator that its loss
    goes on drawing from. The generator is seeded by ids alone (`step_generator`), never by the process's random state.

    Of several processes each iterates over its part of each batch; their state is the same, and the first one's is
    saved. Their generators are the same, too: what is drawn is drawn for the whole batch (`shared_draw`), so that
    several processes train what one does.
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
        generator = step_generator(self.seed, self.index)
        batch = self.make(self.index, generator)
        self.index += 1
        return batch, generator

    def state_dict(self) -> dict[str, Any]:
        return {"index": self.index}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.index = state["index"]


def step_generator(seed: int, index: int) -> torch.Generator:
    """CPU generator of one batch: a function of ids alone, so a resumed run draws the same numbers."""
    mixed = (seed * 1_000_003 + index) * 4_099
    return torch.Generator().manual_seed(mixed & 0x7FFF_FFFF_FFFF_FFFF)


def record_rng(seed: int, epoch: int, position: int) -> np.random.Generator:
    """What is drawn for one item of a training set: it depends on its position in the epoch's order alone."""
    return np.random.default_rng([seed, epoch, position])


def epoch_position(index: int, size: int, batch: int) -> tuple[int, int]:
    """Epoch, and the position in its order, of the first item that `epoch_indices` gives this process."""
    total = batch * world_size()
    epoch, place = divmod(index, max(1, size // total))
    return epoch, place * total + rank() * batch


def epoch_indices(size: int, batch: int, seed: int) -> Callable[[int], np.ndarray]:
    """``index of the batch -> indices of its items``: every item once an epoch, in another order each epoch.

    Of several processes each takes its own ``batch`` items.
    """
    if size < batch:
        raise ValueError(f"a corpus of {size} images is smaller than the batch of {batch}")
    cached: dict[int, np.ndarray] = {}

    def indices(index: int) -> np.ndarray:
        epoch, first = epoch_position(index, size, batch)
        if epoch not in cached:
            cached.clear()
            cached[epoch] = np.random.default_rng([seed, epoch]).permutation(size)
        return cached[epoch][first : first + batch]

    return indices


def divided(training: TrainingConfig, micro_batch: int | None = None) -> TrainingConfig:
    """The training of one process, so that the total batch is that of the preset whatever the number of processes.

    Args:
        micro_batch: most items in one forward pass; the rest is accumulated.
    """
    total, processes = training.batch_size * training.gradient_accumulation_steps, world_size()
    if total % processes:
        raise InputError(f"a batch of {total} can't be split among {processes} processes; give another --batch-size")
    each = total // processes
    micro = min(micro_batch or each, each)
    if each % micro:
        raise InputError(f"--micro-batch is {micro}, which does not divide the {each} items of a process")
    return replace(training, batch_size=micro, gradient_accumulation_steps=each // micro)
