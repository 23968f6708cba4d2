"""CLIP-T: prompt fidelity (DreamBooth paper, arXiv 2208.12242, Sec. 4.1)."""

import numpy as np

from eval.score.metrics.base import Batch, FloatArray, Metric


def score(batch: Batch) -> FloatArray:
    """(n,) cosine similarity of each image with its prompt's text, in -1 to 1, times the protocol's factor and where
    the protocol says so not below 0: neither is done by `dreambench`. The batch must have texts.
    """
    assert batch.texts is not None
    cosines = (batch.generated["clip"].astype(np.float64) * batch.texts.astype(np.float64)).sum(axis=1)
    values = batch.text_scale * cosines
    return np.asarray(np.maximum(values, 0.0) if batch.text_clamped else values)


METRIC = Metric(name="clip_t", title="CLIP-T", encoder="clip", score=score, of_prompt=True)
