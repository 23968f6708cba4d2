"""How long a call takes, and how much memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from bdkit.utils.env import process_gib


@dataclass
class Measured:
    """Filled in when the block of `measured` ends.

    seconds: of the block, after all that was asked of the GPU is done
    gib: most memory in use within the block on the GPU; without one, of the process so far
    """

    seconds: float = 0.0
    gib: float = 0.0

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, {self.gib:.2f} GiB"


@contextmanager
def measured(name: str = "") -> Iterator[Measured]:
    """Measures a block of code; with a name it also prints one line."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    result, start = Measured(), time.perf_counter()
    yield result
    if cuda:
        torch.cuda.synchronize()
    result.seconds = time.perf_counter() - start
    result.gib = torch.cuda.max_memory_allocated() / 2**30 if cuda else process_gib()
    if name:
        print(f"{name}: {result}")
