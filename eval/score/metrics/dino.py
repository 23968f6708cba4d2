"""DINO: subject fidelity, seen by a self-supervised encoder (DreamBooth paper, arXiv 2208.12242, Sec. 4.1)."""

from eval.score.metrics.base import Batch, FloatArray, Metric, mean_cosine


def score(batch: Batch) -> FloatArray:
    """(n,) mean cosine similarity of each image's DINO embedding with the subject's references, in -1 to 1."""
    return mean_cosine(batch, "dino")


METRIC = Metric(name="dino", title="DINO", encoder="dino", score=score)
