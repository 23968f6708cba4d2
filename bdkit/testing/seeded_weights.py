"""Weights that depend on a parameter's name alone, and the words of the tiny checkpoints made of them.

Imports neither transformers nor diffusers, so that other versions of both can make the very same weights: the parity
tests record the reference's images in a virtual environment of its own (tests/reference).
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

TINY_WORDS = (
    *("a", "an", "and", "beach", "blue", "cat", "city", "dog", "forest", "grass", "in", "is", "jungle", "low", "on"),
    *("photo", "picture", "quality", "red", "shiny", "snow", "swimming", "the", "top", "underwater", "vase", "with"),
)


def seeded_tensor(name: str, shape: Sequence[int], seed: int = 0) -> Tensor:
    """float32 random values that depend on ``name``, ``shape`` and ``seed`` alone, of a size that keeps a net stable.

    Uses NumPy's ``RandomState``, whose stream is frozen for all versions.
    """
    if name.endswith("position_ids"):
        return torch.arange(math.prod(shape)).reshape(tuple(shape))
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    values = np.random.RandomState(int.from_bytes(digest[:4], "little")).standard_normal(tuple(shape))
    if len(shape) <= 1:
        scale, shift = 0.1, 1.0 if name.endswith("weight") else 0.0
    elif name.endswith("query_tokens") or re.search(r"(word|token|position|class)_embedding", name):
        scale, shift = 0.5, 0.0
    else:
        scale, shift = 1 / math.sqrt(math.prod(shape[1:])), 0.0
    return torch.from_numpy((shift + scale * values).astype(np.float32))


def seeded_state(shapes: Mapping[str, Sequence[int]], part: str, seed: int = 0) -> dict[str, Tensor]:
    """A state dict of such tensors; ``part`` ("unet", "qformer", ...) keeps equal names in two parts apart."""
    return {name: seeded_tensor(f"{part}/{name}", shape, seed) for name, shape in shapes.items()}
