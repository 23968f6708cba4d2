"""Prompted context generation (Sec. 3.2): mask -> trimap -> closed-form matting -> alpha blending on a background."""

import warnings
from pathlib import Path
from types import ModuleType

import numpy as np

from bdkit.training.pretraining.corpus import write_arrays
from bdkit.utils.parallel import make_parts


def trimap(probability: np.ndarray, *, foreground: float = 0.9, background: float = 0.1) -> np.ndarray:
    """(H, W) float64: 1 where the subject is certain, 0 where it certainly is not, 0.5 in the unknown band between."""
    result = np.full(probability.shape, 0.5)
    result[probability >= foreground] = 1.0
    result[probability <= background] = 0.0
    return result


def trimap_of_mask(mask: np.ndarray, band: int = 2) -> np.ndarray:
    """Trimap of an exact mask (H, W) uint8: ``band`` pixels to each side of its edge are unknown."""
    from scipy.ndimage import binary_dilation, binary_erosion

    solid = mask > 127
    result = np.full(mask.shape, 0.5)
    result[binary_erosion(solid, iterations=band)] = 1.0
    result[~binary_dilation(solid, iterations=band)] = 0.0
    return result


def load_pymatting() -> ModuleType:
    """pymatting. Its numba sets OpenMP's number of threads for the whole process, torch's too: that is put back."""
    import torch

    threads = torch.get_num_threads()
    import pymatting

    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return pymatting


def closed_form_matte(image: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Levin's closed-form alpha (H, W) and foreground colours (H, W, 3), floats 0..1, by pymatting.

    Args:
        image: uint8 (H, W, 3).
        known: trimap (H, W).
    """
    pixels = image.astype(np.float64) / 255
    if not (known == 1).any() or not (known == 0).any():
        return (known == 1).astype(np.float64), pixels  # nothing to solve for
    pymatting = load_pymatting()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alpha = pymatting.estimate_alpha_cf(pixels, known)
        return alpha, pymatting.estimate_foreground_ml(pixels, alpha)


def blend(foreground: np.ndarray, alpha: np.ndarray, background: np.ndarray) -> np.ndarray:
    """alpha x foreground + (1 - alpha) x background, uint8 (..., H, W, 3); alpha uint8 (..., H, W)."""
    weight = alpha[..., None].astype(np.float32) / 255
    mixed = foreground.astype(np.float32) * weight + background.astype(np.float32) * (1 - weight)
    return mixed.round().astype(np.uint8)


def matte_of_scene(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Foreground (H, W, 3) and alpha (H, W), uint8, of one image, by its trimap."""
    alpha, foreground = closed_form_matte(image, trimap_of_mask(mask))
    return (foreground * 255).round().clip(0, 255).astype(np.uint8), (alpha * 255).round().clip(0, 255).astype(np.uint8)


def build_mattes(
    images: np.ndarray,
    masks: np.ndarray,
    folder: Path,
    *,
    part: int = 128,
    workers: int | None = None,
    progress: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Mattes of all images, cached in ``folder``, one file for each ``part`` images."""
    folder.mkdir(parents=True, exist_ok=True)
    starts = list(range(0, len(images), part))
    paths = [folder / f"mattes-{len(images)}-{start:06d}.npz" for start in starts]
    jobs = [
        (images[s : s + part], masks[s : s + part], p) for s, p in zip(starts, paths, strict=True) if not p.exists()
    ]
    make_parts(_matte_part, jobs, name="matting", workers=workers, progress=progress)
    foregrounds, alphas = [], []
    for path in paths:
        with np.load(path) as stored:
            foregrounds.append(stored["foreground"])
            alphas.append(stored["alpha"])
    return np.concatenate(foregrounds), np.concatenate(alphas)


def _matte_part(images: np.ndarray, masks: np.ndarray, path: Path) -> None:
    pairs = [matte_of_scene(i, m) for i, m in zip(images, masks, strict=True)]
    foreground, alpha = (np.stack(x) for x in zip(*pairs, strict=True))
    write_arrays(path, foreground=foreground, alpha=alpha)
