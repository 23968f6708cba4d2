"""What the reference is asked, and what bdkit is asked in the same words; imports neither of them."""

from __future__ import annotations

import numpy as np
from PIL import Image

SEED = 0
NEGATIVE = "low quality"
CASES = {
    # the reference's defaults: template, 20 repetitions, guidance; a square image
    "square": {
        "picture": (40, 40),
        "prompts": ["swimming underwater"],
        "targets": ["dog"],
        "size": (32, 48),
        "seeds": [3],
        "steps": 5,
        "guidance": 7.5,
        "reps": 20,
    },
    "two_prompts": {  # a wide image that is squashed
        "picture": (60, 36),
        "prompts": ["swimming underwater", "on the beach"],
        "targets": ["dog", "cat"],
        "size": (24, 40),
        "seeds": [4, 11],
        "steps": 4,
        "guidance": 7.5,
        "reps": 20,
    },
    "unguided": {  # a tall image
        "picture": (35, 51),
        "prompts": ["in the snow"],
        "targets": ["vase"],
        "size": (32, 32),
        "seeds": [5],
        "steps": 6,
        "guidance": 1.0,
        "reps": 3,
    },
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


def picture(size: tuple[int, int], name: str) -> Image.Image:
    """A smooth random image, (width, height), that every version of NumPy makes alike."""
    seed = sum(map(ord, name)) + 1000 * size[0] + size[1]
    coarse = np.random.RandomState(seed).randint(0, 256, (6, 7, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR)


def condition(size: tuple[int, int]) -> Image.Image:
    """A black and white image, as edges are."""
    grey = np.asarray(picture(size, "condition").convert("L"))
    return Image.fromarray(np.where(np.abs(np.diff(grey.astype(int), axis=1, prepend=0)) > 3, 255, 0).astype(np.uint8))


def cached_subject(queries: int, width: int) -> np.ndarray:
    """A fine-tuned subject's vectors, (1, queries, width)."""
    return 0.5 * np.random.RandomState(77).standard_normal((1, queries, width)).astype(np.float32)
