"""CLIP-I, subject only: subject fidelity without the background, which an image may have copied. Not in the paper."""

from eval.score.metrics.base import Batch, FloatArray, Metric, mean_cosine


def score(batch: Batch) -> FloatArray:
    """(n,) mean cosine similarity, in -1 to 1, of each image's CLIP embedding with the subject's references, all of
    them with the subject's pixels alone (`eval.score.masks.keep_subject`).
    """
    return mean_cosine(batch, "clip_subject")


METRIC = Metric(name="clip_i_subject", title="CLIP-I, subject only", encoder="clip_subject", score=score, optional=True)
