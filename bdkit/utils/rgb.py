"""Images of any kind to RGB, 8 bits a channel: the one conversion for files, PIL images and arrays."""

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
from PIL import Image

from bdkit.utils.errors import InputError

MAX_PIXELS = 64_000_000
MAX_ASPECT = 8
DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, LookupError, OverflowError,
    RuntimeError,
)  # fmt: skip
# EXIF orientation -> what makes the image upright; 1 is upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Of the full range; images of fewer bits, kept in files of 16, reach a 16th of it (12 bits) or a 256th (8 bits)
DARK = 1 / 16


def as_rgb(image: Image.Image | np.ndarray) -> Image.Image:
    """An RGB image of a PIL image or an array, as `bdkit.utils.images.read_image` gives it of the same image in a file.

    Arrays are (H, W) or (H, W, C), grey, grey and alpha, RGB, or RGB and alpha; booleans, floats in 0..1, uint16 in
    0..65535, other whole numbers in 0..255.

    Raises InputError for numbers out of range, and for what is no image.
    """
    if not isinstance(image, Image.Image | np.ndarray):
        raise InputError(
            f"{_shown(image)} is no image; give a PIL image or an array of (height, width, channels); "
            "bdkit.utils.images.read_image reads a file"
        )
    if isinstance(image, np.ndarray):
        image = _image_from_array(image)
    name = getattr(image, "filename", "") or "the image"
    try:
        check_size(image.size, name)
        return to_rgb(image, str(name))
    except DECODE_ERRORS as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} is not a readable image ({type(error).__name__}: {error})") from error


def upright(image: Image.Image, name: str = "the image") -> Image.Image:
    """The image as its EXIF orientation says; as it lies, with a warning, where the EXIF data are damaged."""
    image.load()
    try:
        turn = TURNS.get(image.getexif().get(0x0112, 1))
    except (*DECODE_ERRORS, TypeError, AttributeError) as error:
        warnings.warn(
            f"{name}: its EXIF data cannot be read ({type(error).__name__}); it is taken as it lies", stacklevel=3
        )
        return image
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image, name: str = "the image", *, to_srgb: bool = True) -> Image.Image:
    """An RGB image, 8 bits a channel, that says all by its pixels.

    The EXIF orientation is applied, transparency is composited onto white, colours are converted to sRGB, and grey of
    any depth (16 bits: 0..65535, floats: 0..1, else 0..255), one-bit, palette and CMYK images become RGB. Warns of
    images of 16 bits that hold numbers of 12 or fewer, and so come out black.
    """
    deep, bits = ";16" in str(getattr(image, "tile", "")), _bits(image)
    image = upright(image, name)
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image, bits, name)
    elif deep and (largest := _largest(image)) < 256 * DARK:
        # Pillow has dropped the lower byte
        _warn_of_dark(largest * 256 + 255, 65535, name, "at most ")
    if to_srgb:
        image = _to_srgb(image, name)
    image = _onto_white(image)
    image.info = {}
    return image


def is_one_colour(image: Image.Image) -> bool:
    """Whether all pixels of an RGB image are the same."""
    pixels = np.asarray(image)
    return bool((pixels == pixels[:1, :1]).all())


def check_size(size: tuple[int, int], path: object) -> None:
    """Raises InputError for an image that is too large, empty, or a strip."""
    width, height = size
    if width * height > MAX_PIXELS:
        raise InputError(too_large(path))
    if not width * height:
        raise InputError(f"{path} has no pixels ({width} x {height})")
    if max(size) > MAX_ASPECT * min(size):
        raise InputError(f"{path} is a strip of {width} x {height} pixels; crop it to at most {MAX_ASPECT} to 1")


def too_large(path: object) -> str:
    """The message about an image that is too large."""
    return f"{path} has more than {MAX_PIXELS // 1_000_000} million pixels; make it smaller first"


def _shown(value: object) -> str:
    """A value in a message, shortened."""
    text = " ".join(repr(value).split())
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:40] + '...'}" if value is not None else text


def _bits(image: Image.Image) -> int:
    """Bits of a channel of 16-bit grey; TIFF may say that only 12 are used."""
    bits = getattr(image, "tag_v2", {}).get(258, 16)
    return next((n for n in (bits if isinstance(bits, tuple) else (bits,)) if n in range(9, 16)), 16)


def _largest(image: Image.Image) -> int:
    """The largest value of a channel but alpha."""
    return int(np.asarray(image.convert("RGB")).max())


def _eight_bits(image: Image.Image, bits: int, name: str) -> Image.Image:
    """Grey of 16 bits (0..65535) or floats (0..1, else 0..255), which Pillow would clip instead of scale, as 8 bits."""
    values = np.asarray(image).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if image.mode == "F":
        full = 1 if high <= 1 else 255
    else:
        full = (1 << bits) - 1
    # a comparison with NaN is false
    if not (low >= -1e-6 and high <= full):
        allowed = "floats 0..1 or 0..255" if image.mode == "F" else f"whole numbers 0..{full}"
        raise InputError(f"{name} holds grey values in {low:g}..{high:g}; an image has {allowed}")
    if full > 1:
        _warn_of_dark(high, full, name)
    # as before for 16 bits: division by 257, which is exact where scaling by 255 / 65535 is not
    scaled = values / 257 if full == 65535 else values * (255 / full)
    grey = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    result = Image.fromarray(grey)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        result.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    if "icc_profile" in image.info:
        result.info["icc_profile"] = image.info["icc_profile"]
    return result


def _warn_of_dark(largest: float, full: int, name: str, at_most: str = "") -> None:
    if 0 < largest < (full + 1) * DARK:
        warnings.warn(
            f"{name} comes out black: its largest value is {at_most}{largest:g} of {full}, as of numbers with "
            f"fewer bits; scale it to 0..{full}, or save it as 8 bits",
            stacklevel=3,
        )


def _to_srgb(image: Image.Image, name: str) -> Image.Image:
    """Colours of another profile in sRGB. A grey image with an RGB profile is read as grey of that profile."""
    data = image.info.get("icc_profile")
    if not data or image.mode == "1":
        return image
    try:
        from PIL import ImageCms

        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        # converting sRGB to itself would change values by rounding
        description = (profile.profile.profile_description or "").lower()
        if "srgb" in description and "linear" not in description:
            return image
        space = profile.profile.xcolor_space.strip()
        if image.has_transparency_data:
            image = image.convert("LA" if image.mode in ("LA", "La") else "RGBA")
        alpha = image.getchannel("A") if "A" in image.getbands() else None
        mode = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}.get(space)
        grey = image.mode in ("L", "LA")
        if mode is None or (mode == "L" and not grey) or (mode == "CMYK") != (image.mode == "CMYK"):
            return image
        colours = image if image.mode == mode else image.convert(mode)
        srgb = ImageCms.createProfile("sRGB")
        converted: Any = ImageCms.profileToProfile(colours, profile, srgb, outputMode="RGB")
    except (ImportError, OSError, ValueError, TypeError) as error:
        warnings.warn(
            f"{name}: its colour profile cannot be used ({error}); its colours are taken as sRGB", stacklevel=3
        )
        return image
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def _onto_white(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode == "La" else image.mode).convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _image_from_array(array: np.ndarray) -> Image.Image:
    """Grey, grey and alpha, RGB or RGBA of an array; InputError for numbers out of range."""
    values = array[..., None] if array.ndim == 2 else array
    if values.ndim != 3 or values.shape[2] not in (1, 2, 3, 4) or not values.size:
        raise InputError(
            f"an array of shape {tuple(array.shape)} is no image; give (height, width) or (height, width, channels) "
            "with 1 to 4 channels"
        )
    if values.dtype.kind == "b":
        pixels = values.astype(np.uint8) * 255
    elif values.dtype.kind in "fiu":
        low, high = float(values.min()), float(values.max())
        brightest = float(values[..., : 3 if values.shape[2] > 2 else 1].max())
        if values.dtype.kind == "f":
            # float16 has too few digits for 0..255
            values, full, words = values.astype(np.result_type(values, np.float32)), 1, "floats in 0..1, or uint8"
            low, high = low + 1e-6, high - 1e-6
        elif values.dtype == np.uint16:
            full, words = 65535, "uint16 in 0..65535"
        else:
            full, words = 255, "whole numbers in 0..255, or uint16 in 0..65535"
        if not (low >= 0 and high <= full):
            kind = "floats" if values.dtype.kind == "f" else "whole numbers"
            raise InputError(f"an image of {kind} lies in {low:g}..{high:g}; give {words}")
        if full == 65535:
            if 0 < brightest < 256:
                raise InputError(
                    f"an image of uint16 has {brightest:g} of 65535 as its largest value; give uint8, or scale it"
                )
            _warn_of_dark(brightest, full, "the image")
            values = values / 257
        pixels = (values.clip(0, 1) * 255 if full == 1 else values).round().astype(np.uint8)
    else:
        raise InputError(f"an array of {values.dtype} is no image; give uint8, or floats in 0..1")
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
