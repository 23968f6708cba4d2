"""Retrieval: is the subject recognised among all subjects of the suite? Not in the paper."""

import numpy as np

from eval.score.metrics.base import Batch, FloatArray, Metric


def score(batch: Batch) -> FloatArray:
    """(n,) 1 where the nearest of the suite's mean reference embeddings (identity encoder, cosine) is the subject's
    own, else 0. Chance is 1 over the number of subjects. An image's own subject counts only the references it is
    compared with, so an oracle image does not find itself. The batch must have a gallery.
    """
    generated = batch.generated["identity"].astype(np.float64)
    others = np.stack([_unit(embeddings.astype(np.float64).mean(axis=0)) for embeddings in batch.gallery])
    cosines = generated @ others.T
    weights = batch.pairs / batch.pairs.sum(axis=1, keepdims=True)
    own = _unit(weights @ batch.references["identity"].astype(np.float64))
    cosines[:, batch.subject_index] = (generated * own).sum(axis=1)
    return np.asarray(cosines.argmax(axis=1) == batch.subject_index, dtype=np.float64)


def _unit(vectors: FloatArray) -> FloatArray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


METRIC = Metric(name="retrieval", title="Retrieval", encoder="identity", score=score, of_mini_world=True)
