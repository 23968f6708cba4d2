import os
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bdkit.utils.errors import InputError
from bdkit.utils.image_formats import SUFFIXES
from bdkit.utils.images import decode_image, list_images, read_image, read_images, write_png
from bdkit.utils.rgb import MAX_PIXELS

RED = (200, 10, 10)


def half_red(size: tuple[int, int] = (40, 20)) -> Image.Image:
    """Left half red, right half black."""
    image = Image.new("RGB", size)
    image.paste(RED, (0, 0, size[0] // 2, size[1]))
    return image


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tif"])
def test_reads_rgb_of_every_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    half_red().save(path)
    image = read_image(path)
    assert image.mode == "RGB"
    assert image.size == (40, 20)
    np.testing.assert_allclose(np.asarray(image)[10, 5], RED, atol=12)


@pytest.mark.parametrize(("orientation", "red_at"), [(3, (30, 10)), (6, (10, 5)), (8, (10, 35))])
def test_applies_exif_orientation(tmp_path: Path, orientation: int, red_at: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    half_red().save(tmp_path / "x.png", exif=exif)
    image = read_image(tmp_path / "x.png")
    assert image.size == ((40, 20) if orientation == 3 else (20, 40))
    assert image.getpixel(red_at) == RED


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff", "jpg"])
def test_damaged_exif_data_cost_the_rotation_and_not_the_image(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    half_red().save(path, **({} if suffix == "tiff" else {"exif": b"Exif\0\0II*\0\xff\xff\xff\xffjunk"}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_image(path).size == (40, 20)
        assert decode_image(path.read_bytes(), "x")[0].size == (40, 20)


def test_lays_transparency_on_white(tmp_path: Path) -> None:
    for name, mode, colour, expected in [
        ("rgba", "RGBA", (200, 0, 0, 0), (255, 255, 255)),
        ("half", "RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("la", "LA", (0, 0), (255, 255, 255)),
    ]:
        Image.new(mode, (4, 4), colour).save(tmp_path / f"{name}.png")
        assert read_image(tmp_path / f"{name}.png").getpixel((1, 1)) == expected
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.save(tmp_path / "p.png", transparency=1)
    assert read_image(tmp_path / "p.png").getpixel((1, 1)) == (255, 255, 255)


def test_scales_sixteen_bit_grey(tmp_path: Path) -> None:
    values = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16)
    for suffix in ("png", "tif"):
        Image.fromarray(values).save(tmp_path / f"x.{suffix}")
        image = read_image(tmp_path / f"x.{suffix}")
        np.testing.assert_array_equal(np.asarray(image)[..., 0], [[0, 100], [200, 255]])
        assert image.mode == "RGB"


def test_scales_float_grey(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 1.0]], dtype=np.float32)).save(tmp_path / "x.tif")
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "x.tif"))[0, :, 0], [0, 255])


def test_converts_grey_one_bit_and_cmyk(tmp_path: Path) -> None:
    Image.new("L", (4, 4), 77).save(tmp_path / "l.png")
    assert read_image(tmp_path / "l.png").getpixel((0, 0)) == (77, 77, 77)
    Image.new("1", (4, 4), 1).save(tmp_path / "one.png")
    assert read_image(tmp_path / "one.png").getpixel((0, 0)) == (255, 255, 255)
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=100)
    red, green, blue = np.asarray(read_image(tmp_path / "c.jpg"))[8, 8].tolist()
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "tif"])
def test_truncated_image_is_refused(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"whole.{suffix}")
    data = (tmp_path / f"whole.{suffix}").read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=f"cut.{suffix} is not a readable image"):
        read_image(tmp_path / f"cut.{suffix}")


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"\xff\xd8\xff\xe0junk"])
def test_junk_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(InputError, match=r"x\.png is not a readable image"):
        read_image(tmp_path / "x.png")


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is missing"):
        read_image(tmp_path / "no.png")
    with pytest.raises(InputError, match="is a folder; give an image file"):
        read_image(tmp_path)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has hardly any pixels: decoding it would need the claimed memory."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("side", [8001, 10_000, 60_000])
def test_huge_image_is_refused_before_decoding(tmp_path: Path, side: int) -> None:
    (tmp_path / "x.png").write_bytes(png_header(side, side))
    assert side * side > MAX_PIXELS
    with pytest.raises(InputError, match="more than 64 million pixels"):
        read_image(tmp_path / "x.png")


def test_strip_is_refused_and_eight_to_one_is_not(tmp_path: Path) -> None:
    Image.new("RGB", (10, 1)).save(tmp_path / "strip.png")
    Image.new("RGB", (3, 30)).save(tmp_path / "tall.png")
    Image.new("RGB", (8, 1)).save(tmp_path / "fits.png")
    for name in ("strip", "tall"):
        with pytest.raises(InputError, match="is a strip"):
            read_image(tmp_path / f"{name}.png")
    assert read_image(tmp_path / "fits.png").size == (8, 1)


def test_folder_in_name_order_without_other_files(tmp_path: Path) -> None:
    for name, grey in [("b.PNG", 2), ("a.png", 1), (".hidden.png", 9)]:
        with open(tmp_path / name, "wb") as file:
            Image.new("L", (2, 2), grey).save(file, "PNG")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "c.png").mkdir()
    assert [image.getpixel((0, 0)) for image in read_images(tmp_path)] == [(1, 1, 1), (2, 2, 2)]


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images in"):
        read_images(tmp_path)
    (tmp_path / "IMG_1.HEIC").write_bytes(b"x")
    with pytest.raises(InputError, match="camera's own format"):
        read_images(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        read_images(tmp_path / "no")


def test_folder_with_one_bad_image_names_it(tmp_path: Path) -> None:
    half_red().save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"bad")
    with pytest.raises(InputError, match=r"b\.jpg"):
        read_images(tmp_path)


def test_write_png_makes_folders_and_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one/x.png", "two/x.png"):
        write_png(half_red(), tmp_path / name)
    assert (tmp_path / "one/x.png").read_bytes() == (tmp_path / "two/x.png").read_bytes()
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "one/x.png")), np.asarray(half_red()))
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["x.png"]


WRITE_OVER_THE_LIMIT = """
import resource, sys
from pathlib import Path
from PIL import Image
from bdkit.utils.errors import InputError
from bdkit.utils.images import write_png
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_png(Image.effect_noise((200, 200), 90), Path(sys.argv[1]))
except InputError as error:
    print(error)
    sys.exit(2)
"""


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "x.png"
    target.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", WRITE_OVER_THE_LIMIT, str(target)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert f"cannot write {target}" in done.stdout
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


# Registered by Pillow, but not decoded by it alone, or no image of a photo's kind
NOT_READ = {
    ".blp", ".bufr", ".cur", ".dcx", ".ps", ".eps", ".fit", ".fits", ".fli", ".flc", ".ftc", ".ftu", ".gbr", ".grib",
    ".h5", ".hdf", ".iim", ".im", ".mpg", ".mpeg", ".msp", ".palm", ".pcd", ".pdf", ".pxr", ".wmf", ".emf",
}  # fmt: skip


def test_the_list_of_suffixes_is_pillows_and_every_format_that_can_be_written_is_read(tmp_path: Path) -> None:
    registered = Image.registered_extensions()
    assert set(SUFFIXES) == set(registered) - NOT_READ
    assert len(set(SUFFIXES)) == len(SUFFIXES)
    for suffix in SUFFIXES:
        image_format = registered[suffix]
        # the JPEG plugin opens MPO
        assert image_format in Image.OPEN or image_format == "MPO"
        if image_format in Image.SAVE:
            path = tmp_path / f"x{suffix}"
            image = half_red((64, 64))
            image = image.convert("1") if image_format == "XBM" else image.convert("L") if suffix == ".pfm" else image
            image.convert("F" if suffix == ".pfm" else image.mode).save(path, image_format)
            assert read_image(path).mode == "RGB"


@pytest.mark.parametrize("suffix", ["avif", "jfif", "jpe", "jp2", "ppm", "tga", "qoi", "JPG", "mpo"])
def test_a_folder_of_any_suffix_is_read(tmp_path: Path, suffix: str) -> None:
    half_red((64, 32)).save(tmp_path / "a.jpg")
    half_red((64, 32)).save(tmp_path / f"b.{suffix}", Image.registered_extensions()[f".{suffix.lower()}"])
    first, second = read_images(tmp_path)
    np.testing.assert_allclose(np.asarray(first, dtype=float)[10, 5], np.asarray(second, dtype=float)[10, 5], atol=20)


def test_images_that_are_left_out_are_named(tmp_path: Path) -> None:
    half_red().save(tmp_path / "a.jpg")
    half_red().save(tmp_path / "no-suffix", "PNG")
    (tmp_path / "b.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "c.dng").write_bytes(b"II*\0")
    (tmp_path / "notes.txt").write_text("a dog")
    for name in ("sub/deeper/d.png", ".hidden/e.png"):
        write_png(half_red(), tmp_path / name)
    with pytest.warns(UserWarning, match="4 images are left out: b.heic, c.dng, no-suffix, sub/deeper/d.png; save"):
        assert [path.name for path in list_images(tmp_path)] == ["a.jpg"]
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "no-suffix").unlink()
    with pytest.raises(InputError, match=r"can be read: b.heic is in a camera's own format"):
        list_images(tmp_path)
    (tmp_path / "b.heic").unlink()
    (tmp_path / "c.dng").unlink()
    (tmp_path / "d.svg").write_text("<svg/>")
    with pytest.raises(InputError, match=r"can be read: d.svg is a drawing or a document; save it as PNG"):
        list_images(tmp_path)
    (tmp_path / "d.svg").unlink()
    with pytest.raises(InputError, match="itself, but in its folders sub/deeper; give one of these"):
        list_images(tmp_path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "it is HEIC, a camera's own format; save it as JPEG or PNG"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "it is a git-lfs pointer"),
        (b"\n<!DOCTYPE html><html>", "it is a web page, from a download that failed"),
        (b"<svg xmlns=", "it is a drawing"),
        (b"%PDF-1.7", "it is a PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "it is a drawing .EPS.; save it as PNG"),
        (b"\xff\x0a\xfa\x1f", "it is JPEG XL"),
        (b"", "it is empty"),
    ],
)
def test_what_is_no_image_is_named_for_what_it_is(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "x.jpg").write_bytes(data)
    with pytest.raises(InputError, match=f"x.jpg is not a readable image: {words}"):
        read_image(tmp_path / "x.jpg")


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    half_red((64, 64)).save(tmp_path / "x.heic")
    (image,) = read_images(tmp_path)
    np.testing.assert_allclose(np.asarray(image, dtype=float)[10, 5], RED, atol=20)


def test_names_that_are_not_utf8_are_read_and_listed(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    half_red().save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(path)
    assert list_images(tmp_path) == [path]
    assert read_image(path).size == (40, 20)
    path.write_bytes(b"bad")
    with pytest.raises(InputError, match="is not a readable image"):
        read_image(path)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match="is no regular file"):
        read_image(tmp_path / "a.png")
