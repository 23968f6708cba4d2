"""CLIP-I: subject fidelity, seen by CLIP's image encoder (DreamBooth paper, arXiv 2208.12242, Sec. 4.1)."""

from eval.score.metrics.base import Batch, FloatArray, Metric, mean_cosine


def score(batch: Batch) -> FloatArray:
    """(n,) mean cosine similarity of each image's CLIP embedding with the subject's references, in -1 to 1."""
    return mean_cosine(batch, "clip")


METRIC = Metric(name="clip_i", title="CLIP-I", encoder="clip", score=score)
