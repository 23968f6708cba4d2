"""From image and trimap to alpha and foreground colours, by the method of the user's choice."""

import io
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout

import cv2
import numpy as np

from bdkit.training.pretraining.matting import load_pymatting


def band_trimap(mask: np.ndarray, band: float) -> np.ndarray:
    """Trimap of a binary mask (H, W) in 0..1: within `band` of the shorter side to either side of its edge is unknown.

    Returns 0, 0.5 and 1, float64 (H, W).
    """
    radius = max(1, round(band * min(mask.shape)))
    solid = (mask > 0.5).astype(np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    # Beyond the image's edge is more of the same
    grown = cv2.dilate(solid, kernel, borderType=cv2.BORDER_REPLICATE)
    shrunk = cv2.erode(solid, kernel, borderType=cv2.BORDER_REPLICATE)
    return (grown.astype(np.float64) + shrunk) / 2


def guided_filter_alpha(image: np.ndarray, trimap: np.ndarray) -> np.ndarray:
    """Alpha as a local linear function of the colours, fitted to the known pixels of each window: fast and rough.

    The guided filter (He et al. 2010, colour guide), but with unknown pixels left out of the fit.

    Args:
        image: (H, W, 3) in 0..1.
        trimap: 0, 0.5 and 1, (H, W).
    """
    weight = (trimap != 0.5).astype(np.float64)
    farthest = cv2.distanceTransform((trimap == 0.5).astype(np.uint8), cv2.DIST_L2, 5).max()
    radius = round(1.5 * float(farthest)) + 2  # reaches known pixels from everywhere in the band
    size = (2 * radius + 1, 2 * radius + 1)

    def blur(values: np.ndarray) -> np.ndarray:
        return cv2.blur(values, size, borderType=cv2.BORDER_REFLECT)

    share = np.maximum(blur(weight), 1e-6)
    centre, target = blur(image * weight[..., None]) / share[..., None], blur(trimap * weight) / share
    covariance = np.empty((*trimap.shape, 3, 3))
    for i in range(3):
        for j in range(i, 3):
            products = blur(image[..., i] * image[..., j] * weight) / share
            covariance[..., i, j] = covariance[..., j, i] = products - centre[..., i] * centre[..., j]
    cross = blur(image * (trimap * weight)[..., None]) / share[..., None] - centre * target[..., None]
    slope = np.linalg.solve(covariance + 1e-3 * np.eye(3), cross[..., None])[..., 0]
    offset = target - (slope * centre).sum(-1)
    alpha: np.ndarray = (blur(slope) * image).sum(-1) + blur(offset)
    return alpha


def _of_pymatting(name: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def estimate(image: np.ndarray, trimap: np.ndarray) -> np.ndarray:
        alpha: np.ndarray = getattr(load_pymatting(), name)(image, trimap)
        return alpha

    return estimate


# Each takes an image (H, W, 3) and a trimap (H, W), float64 in 0..1, and gives alpha (H, W). Seconds a megapixel and
# errors: benchmarks/matting.py
MATTING_METHODS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "cf": _of_pymatting("estimate_alpha_cf"),
    "knn": _of_pymatting("estimate_alpha_knn"),
    "lkm": _of_pymatting("estimate_alpha_lkm"),
    "guided": guided_filter_alpha,
}


def estimate_alpha(image: np.ndarray, trimap: np.ndarray, method: str = "cf") -> np.ndarray:
    """Alpha in 0..1, float64 (H, W), of an image, uint8 (H, W, 3), and a trimap of 0, 0.5 and 1, (H, W)."""
    if not (trimap == 1).any() or not (trimap == 0).any() or not (trimap == 0.5).any():
        return (trimap == 1).astype(np.float64)  # nothing to solve
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # pymatting prints its warnings
        warnings.simplefilter("ignore")
        alpha = MATTING_METHODS[method](image.astype(np.float64) / 255, trimap)
    return np.where(trimap == 0.5, np.clip(alpha, 0, 1), trimap)  # pymatting's keep known pixels only nearly


def estimate_foreground(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The subject's own colours, uint8 (H, W, 3), where those of the image are mixed with its background's.

    By multi-level estimation (Germer et al. 2020); the same for every method.
    """
    colours = load_pymatting().estimate_foreground_ml(image.astype(np.float64) / 255, alpha)
    return (colours * 255).round().clip(0, 255).astype(np.uint8)
