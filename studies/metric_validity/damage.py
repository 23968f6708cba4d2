"""Damage done to pixels, in graded strengths: what the study of the metrics feeds them (`python -m studies.metric_validity`).

Images are (H, W, 3) uint8, shares and alphas (H, W) or one number in 0..1.
"""

import numpy as np
from scipy.ndimage import gaussian_filter

from eval.score.metrics.base import FloatArray, PixelArray


def crossfade(picture: PixelArray, other: PixelArray, share: FloatArray | float) -> PixelArray:
    """(1 - share) of the image and share of the other; a share for each pixel, or one for all.

    Raises ValueError for images of different shapes and shares outside 0..1.
    """
    if picture.shape != other.shape:
        raise ValueError(f"images of {picture.shape} and of {other.shape} cannot be mixed")
    weights = np.asarray(share, dtype=np.float64)
    if weights.min() < 0 or weights.max() > 1:
        raise ValueError("a share is a number from 0 to 1")
    weights = weights[..., None] if weights.ndim else weights
    mixed = picture * (1 - weights) + other * weights
    return np.rint(mixed).astype(np.uint8)


def blur(picture: PixelArray, sigma: float) -> PixelArray:
    """The image under a Gaussian of `sigma` pixels; the edges are mirrored. Raises ValueError below 0."""
    if sigma < 0:
        raise ValueError(f"a blur of {sigma} pixels is none; give 0 or more")
    smooth = gaussian_filter(picture.astype(np.float64), (sigma, sigma, 0), mode="reflect")
    return np.rint(smooth).astype(np.uint8)
