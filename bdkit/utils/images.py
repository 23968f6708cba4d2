"""Reading, listing and writing image files."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from bdkit.utils.errors import InputError
from bdkit.utils.io import write_bytes

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # by channel, of 0..1

MAX_PIXELS = 64_000_000
MAX_ASPECT = 8
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Phones and cameras write these; Pillow alone cannot read them
FOREIGN_SUFFIXES = (".heic", ".heif", ".dng", ".cr2", ".nef", ".arw")
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError, OverflowError)


def read_image(path: str | Path, data: bytes | None = None) -> Image.Image:
    """One image file as an RGB image, 8 bits a channel, at its own size. data: its bytes, where they are read already.

    The EXIF orientation is applied, transparency is composited onto white, 16-bit, grey, palette and CMYK images become
    RGB, and of several frames the first is taken. The size is checked before anything is decoded.

    Raises InputError when the file is missing, unreadable or truncated, has more than 64 million pixels, or is a strip
    with sides more than 8 to 1.
    """
    return _decode(Path(path) if data is None else io.BytesIO(data), str(path))[0]


def decode_image(data: bytes, name: str) -> tuple[Image.Image, Image.Image | None]:
    """The bytes of an image file as `read_image` gives it, and its alpha channel (mode L) where it has transparency.

    Args:
        name: what messages call it.
    """
    return _decode(io.BytesIO(data), name)


def _decode(file: Path | io.BytesIO, name: str) -> tuple[Image.Image, Image.Image | None]:
    try:
        with warnings.catch_warnings():
            # Pillow's own size limits; ours is lower and comes next
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", message="(Truncated File Read|Corrupt EXIF|Possibly corrupt)")
            with Image.open(file) as image:
                _check_size(image.size, name)
                upright = ImageOps.exif_transpose(image)
                alpha = upright.convert("RGBA").getchannel("A") if upright.has_transparency_data else None
                return _to_rgb(upright), alpha
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{name} is missing; check the path") from error
    except Image.DecompressionBombError as error:
        raise InputError(_too_large(name)) from error
    except DECODE_ERRORS as error:
        raise InputError(f"{name} is not a readable image ({type(error).__name__}); replace it or remove it") from error


def read_images(folder: str | Path) -> list[Image.Image]:
    """All images of a folder in name order, each as `read_image` gives it; other files are skipped."""
    return [read_image(path) for path in list_images(folder)]


def list_images(folder: str | Path) -> list[Path]:
    """The paths of a folder's image files in name order, hidden files left out; InputError when there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give a folder with images in it")
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not images:
        if any(path.suffix.lower() in FOREIGN_SUFFIXES for path in files):
            raise InputError(f"the images in {folder} are in a camera's own format; save them as JPEG or PNG first")
        raise InputError(f"no images in {folder}; put one to six images there ({', '.join(SUFFIXES)})")
    return images


def write_png(image: Image.Image, path: str | Path) -> None:
    """Writes a PNG atomically, making its folder; the same image always gives the same bytes."""
    write_bytes(encode(image, "PNG"), path)


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    """An image as the bytes of a file of that format."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _check_size(size: tuple[int, int], path: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise InputError(_too_large(path))
    if max(size) > MAX_ASPECT * min(size):
        raise InputError(f"{path} is a strip of {width} x {height} pixels; crop it to at most {MAX_ASPECT} to 1")


def _too_large(path: str) -> str:
    return f"{path} has more than {MAX_PIXELS // 1_000_000} million pixels; make it smaller first"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey_to_rgb(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _deep_grey_to_rgb(image: Image.Image) -> Image.Image:
    """16-bit grey (0..65535) and floating-point grey (0..1, else 0..255), which Pillow would clip instead of scale."""
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        scaled = values * 255 if np.nanmax(values) <= 1 else values
    else:
        scaled = values / 257
    grey = np.clip(np.rint(np.nan_to_num(scaled)), 0, 255).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")
