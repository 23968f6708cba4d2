"""Matting methods against the exact alpha."""

import numpy as np
import pytest

from bdkit.training.preparation.matting_methods import MATTING_METHODS, band_trimap, estimate_alpha, estimate_foreground


@pytest.mark.parametrize("method", MATTING_METHODS)
def test_matting_comes_close_to_the_exact_alpha(method: str, scenes: list[tuple[np.ndarray, np.ndarray, str]]) -> None:
    errors, guesses = [], []
    for image, alpha, _ in scenes[:4]:
        known = band_trimap(alpha / 255, 0.04)
        result = estimate_alpha(image, known, method)
        assert result.min() >= 0
        assert result.max() <= 1
        assert (result[known != 0.5] == known[known != 0.5]).all()
        errors.append(np.abs(result - alpha / 255)[known == 0.5].mean())
        guesses.append(np.abs(0.5 - alpha / 255)[known == 0.5].mean())
    assert np.mean(errors) < 0.75 * np.mean(guesses)


def test_trimap_of_a_mask() -> None:
    mask = np.zeros((50, 100))
    mask[10:, 20:60] = 1.0
    known = band_trimap(mask, 0.04)  # two pixels
    assert (known[12:, 22:58] == 1).all()  # at the lower edge the subject goes on
    assert known[30, 18:22].tolist() == [0.5] * 4
    assert known[30, 17] == 0
    assert (known[8:12, 40] == 0.5).all()


def test_foreground_loses_the_background() -> None:
    alpha = np.zeros((32, 32))
    alpha[:, 12:] = 1
    alpha[:, 11] = 0.5
    red, blue = np.array([200, 0, 0]), np.array([0, 0, 200])
    image = (alpha[..., None] * red + (1 - alpha[..., None]) * blue).round().astype(np.uint8)
    assert image[5, 11].tolist() == [100, 0, 100]
    assert np.abs(estimate_foreground(image, alpha)[5, 11].astype(int) - red).max() < 25
