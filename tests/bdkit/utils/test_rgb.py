"""The one conversion: PIL images and arrays give what a file of them gives; closed forms where there are any."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from colour_profiles import cmyk_profile, matrix_profile, to_srgb_by_matrix
from PIL import Image

from bdkit.utils.errors import InputError
from bdkit.utils.images import read_image
from bdkit.utils.rgb import as_rgb, to_rgb

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)
RGBA = np.dstack([RGB, RNG.integers(0, 256, (12, 20), dtype=np.uint8)])
GREY16 = RNG.integers(0, 65536, (12, 20), dtype=np.uint16)
FLOAT = RNG.random((12, 20), dtype=np.float32)


def turned() -> Image.Image:
    image = Image.fromarray(RGB)
    image.getexif()[0x0112] = 6
    return image


def palette() -> Image.Image:
    image = Image.fromarray(RGB).quantize(16)
    image.info["transparency"] = 3
    return image


def with_profile() -> Image.Image:
    image = Image.fromarray(RGB)
    image.info["icc_profile"] = matrix_profile()
    return image


# name -> image, suffix of a file that keeps it, options of saving
IMAGES: dict[str, tuple[Callable[[], Image.Image], str, dict[str, object]]] = {
    "rgb": (lambda: Image.fromarray(RGB), "png", {}),
    "exif": (turned, "png", {"exif": turned().getexif()}),
    "rgba": (lambda: Image.fromarray(RGBA), "png", {}),
    "la": (lambda: Image.fromarray(RGBA[..., 2:]), "png", {}),
    "grey": (lambda: Image.fromarray(RGB[..., 0]), "png", {}),
    "palette": (palette, "png", {"transparency": 3}),
    "one bit": (lambda: Image.fromarray(RGB[..., 0] > 99), "png", {}),
    "grey16": (lambda: Image.fromarray(GREY16), "png", {}),
    "float": (lambda: Image.fromarray(FLOAT), "tiff", {}),
    "float 255": (lambda: Image.fromarray(FLOAT * 255), "tiff", {}),
    "cmyk": (lambda: Image.fromarray(RGBA, "CMYK"), "tiff", {}),
    "profile": (with_profile, "png", {}),
}
SHOWN_AS_IS = ("rgb", "grey", "one bit")


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_given_is_the_image_of_its_file(name: str, tmp_path: Path) -> None:
    make, suffix, options = IMAGES[name]
    make().save(tmp_path / f"x.{suffix}", **options)
    file = read_image(tmp_path / f"x.{suffix}")
    given, opened = as_rgb(make()), as_rgb(Image.open(tmp_path / f"x.{suffix}"))
    assert given.mode == "RGB"
    assert given.info == {}
    np.testing.assert_array_equal(np.asarray(given), np.asarray(file))
    np.testing.assert_array_equal(np.asarray(opened), np.asarray(file))
    np.testing.assert_array_equal(np.asarray(as_rgb(given)), np.asarray(given))
    if name not in SHOWN_AS_IS:
        plain = make().convert("RGB")
        assert plain.size != given.size or not np.array_equal(np.asarray(plain), np.asarray(given)) or name == "cmyk"


def test_transparency_and_depth_by_closed_forms() -> None:
    alpha = RGBA[..., 3:] / 255
    np.testing.assert_allclose(
        np.asarray(as_rgb(RGBA), dtype=float), RGBA[..., :3] * alpha + 255 * (1 - alpha), atol=0.51 + 0.5
    )
    assert np.array_equal(np.asarray(as_rgb(Image.fromarray(GREY16)))[..., 1], np.rint(GREY16 / 257))
    assert np.array_equal(np.asarray(as_rgb(Image.fromarray(FLOAT)))[..., 1], np.rint(FLOAT * 255.0))


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (RGB, RGB),
        (RGB.astype(np.int64), RGB),
        (RGB / 255, RGB),
        ((RGB / 255).astype(np.float16), RGB),
        (RGB[..., 0], np.dstack([RGB[..., 0]] * 3)),
        (RGB[..., :1], np.dstack([RGB[..., 0]] * 3)),
        (RGB.astype(np.uint16) * 257, RGB),
        (RGB > 99, (RGB > 99) * 255),
        (RGB[::-1, ::-1], RGB[::-1, ::-1]),
        (np.dstack([RGB, np.full((12, 20), 255, dtype=np.uint8)]), RGB),
    ],
)
def test_arrays(array: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(np.asarray(as_rgb(array)), expected)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (RGB.astype(np.int32) + 1, "whole numbers lies in 1..256"),
        (RGB.astype(np.int16) - 1, "whole numbers lies in -1..254"),
        (RGB.astype(np.float32), "floats lies in .*give floats in 0..1, or uint8"),
        (np.where(RGB > 250, np.nan, 0.5), "floats lies in nan"),
        (np.full((4, 4, 3), 200, dtype=np.uint16), "200 of 65535 as its largest value; give uint8"),
        (np.zeros((4, 4, 5)), "shape .4, 4, 5. is no image"),
        (np.zeros(4), "is no image"),
        (np.zeros((0, 4, 3)), "is no image"),
        (np.zeros((4, 4, 3), dtype=complex), "complex128 is no image"),
        (np.array([[["a"]]]), "is no image"),
        (Image.fromarray(np.full((4, 4), 300.0, dtype=np.float32)), "holds grey values in 300..300"),
        (Image.fromarray(np.full((4, 4), -5, dtype=np.int32)), "holds grey values in -5..-5"),
        (Image.new("RGB", (90, 10)), "is a strip"),
    ],
)
def test_what_is_out_of_range_is_refused_in_one_line(array: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        as_rgb(array)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("largest", [255, 1023, 4095])
def test_sixteen_bits_with_fewer_in_them_are_named_with_their_largest_value(largest: int, tmp_path: Path) -> None:
    values = np.linspace(0, largest, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "x.png")
    Image.fromarray(values).save(tmp_path / "x.tif")
    for name in ("x.png", "x.tif"):
        with pytest.warns(UserWarning, match=rf"{name} comes out black: its largest value is {largest} of 65535"):
            read_image(tmp_path / name)
    with pytest.warns(UserWarning, match="the image comes out black"):
        as_rgb(Image.fromarray(values))


@pytest.mark.parametrize(("largest", "named"), [(255, 255), (4095, 4095), (200, 255)])
def test_sixteen_bit_colour_too(largest: int, named: int, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    values = np.linspace(0, largest, 192).astype(np.uint16).reshape(8, 8, 3)
    for name in ("x.png", "x.tif"):
        cv2.imwrite(str(tmp_path / name), values)
    with pytest.warns(UserWarning, match=rf"x.png comes out black: its largest value is at most {named} of 65535"):
        read_image(tmp_path / "x.png")
    cv2.imwrite(str(tmp_path / "y.png"), values * (65535 // largest))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.asarray(read_image(tmp_path / "y.png")).max() > 250


def test_a_tiff_of_twelve_bits_is_not_dark(tmp_path: Path) -> None:
    rows = bytes.fromhex("000fff800000") * 2  # values 0, 4095, 2048, 0
    entries = [(256, 4, 4), (257, 4, 2), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1),
               (278, 4, 2), (279, 4, len(rows))]  # fmt: skip
    data = b"II*\0" + (8 + len(rows)).to_bytes(4, "little") + rows + len(entries).to_bytes(2, "little")
    for tag, kind, value in entries:
        data += tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + (1).to_bytes(4, "little")
        data += value.to_bytes(4, "little")
    (tmp_path / "x.tif").write_bytes(data + b"\0" * 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.asarray(read_image(tmp_path / "x.tif"))[..., 0].tolist() == [[0, 255, 128, 0]] * 2


def test_a_wide_profile_is_converted_and_scoring_ignores_it(tmp_path: Path) -> None:
    with_profile().save(tmp_path / "x.png")
    expected = to_srgb_by_matrix(RGB.astype(float))
    assert np.abs(expected - RGB).max() > 40
    np.testing.assert_allclose(np.asarray(read_image(tmp_path / "x.png"), dtype=float), expected, atol=1.6)
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "x.png", to_srgb=False)), RGB)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_a_profile_of_transparent_and_palette_images(mode: str) -> None:
    image = Image.fromarray(RGBA) if mode == "RGBA" else Image.fromarray(RGB).quantize(64)
    plain = np.asarray(image.convert("RGB"), dtype=float)
    image.info["icc_profile"] = matrix_profile()
    alpha = RGBA[..., 3:] / 255 if mode == "RGBA" else 1.0
    expected = to_srgb_by_matrix(plain) * alpha + 255 * (1 - alpha)
    np.testing.assert_allclose(np.asarray(as_rgb(image), dtype=float), expected, atol=2.1)


def test_a_press_profile_is_used(tmp_path: Path) -> None:
    inks = np.zeros((4, 8, 4), dtype=np.uint8)
    inks[:, 4:, 0] = 255
    Image.fromarray(inks, "CMYK").save(tmp_path / "x.tif", icc_profile=cmyk_profile(50.0))
    image = np.asarray(read_image(tmp_path / "x.tif"), dtype=int)
    np.testing.assert_allclose(image[0, 0], [255] * 3, atol=2)
    np.testing.assert_allclose(image[0, 6], [119] * 3, atol=3)  # L* 50 in sRGB
    ignored = np.asarray(read_image(tmp_path / "x.tif", to_srgb=False))
    np.testing.assert_array_equal(ignored[0, 6], [0, 255, 255])


@pytest.mark.parametrize("name", ["sRGB", "sRGB IEC61966-2.1", "sRGB built-in"])
def test_srgb_itself_changes_nothing(name: str) -> None:
    image = Image.fromarray(RGB)
    image.info["icc_profile"] = matrix_profile(name=name)
    np.testing.assert_array_equal(np.asarray(as_rgb(image)), RGB)


def test_a_broken_profile_is_named_and_one_of_another_mode_left_out() -> None:
    image = Image.fromarray(RGB)
    image.info["icc_profile"] = b"not a profile"
    with pytest.warns(UserWarning, match="the image: its colour profile cannot be used"):
        np.testing.assert_array_equal(np.asarray(as_rgb(image)), RGB)
    image.info["icc_profile"] = cmyk_profile()
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), RGB)
    grey = Image.fromarray(RGB[..., 0])
    grey.info["icc_profile"] = matrix_profile()
    levels = np.asarray(as_rgb(grey), dtype=float)
    np.testing.assert_allclose(levels, to_srgb_by_matrix(np.dstack([RGB[..., 0]] * 3).astype(float)), atol=1.6)


def test_alpha_does_not_hide_that_an_array_is_dark() -> None:
    dark = np.dstack([np.full((8, 8, 3), 100, np.uint16), np.full((8, 8), 65535, np.uint16)])
    with pytest.raises(InputError, match="100 of 65535 as its largest value"):
        as_rgb(dark)
