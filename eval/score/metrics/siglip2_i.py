"""SigLIP2-I: subject fidelity, seen by SigLIP 2's image encoder (arXiv 2502.14786). Not in the paper."""

from eval.score.metrics.base import Batch, FloatArray, Metric, mean_cosine


def score(batch: Batch) -> FloatArray:
    """(n,) mean cosine similarity of each image's SigLIP 2 embedding with the subject's references, in -1 to 1."""
    return mean_cosine(batch, "siglip2")


METRIC = Metric(name="siglip2_i", title="SigLIP2-I", encoder="siglip2", score=score, optional=True)
