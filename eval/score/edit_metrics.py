"""What an edit changed outside its mask, how different images look, and whose edges they have: metrics of pixels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from bdkit.utils.edges import canny

FloatArray = NDArray[np.floating]
PixelArray = NDArray[np.uint8]
# Two stacks of images (n, H, W, 3), uint8 -> (n, H, W) float64, how different they look at each place
PerceptualDistance = Callable[[PixelArray, PixelArray], FloatArray]
# Wang et al.'s window: a Gaussian of this many pixels, cut at 11 x 11, and constants for values in 0..255
SIGMA, TRUNCATE = 1.5, 3.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
# Strong edges: Canny with scikit-image's default smoothing, of a Gaussian of one pixel, and ControlNet's thresholds
EDGE_SIGMA, EDGE_LOW, EDGE_HIGH = 1.0, 100, 200


@dataclass(frozen=True, kw_only=True)
class Edit:
    """An edited image beside what it was made from.

    image, source: (H, W, 3) uint8; mask: (H, W) in 0..1, 1 where the edit may change pixels
    """

    image: PixelArray
    source: PixelArray
    mask: FloatArray


def ssim_outside(edits: Sequence[Edit]) -> FloatArray:
    """(n,) mean structural similarity (Wang et al. 2004), in -1 to 1 (1: kept), over the pixels outside each edit's
    mask; NaN where the mask covers everything. The source is pasted inside the mask first, so that nothing inside
    counts.
    """
    return np.array([mean_outside(ssim_map(paste_source(edit), edit.source), edit.mask) for edit in edits])


def lpips_outside(edits: Sequence[Edit], distance: PerceptualDistance) -> FloatArray:
    """(n,) mean LPIPS distance (arXiv 1801.03924), from 0 (kept), over the same pixels; NaN as in `ssim_outside`."""
    maps = (distance(paste_source(edit)[None], edit.source[None])[0] for edit in edits)
    return np.array([mean_outside(values, edit.mask) for values, edit in zip(maps, edits, strict=True)])


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
    return np.rint(edit.source * share + edit.image * (1 - share)).astype(np.uint8)


def mean_outside(values: FloatArray, mask: FloatArray) -> float:
    """The mean of (H, W) values weighted by 1 - mask; NaN where the mask covers everything."""
    weights = 1 - np.clip(mask, 0, 1)
    total = weights.sum()
    return float((values * weights).sum() / total) if total > 0 else float("nan")


def strong_edges(image: PixelArray) -> NDArray[np.bool_]:
    """(H, W) bool, the edges that count for `edge_f1`, of an (H, W, 3) uint8 image."""
    smooth = gaussian_filter(image.astype(np.float64), (EDGE_SIGMA, EDGE_SIGMA, 0))
    return canny(np.rint(smooth).astype(np.uint8), EDGE_LOW, EDGE_HIGH) > 0


def edge_f1(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """F1 of two (H, W) edge maps, 0 to 1: 2 x common pixels / (pixels of the one + pixels of the other); 1 if both are
    empty.

    A pixel matches itself alone, with no tolerance: small images are dense with edges, and within one pixel of an edge
    of any image lies one of any other (F1 0.7 for two unrelated scenes of a place, 0.26 without tolerance).
    """
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def pair_distances(images: PixelArray, groups: Sequence[Sequence[int]], distance: PerceptualDistance) -> FloatArray:
    """(n, n) mean distance of every two of n images (n, H, W, 3) of one group, 0 elsewhere."""
    distances = np.zeros((len(images), len(images)))
    for rows in groups:
        first, second = np.triu_indices(len(rows), k=1)
        left, right = np.array(rows)[first], np.array(rows)[second]
        means = distance(images[left], images[right]).mean(axis=(1, 2))
        distances[left, right] = distances[right, left] = means
    return distances


def _smooth(values: FloatArray) -> FloatArray:
    return np.asarray(gaussian_filter(values, (SIGMA, SIGMA, 0), truncate=TRUNCATE))
