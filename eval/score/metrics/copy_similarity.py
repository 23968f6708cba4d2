"""Copy similarity: how near is the nearest reference? Not in the paper.

DINO and CLIP-I are means over the references: a copy of one of them scores as a faithful image does. The nearest
reference gives it away.
"""

from eval.score.metrics.base import Batch, FloatArray, Metric, nearest_cosine


def score(batch: Batch) -> FloatArray:
    """(n,) cosine similarity of each whole image, background included, with its nearest reference (DINO), in -1 to 1;
    1 for a copy.
    """
    return nearest_cosine(batch, "dino")


METRIC = Metric(
    name="copy_similarity",
    title="Nearest reference",
    encoder="dino",
    score=score,
    optional=True,
    higher_is_better=False,
)
