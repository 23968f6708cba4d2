"""Identity: subject fidelity, seen by an encoder trained to tell subjects of one class apart. Not in the paper."""

from eval.score.metrics.base import Batch, FloatArray, Metric, mean_cosine


def score(batch: Batch) -> FloatArray:
    """(n,) mean cosine similarity of each image's identity embedding with the subject's references, in -1 to 1."""
    return mean_cosine(batch, "identity")


METRIC = Metric(name="identity", title="Identity", encoder="identity", score=score, of_mini_world=True)
