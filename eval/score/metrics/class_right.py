"""Class right: is the subject's class recognisable? Not in the paper."""

import numpy as np

from eval.score.metrics.base import Batch, FloatArray, Metric


def score(batch: Batch) -> FloatArray:
    """(n,) 1 where the classifier finds the subject's class, else 0. The batch must have predictions."""
    assert batch.predictions is not None
    return np.asarray(batch.predictions["class"].argmax(axis=1) == batch.class_index, dtype=np.float64)


METRIC = Metric(name="class_right", title="Class right", encoder="classifier", score=score, of_mini_world=True)
