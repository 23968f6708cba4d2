"""SigLIP2-T: prompt fidelity, seen by SigLIP 2 (arXiv 2502.14786). Not in the paper."""

from eval.score.metrics.base import Batch, FloatArray, Metric, rowwise_cosine


def score(batch: Batch) -> FloatArray:
    """(n,) cosine similarity of each image with its prompt (class noun, no token), in -1 to 1: the plain cosine,
    without SigLIP's scale, bias and sigmoid. The batch must have SigLIP 2's texts.
    """
    return rowwise_cosine(batch.generated["siglip2"], batch.more_texts["siglip2"])


METRIC = Metric(name="siglip2_t", title="SigLIP2-T", encoder="siglip2", score=score, of_prompt=True, optional=True)
