"""The metrics, one file each. A new one is a file here and a line in METRICS."""

from eval.score.metrics import (
    class_right,
    clip_i,
    clip_i_subject,
    clip_t,
    clip_t_background,
    copied,
    copy_similarity,
    dino,
    dino_subject,
    dinov2,
    diversity,
    diversity_lpips,
    identity,
    lpips_outside,
    prompt_right,
    retrieval,
    siglip2_i,
    siglip2_t,
    ssim_outside,
)
from eval.score.metrics.base import Batch, Metric

METRICS: dict[str, Metric] = {
    "dino": dino.METRIC,
    "clip_i": clip_i.METRIC,
    "clip_t": clip_t.METRIC,
    "identity": identity.METRIC,
    "retrieval": retrieval.METRIC,
    "class_right": class_right.METRIC,
    "prompt_right": prompt_right.METRIC,
    "dinov2": dinov2.METRIC,
    "siglip2_i": siglip2_i.METRIC,
    "siglip2_t": siglip2_t.METRIC,
    "dino_subject": dino_subject.METRIC,
    "clip_i_subject": clip_i_subject.METRIC,
    "clip_t_background": clip_t_background.METRIC,
    "copy_similarity": copy_similarity.METRIC,
    "copied": copied.METRIC,
    "diversity": diversity.METRIC,
    "diversity_lpips": diversity_lpips.METRIC,
    "ssim_outside": ssim_outside.METRIC,
    "lpips_outside": lpips_outside.METRIC,
}

__all__ = ["METRICS", "Batch", "Metric"]
