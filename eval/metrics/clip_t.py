"""CLIP-T: prompt fidelity (DreamBooth paper, arXiv 2208.12242, Sec. 4.1)."""

import numpy as np

from eval.metrics.base import Batch, FloatArray, Metric


def score(batch: Batch) -> FloatArray:
    """(n,) cosine similarity of each picture with its prompt (class noun, no token), in -1 to 1, neither scaled nor
    clamped. The batch must have texts.
    """
    assert batch.texts is not None
    return np.asarray((batch.generated["clip"].astype(np.float64) * batch.texts.astype(np.float64)).sum(axis=1))


METRIC = Metric(name="clip_t", title="CLIP-T", encoder="clip", score=score, of_prompt=True)
