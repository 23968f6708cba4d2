"""Images to pixels and back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bdkit.models.preprocessing import (
    CLIP_MEAN,
    CLIP_STD,
    as_image,
    centre_crop,
    pixels_from_arrays,
    pixels_from_images,
    to_images,
)
from bdkit.testing.tiny_model import tiny_model
from bdkit.training.finetuning import cache_latents
from bdkit.utils.errors import InputError
from bdkit.utils.images import read_image


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


def odd_image(kind: str) -> Image.Image:
    image = Image.fromarray(noise(24, 40))
    if kind == "rotated":
        image.getexif()[0x0112] = 6
    elif kind == "transparent":
        image.putalpha(Image.fromarray(noise(24, 40)[::-1, :, 0].copy()))
    elif kind == "16 bit":
        image = Image.fromarray(noise(24, 40)[..., 0].astype(np.uint16) * 257)
    elif kind == "float":
        image = Image.fromarray((noise(24, 40)[..., 0] / 255).astype(np.float32))
    return image


@pytest.mark.parametrize("kind", ["rotated", "transparent", "16 bit", "float"])
def test_subject_vectors_are_those_of_the_file(kind: str, tmp_path: Path) -> None:
    model, suffix = tiny_model(), "tiff" if kind == "float" else "png"
    odd_image(kind).save(tmp_path / f"x.{suffix}", **({"exif": odd_image(kind).getexif()} if kind == "rotated" else {}))
    expected = model.encode_subject(read_image(tmp_path / f"x.{suffix}"), "dog")
    given: list[object] = [odd_image(kind)]
    if kind != "rotated":
        values = np.asarray(odd_image(kind))
        given += [values, torch.from_numpy(values.astype(np.int32) if kind == "16 bit" else values.copy())]
    if kind == "16 bit":
        given[2] = torch.from_numpy(values / 65535)
    elif kind == "transparent":
        given[2] = torch.from_numpy(values.copy()).permute(2, 0, 1)
    for image in given:
        vectors = model.encode_subject(image, "dog")
        cosine = torch.nn.functional.cosine_similarity(vectors.flatten(), expected.flatten(), 0)
        assert float(cosine) == pytest.approx(1, abs=1e-6)
    assert torch.equal(cache_latents(model, [odd_image(kind)], 0), cache_latents(model, [as_image(given[0])], 0))


def test_tensors_of_any_type_and_their_refusals() -> None:
    image = noise(9, 12)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    for given in (tensor, tensor.long(), tensor / 255, (tensor / 255).half(), tensor.double() / 255):
        assert np.array_equal(np.asarray(as_image(given)), image)
    assert np.abs(np.asarray(as_image((tensor / 255).bfloat16())).astype(int) - image).max() <= 1
    assert as_image(tensor[:1]).getextrema() == as_image(tensor[0]).getextrema()
    for wrong, words in [
        (tensor.long() + 1, "whole numbers lies in"),
        (tensor.float(), "floats lies in"),
        (tensor.permute(1, 2, 0), "give .channels, height, width."),
        (torch.zeros(1, 3, 4, 4), "is no image"),
        ("x.png", "str 'x.png' is no image; give a PIL image"),
        (None, "None is no image"),
        ([image], "list .* is no image"),
    ]:
        with pytest.raises(InputError, match=words):
            as_image(wrong)


@pytest.mark.parametrize("given", [None, 3, "dog.png", Path("dog.png"), [None], ["dog.png"], np.float32(1), []])
def test_what_is_no_image_is_refused_wherever_images_are_taken(model: Any, given: Any) -> None:
    for call in (
        lambda: model.encode_subject(given, "dog"),
        lambda: model.mean_subjects(given, "dog"),
        lambda: cache_latents(model, given, 0),
        lambda: centre_crop(given, 8),
    ):
        with pytest.raises(InputError, match=r"is no image; give a PIL image|no (subject )?images? (was|to|is)"):
            call()
