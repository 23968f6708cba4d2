"""Images to pixels and back."""

import numpy as np
import pytest
import torch
from PIL import Image

from bdkit.models.preprocessing import (
    CLIP_MEAN,
    CLIP_STD,
    centre_crop,
    pixels_from_arrays,
    pixels_from_images,
    to_images,
)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_pixels_against_a_loop() -> None:
    arrays = np.stack([noise(4, 5), noise(4, 5)[::-1]])
    plain, clip = pixels_from_arrays(arrays), pixels_from_arrays(arrays, clip=True)
    assert plain.shape == clip.shape == (2, 3, 4, 5)
    assert plain.dtype == torch.float32
    for b, y, x, c in np.ndindex(arrays.shape):
        value = arrays[b, y, x, c] / 255
        assert float(plain[b, c, y, x]) == pytest.approx(2 * value - 1, abs=1e-6)
        assert float(clip[b, c, y, x]) == pytest.approx((value - CLIP_MEAN[c]) / CLIP_STD[c], abs=1e-5)


def test_pixels_go_back_to_the_same_image() -> None:
    image = Image.fromarray(noise(16, 16))
    (back,) = to_images(pixels_from_images([image], 16))
    assert np.array_equal(np.asarray(back), np.asarray(image))
    (half,) = to_images(torch.full((1, 3, 2, 2), 7.0).half())  # out of range and another type
    assert half.getextrema() == ((255, 255),) * 3


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (33, 8), (7, 5)])
def test_the_crop_keeps_the_centre_and_the_aspect(size: tuple[int, int]) -> None:
    width, height = size
    ramp = np.zeros((height, width, 3), dtype=np.uint8)
    ramp[..., 0] = np.linspace(0, 255, width)[None]
    ramp[..., 1] = np.linspace(0, 255, height)[:, None]
    cropped = np.asarray(centre_crop(Image.fromarray(ramp), 10), dtype=float)
    assert cropped.shape == (10, 10, 3)
    red, green = cropped[..., 0].mean(0), cropped[..., 1].mean(1)
    assert red.mean() == pytest.approx(127.5, abs=6)
    assert green.mean() == pytest.approx(127.5, abs=6)
    short = min(size)  # the share of the long side that is left
    assert np.ptp(red) == pytest.approx(255 * short / width, abs=255 * 1.3 / 10)
    assert np.ptp(green) == pytest.approx(255 * short / height, abs=255 * 1.3 / 10)


def test_an_image_of_the_right_size_is_not_touched_and_modes_are_converted() -> None:
    image = Image.fromarray(noise(10, 10))
    assert np.array_equal(np.asarray(centre_crop(image, 10)), np.asarray(image))
    assert centre_crop(image.convert("L"), 5).mode == "RGB"
    assert pixels_from_images([image.convert("P"), Image.fromarray(noise(9, 30)).convert("LA")], 6).shape == (
        2,
        3,
        6,
        6,
    )
