"""What an edit changed outside its mask, as PIE-Bench's published code measures it, and over the background alone.

Published (cure-lab/PnPInversion, evaluation/matrics_calculator.py): both images times 1 - mask, so that the blanked
inside counts as kept; values in 0..1; torchmetrics' PSNR, MSE, SSIM and LPIPS.
"""

import math

import numpy as np
from numpy.typing import NDArray

from eval.score.edit_metrics import Edit, FloatArray, PerceptualDistance, PixelArray, ssim_map

# torchmetrics up to 1.6 leaves out the border that the window of 11 pixels overlaps
SSIM_BORDER = 5


def blank(image: PixelArray, kept: NDArray[np.bool_]) -> PixelArray:
    """The image (H, W, 3), black where `kept` (H, W) is False."""
    return np.where(kept[..., None], image, np.uint8(0))


def mean_squared_error(first: PixelArray, second: PixelArray) -> float:
    """Of values in 0..1, over all pixels and channels."""
    return float(np.square((first.astype(np.float64) - second.astype(np.float64)) / 255).mean())


def psnr(error: float) -> float:
    """dB of a mean squared error of values in 0..1; infinite for 0."""
    return -10 * math.log10(error) if error > 0 else math.inf


def ssim(first: PixelArray, second: PixelArray) -> float:
    """torchmetrics' structural similarity with its defaults, of values in 0..1, in -1 to 1: a Gaussian window of sigma
    1.5 and 11 pixels, the border left out. Images must have more than 10 pixels a side.
    """
    inner = slice(SSIM_BORDER, -SSIM_BORDER)
    return float(ssim_map(first, second)[inner, inner].mean())


def lpips(first: PixelArray, second: PixelArray, distance: PerceptualDistance) -> float:
    """LPIPS of two images, from 0. distance: one that gives the means over each layer's grid"""
    return float(distance(first[None], second[None]).mean())


def mean_squared_error_outside(edit: Edit) -> float:
    """`mean_squared_error` over the pixels outside the mask alone; NaN where it covers everything."""
    weights: FloatArray = 1 - np.clip(edit.mask, 0, 1)
    if not weights.any():
        return math.nan
    squares = np.square((edit.image.astype(np.float64) - edit.source.astype(np.float64)) / 255).mean(axis=2)
    return float((squares * weights).sum() / weights.sum())
