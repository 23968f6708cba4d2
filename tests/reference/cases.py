"""What the reference is asked, and what bdkit is asked in the same words; imports neither of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

SEED = 0
NEGATIVE = "low quality"


def case(*values: Any) -> dict[str, Any]:
    names = ("image", "prompts", "targets", "size", "seeds", "steps", "guidance", "reps")
    return dict(zip(names, values, strict=True))


SWIMMING, BEACH = "swimming underwater", "on the beach"
CASES = {
    # the reference's defaults: template, 20 repetitions, guidance; a square image
    "square": case((40, 40), [SWIMMING], ["dog"], (32, 48), [3], 5, 7.5, 20),
    # a wide image that is squashed
    "two_prompts": case((60, 36), [SWIMMING, BEACH], ["dog", "cat"], (24, 40), [4, 11], 4, 7.5, 20),
    # a tall image
    "unguided": case((35, 51), ["in the snow"], ["vase"], (32, 32), [5], 6, 1.0, 3),
}
CONTROL_CASES = {
    "control": {**CASES["square"], "condition": (48, 32)},
    "control_unguided": {**CASES["unguided"], "condition": (50, 41)},
}
LAVIS_CASES = {
    "lavis": {**CASES["two_prompts"]},
    "lavis_cached_subject": {**CASES["unguided"]},
}
SUBJECT = "dog"


def image(size: tuple[int, int], name: str) -> Image.Image:
    """A smooth random image, (width, height), that every version of NumPy makes alike."""
    seed = sum(map(ord, name)) + 1000 * size[0] + size[1]
    coarse = np.random.RandomState(seed).randint(0, 256, (6, 7, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR)


def condition(size: tuple[int, int]) -> Image.Image:
    """A black and white image, as edges are."""
    grey = np.asarray(image(size, "condition").convert("L"))
    return Image.fromarray(np.where(np.abs(np.diff(grey.astype(int), axis=1, prepend=0)) > 3, 255, 0).astype(np.uint8))


def cached_subject(queries: int, width: int) -> np.ndarray:
    """A fine-tuned subject's vectors, (1, queries, width)."""
    return 0.5 * np.random.RandomState(77).standard_normal((1, queries, width)).astype(np.float32)
