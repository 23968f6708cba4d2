"""Diversity, LPIPS: do the samples of one prompt look different (arXiv 1801.03924)? Not in the paper."""

import numpy as np

from eval.score.metrics.base import Batch, FloatArray, Metric
from eval.score.metrics.diversity import groups, mean_over_others


def score(batch: Batch) -> FloatArray:
    """(n,) mean LPIPS distance, from 0, of each image to the other samples of its prompt; NaN for a prompt with one
    sample. The batch must have prompts, images and the perceptual distance.
    """
    assert batch.prompts is not None
    assert batch.pictures is not None
    assert batch.perceptual is not None
    distances = np.zeros((len(batch.prompts), len(batch.prompts)))
    for rows in groups(batch.prompts):
        first, second = np.triu_indices(len(rows), k=1)
        left, right = np.array(rows)[first], np.array(rows)[second]
        found = batch.perceptual(batch.pictures[left], batch.pictures[right]).mean(axis=(1, 2))
        distances[left, right] = distances[right, left] = found
    return mean_over_others(distances, batch.prompts)


METRIC = Metric(
    name="diversity_lpips",
    title="Diversity, LPIPS",
    encoder="lpips",
    score=score,
    of_prompt=True,
    partial=True,
    optional=True,
)
