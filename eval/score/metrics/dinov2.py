"""DINOv2: subject fidelity, seen by a newer self-supervised encoder (arXiv 2304.07193). Not in the paper."""

from eval.score.metrics.base import Batch, FloatArray, Metric, mean_cosine


def score(batch: Batch) -> FloatArray:
    """(n,) mean cosine similarity of each image's DINOv2 embedding with the subject's references, in -1 to 1."""
    return mean_cosine(batch, "dinov2")


METRIC = Metric(name="dinov2", title="DINOv2", encoder="dinov2", score=score, optional=True)
