"""Diversity: do the samples of one prompt differ from each other? Not in the paper.

DINO, CLIP-I and CLIP-T judge images one by one: a method that draws one good image four times loses nothing.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dreambench.suites import Prompt
from eval.score.metrics.base import Batch, FloatArray, Metric


def score(batch: Batch) -> FloatArray:
    """(n,) 1 - mean cosine similarity (DINO) of each image with the other samples of its prompt, in 0 to 2; NaN for a
    prompt with one sample. Its mean over a prompt's samples is 1 - the mean over all pairs. The batch must have
    prompts.
    """
    assert batch.prompts is not None
    embeddings = batch.generated["dino"].astype(np.float64)
    return mean_over_others(1 - embeddings @ embeddings.T, batch.prompts)


def mean_over_others(distances: FloatArray, prompts: Sequence[Prompt]) -> FloatArray:
    """(n,) mean of each row of the (n, n) distances over the other images of the same prompt, NaN where none is."""
    same = same_prompt(prompts)
    counts = same.sum(axis=1)
    sums = np.where(same, distances, 0.0).sum(axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def same_prompt(prompts: Sequence[Prompt]) -> NDArray[np.bool_]:
    """(n, n) True where two different images answer the same prompt."""
    indices = np.array([prompt.index for prompt in prompts])
    return np.asarray((indices[:, None] == indices[None]) & ~np.eye(len(indices), dtype=bool))


def groups(prompts: Sequence[Prompt]) -> list[list[int]]:
    """The rows of each prompt, for prompts with more than one image."""
    found: dict[int, list[int]] = defaultdict(list)
    for row, prompt in enumerate(prompts):
        found[prompt.index].append(row)
    return [rows for rows in found.values() if len(rows) > 1]


METRIC = Metric(
    name="diversity", title="Diversity", encoder="dino", score=score, of_prompt=True, partial=True, optional=True
)
