"""The Fréchet distance of two sets of images in an encoder's space, with clean-fid's rules for resizing.

The distance is that of FID (arXiv 1706.08500); the rules are those of clean-fid (arXiv 2104.11222): bicubic with
antialias, in floating point, each channel by itself, never rounded to whole numbers.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from eval.score.encoders import Encoder, full_precision, normalise

FloatArray = NDArray[np.float64]


def clean_resize(image: Image.Image, size: int) -> NDArray[np.float32]:
    """(size, size, 3) float32 in 0 to 255; the whole image, whatever its shape. One of that size is as it was."""
    image = image.convert("RGB")
    pixels = np.asarray(image, dtype=np.float32)
    if image.size == (size, size):
        return pixels
    channels = [
        np.asarray(Image.fromarray(pixels[..., k]).resize((size, size), Image.Resampling.BICUBIC)) for k in range(3)
    ]
    return np.stack(channels, axis=-1).clip(0, 255)


@torch.inference_mode()
def frechet_features(encoder: Encoder, images: Sequence[Image.Image]) -> FloatArray:
    """(n, d) embeddings, not of unit length, of images as `clean_resize` gives them."""
    how, parts = encoder.how, []
    for start in range(0, len(images), encoder.batch_size):
        pixels = np.stack([clean_resize(image, how.crop) for image in images[start : start + encoder.batch_size]])
        with full_precision(encoder.device):
            found = encoder.features(normalise(pixels, how).to(encoder.device))
        parts.append(found.double().cpu().numpy())
    return np.concatenate(parts)


def frechet_distance(first: FloatArray, second: FloatArray) -> float:
    """The distance, at least 0, of the Gaussians of two sets of embeddings (n, d) and (m, d), at least 2 each:
    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), in float64. It falls as the sets grow, so compare sets of one size.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(f"{len(first)} and {len(second)} embeddings have no covariance; give at least 2 of each")
    means = first.mean(axis=0), second.mean(axis=0)
    covariances = [np.atleast_2d(np.cov(np.asarray(one, dtype=np.float64), rowvar=False)) for one in (first, second)]
    return gaussian_distance(means[0], covariances[0], means[1], covariances[1])


def gaussian_distance(
    mean: FloatArray, covariance: FloatArray, other: FloatArray, other_covariance: FloatArray
) -> float:
    """The same of Gaussians that are given by their means (d,) and covariances (d, d)."""
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    # C1 C2 has the eigenvalues of C1^(1/2) C2 C1^(1/2), which is symmetric: exact where C1 or C2 is singular, too
    crossed = np.sqrt(np.linalg.eigvalsh(root @ other_covariance @ root).clip(0)).sum()
    shift = mean - other
    distance = shift @ shift + np.trace(covariance) + np.trace(other_covariance) - 2 * crossed
    return max(0.0, float(distance))
