"""SSIM outside the mask: does an edit keep the rest of the image (Wang et al. 2004)? Not in the paper."""

import numpy as np
from scipy.ndimage import gaussian_filter

from eval.score.metrics.base import Batch, Edit, FloatArray, Metric, PixelArray

# Wang et al.'s window: a Gaussian of this many pixels, cut at 11 x 11, and constants for values in 0..255
SIGMA, TRUNCATE = 1.5, 3.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def score(batch: Batch) -> FloatArray:
    """(n,) mean structural similarity, in -1 to 1 (1: kept), over the pixels outside each edit's mask; NaN where the
    mask covers everything. The source is pasted inside the mask first, so that nothing there counts. The batch must
    have edits.
    """
    assert batch.edits is not None
    values = [mean_outside(ssim_map(paste_source(edit), edit.source), edit.mask) for edit in batch.edits]
    return np.array(values, dtype=np.float64)


def ssim_map(first: PixelArray, second: PixelArray) -> FloatArray:
    """(H, W) structural similarity of two (H, W, 3) uint8 images, the mean of their channels, in -1 to 1.

    Agrees with skimage's `structural_similarity(..., gaussian_weights=True, use_sample_covariance=False)`.
    """
    x, y = first.astype(np.float64), second.astype(np.float64)
    mean_x, mean_y = _smooth(x), _smooth(y)
    variance_x = _smooth(x * x) - mean_x**2
    variance_y = _smooth(y * y) - mean_y**2
    covariance = _smooth(x * y) - mean_x * mean_y
    above = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    below = (mean_x**2 + mean_y**2 + C1) * (variance_x + variance_y + C2)
    return np.asarray((above / below).mean(axis=2))


def paste_source(edit: Edit) -> PixelArray:
    """The edited image with its source inside the mask."""
    share = np.clip(edit.mask, 0, 1)[..., None]
    mixed = edit.source * share + edit.picture * (1 - share)
    return np.rint(mixed).astype(np.uint8)


def mean_outside(values: FloatArray, mask: FloatArray) -> float:
    """The mean of (H, W) values weighted by 1 - mask; NaN where the mask covers everything."""
    weights = 1 - np.clip(mask, 0, 1)
    total = weights.sum()
    return float((values * weights).sum() / total) if total > 0 else float("nan")


def _smooth(values: FloatArray) -> FloatArray:
    return np.asarray(gaussian_filter(values, (SIGMA, SIGMA, 0), truncate=TRUNCATE))


METRIC = Metric(
    name="ssim_outside",
    title="SSIM outside the edit",
    encoder="pixels",
    score=score,
    of_edits=True,
    partial=True,
    optional=True,
)
