"""The metrics, one file each. A new one is a file here and a line in METRICS."""

from eval.metrics import class_right, clip_i, clip_t, dino, identity, prompt_right, retrieval
from eval.metrics.base import Batch, Metric

METRICS: dict[str, Metric] = {
    "dino": dino.METRIC,
    "clip_i": clip_i.METRIC,
    "clip_t": clip_t.METRIC,
    "identity": identity.METRIC,
    "retrieval": retrieval.METRIC,
    "class_right": class_right.METRIC,
    "prompt_right": prompt_right.METRIC,
}

__all__ = ["METRICS", "Batch", "Metric"]
