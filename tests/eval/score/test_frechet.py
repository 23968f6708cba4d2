import math

import numpy as np
import pytest
import scipy.linalg
from eval_helpers import exact_evaluators
from numpy.typing import NDArray
from PIL import Image

from eval.score.frechet import clean_resize, frechet_distance, frechet_features, gaussian_distance


def bicubic(x: float) -> float:
    """Keys' kernel with a = -0.5, as PIL has it."""
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


def resized_line(line: NDArray[np.float64], size: int) -> list[float]:
    """One line resampled with antialias: the kernel is as wide as the pixels that become one."""
    scale = len(line) / size
    width, result = max(scale, 1.0), []
    for k in range(size):
        centre = (k + 0.5) * scale
        first, last = max(0, int(centre - 2 * width + 0.5)), min(len(line), int(centre + 2 * width + 0.5))
        weights = [bicubic((at + 0.5 - centre) / width) for at in range(first, last)]
        result.append(sum(w * line[at] for w, at in zip(weights, range(first, last), strict=True)) / sum(weights))
    return result


def random_image(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_distance_of_gaussians_with_diagonal_covariances() -> None:
    rng = np.random.default_rng(0)
    means, variances = rng.normal(size=(2, 7)), rng.uniform(0.1, 3, size=(2, 7))
    expected = sum(
        (m - n) ** 2 + (math.sqrt(a) - math.sqrt(b)) ** 2 for m, n, a, b in zip(*means, *variances, strict=True)
    )
    found = gaussian_distance(means[0], np.diag(variances[0]), means[1], np.diag(variances[1]))
    assert found == pytest.approx(expected, rel=1e-12)


def test_distance_of_gaussians_whose_covariances_do_not_commute() -> None:
    one, other = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[0.5, -0.3], [-0.3, 3.0]])
    assert not np.allclose(one @ other, other @ one)
    product = one @ other  # the trace of a 2 x 2 root is known
    root = math.sqrt(np.trace(product) + 2 * math.sqrt(np.linalg.det(product)))
    expected = 4.0 + np.trace(one) + np.trace(other) - 2 * root
    found = gaussian_distance(np.array([1.0, 0.0]), one, np.array([1.0, 2.0]), other)
    assert found == pytest.approx(expected, rel=1e-12)


def test_distance_by_scipys_matrix_root() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(80, 20)), rng.normal(size=(60, 20)) @ rng.normal(size=(20, 20))
    one, other = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    shift = first.mean(axis=0) - second.mean(axis=0)
    expected = shift @ shift + np.trace(one + other - 2 * scipy.linalg.sqrtm(one @ other).real)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_distance_of_samples() -> None:
    rng = np.random.default_rng(1)
    first = rng.normal(size=(300, 5)) @ rng.normal(size=(5, 5))
    shift = np.array([1.0, -2.0, 0.0, 0.5, 3.0])
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(first, first + shift) == pytest.approx(shift @ shift, rel=1e-9)
    # twice the deviations: C2 = 4 C1, so the distance is the trace of C1
    wide = first.mean(axis=0) + 2 * (first - first.mean(axis=0))
    assert frechet_distance(first, wide) == pytest.approx(np.trace(np.cov(first, rowvar=False)), rel=1e-9)


def test_fewer_images_than_dimensions_still_have_a_distance() -> None:
    few = np.random.default_rng(2).normal(size=(4, 12))  # covariances without an inverse
    assert frechet_distance(few, few + 1) == pytest.approx(12, rel=1e-6)
    assert frechet_distance(np.zeros((3, 2)), np.ones((3, 2))) == pytest.approx(2, abs=1e-12)
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(few[:1], few)


@pytest.mark.parametrize("size", [(23, 41), (96, 64), (7, 9)])
def test_resizing_is_bicubic_with_antialias_and_not_rounded(size: tuple[int, int]) -> None:
    image = random_image(*size)
    found = clean_resize(image, 16)
    pixels = np.asarray(image, dtype=np.float64)
    for channel in range(3):
        across = np.array([resized_line(line, 16) for line in pixels[..., channel]])
        both = np.array([resized_line(line, 16) for line in across.T]).T.clip(0, 255)
        np.testing.assert_allclose(found[..., channel], both, atol=2e-3)
    assert found.dtype == np.float32
    assert np.abs(found - found.round()).max() > 0.1


def test_image_of_the_right_size_is_as_it_was() -> None:
    image = random_image(16, 16)
    assert np.array_equal(clean_resize(image, 16), np.asarray(image))


def test_features_are_the_encoders_before_they_have_unit_length() -> None:
    encoder = exact_evaluators().encoders["dino"]  # 32 pixels, 5 images a batch
    images = [random_image(32, 32, seed) for seed in range(7)]
    found = frechet_features(encoder, images)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    assert found.dtype == np.float64
    assert np.abs(lengths - 1).max() > 0.01
    np.testing.assert_allclose(found / lengths, encoder.embed_images(images), atol=1e-5)
