"""DINO, subject only: subject fidelity without the background, which an image may have copied. Not in the paper."""

from eval.score.metrics.base import Batch, FloatArray, Metric, mean_cosine


def score(batch: Batch) -> FloatArray:
    """(n,) mean cosine similarity, in -1 to 1, of each image's DINO embedding with the subject's references, all of
    them with the subject's pixels alone (`eval.score.masks.keep_subject`).
    """
    return mean_cosine(batch, "dino_subject")


METRIC = Metric(name="dino_subject", title="DINO, subject only", encoder="dino_subject", score=score, optional=True)
