"""Copied: is it nearer to a reference than real images of one subject are to each other? Not in the paper.

DINO and CLIP-I reward a copy of the input as fidelity; this says which images are copies, from the same embeddings.
"""

import numpy as np

from eval.score.metrics.base import Batch, EncoderName, FloatArray, Metric, nearest_cosine

# the share of the suite's own references that may be flagged
FALSE_ALARMS = 0.01
# the nearest two references have one similarity, but for the rounding of float32
ROUNDING = 1e-6


def threshold(oracle_nearest: FloatArray) -> float:
    """The similarity above which an image counts as copied: the (1 - FALSE_ALARMS) quantile (linear between values) of
    the (m,) similarities of real images with their nearest other real image of the subject.
    """
    return float(np.quantile(oracle_nearest.astype(np.float64), 1 - FALSE_ALARMS))


def flags(batch: Batch, encoder: EncoderName) -> FloatArray:
    """(n,) 1 where an image's nearest reference is nearer than the threshold, else 0. The batch must have the oracle's
    similarities of that encoder, from a suite with at least two references of some subject.
    """
    limit = threshold(batch.oracle_nearest[encoder]) + ROUNDING
    return np.asarray(nearest_cosine(batch, encoder) > limit, dtype=np.float64)


def score(batch: Batch) -> FloatArray:
    """(n,) 1 for an image that is copied as whole image, background included, as DINO sees it; else 0."""
    return flags(batch, "dino")


METRIC = Metric(name="copied", title="Copied", encoder="dino", score=score, of_several=True, higher_is_better=False)
