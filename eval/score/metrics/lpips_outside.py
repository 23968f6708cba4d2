"""LPIPS outside the mask: what an edit changed where it should not (arXiv 1801.03924). Not in the paper."""

import numpy as np

from eval.score.metrics.base import Batch, FloatArray, Metric
from eval.score.metrics.ssim_outside import mean_outside, paste_source


def score(batch: Batch) -> FloatArray:
    """(n,) mean LPIPS distance, from 0 (kept), over the pixels outside each edit's mask; NaN where the mask covers
    everything. The source is pasted inside the mask first, so that nothing there counts. The batch must have edits and
    the perceptual distance.
    """
    assert batch.edits is not None
    assert batch.perceptual is not None
    values = []
    for edit in batch.edits:
        distance = batch.perceptual(paste_source(edit)[None], edit.source[None])[0]
        values.append(mean_outside(distance, edit.mask))
    return np.array(values, dtype=np.float64)


METRIC = Metric(
    name="lpips_outside",
    title="LPIPS outside the edit",
    encoder="lpips",
    score=score,
    of_edits=True,
    partial=True,
    optional=True,
    higher_is_better=False,
)
