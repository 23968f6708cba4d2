"""Reading, listing and writing image files."""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from PIL import Image

from bdkit.utils.errors import InputError
from bdkit.utils.image_formats import (
    DRAWING_SUFFIXES,
    FOREIGN_SUFFIXES,
    HEADER_BYTES,
    SUFFIXES,
    can_read_heif,
    is_heif,
    looks_like_image,
    name_content,
    readable_suffixes,
)
from bdkit.utils.io import write_bytes
from bdkit.utils.rgb import DECODE_ERRORS, check_size, to_rgb, too_large, upright

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # by channel, of 0..1
N_NAMED = 5
MAX_LOOKED_AT = 10_000
_said: set[str] = set()


def read_image(path: str | Path, data: bytes | None = None, *, to_srgb: bool = True) -> Image.Image:
    """One image file as an RGB image, 8 bits a channel, at its own size, converted as `bdkit.utils.rgb.to_rgb` does.

    The size is checked before anything is decoded; of several frames the first is taken.

    Args:
        data: its bytes, where they are read already.
        to_srgb: whether a colour profile in the file is applied; the published scoring protocols ignore it.

    Raises InputError when the file is missing, unreadable or truncated, has more than 64 million pixels, or is a strip
    with sides more than 8 to 1.
    """
    with _decoded(str(path), data) as image:
        return to_rgb(image, str(path), to_srgb=to_srgb)


def decode_image(data: bytes, name: str) -> tuple[Image.Image, Image.Image | None]:
    """The bytes of an image file as `read_image` gives it, and its alpha channel (mode L) where it has transparency.

    Args:
        name: what messages call it.
    """
    with _decoded(name, data) as image:
        rgb, turned = to_rgb(image, name), upright(image, name)
        return rgb, turned.convert("RGBA").getchannel("A") if turned.has_transparency_data else None


@contextmanager
def _decoded(name: str, data: bytes | None) -> Iterator[Image.Image]:
    """The opened image, its size checked; what fails in the block is an InputError that names the file."""
    header = b""
    if data is None and os.path.exists(name) and not os.path.isfile(name):
        what = "a folder" if os.path.isdir(name) else "no regular file"
        raise InputError(f"{name} is {what}; give an image file")
    try:
        with open(name, "rb") if data is None else io.BytesIO(data) as file, warnings.catch_warnings():
            header = file.read(HEADER_BYTES)
            file.seek(0)
            if is_heif(header):
                can_read_heif()
            # Pillow's own size limits; ours is lower and comes next
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", message="(Truncated File Read|Corrupt EXIF|Possibly corrupt)")
            with Image.open(file) as image:
                check_size(image.size, name)
                yield image
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{name} is missing; check the path") from error
    except PermissionError as error:
        raise InputError(f"{name} cannot be read: permission denied") from error
    except Image.DecompressionBombError as error:
        raise InputError(too_large(name)) from error
    except DECODE_ERRORS as error:
        content = name_content(header) if data is not None or Path(name).is_file() else None
        if content is not None:
            raise InputError(f"{name} is not a readable image: it is {content}") from error
        if Path(name).suffix.lower() in FOREIGN_SUFFIXES:
            raise InputError(f"{name} is in a camera's own format; save it as JPEG or PNG first") from error
        raise InputError(f"{name} is not a readable image ({type(error).__name__}); replace it or remove it") from error


def read_images(folder: str | Path) -> list[Image.Image]:
    """All images of a folder in name order, each as `read_image` gives it; other files are skipped."""
    return [read_image(path) for path in list_images(folder)]


def list_images(folder: str | Path) -> list[Path]:
    """The paths of a folder's image files in name order, hidden files left out; InputError when there are none.

    Warns of images that are left out: those of formats that cannot be read, without an image's suffix, in sub-folders.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give a folder with images in it")
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    suffixes = readable_suffixes()
    images = [path for path in files if path.suffix.lower() in suffixes]
    others = [path for path in files if path.suffix.lower() not in suffixes and _is_unread_image(path)]
    deeper = _images_below(folder)
    if images:
        _say_left_out(folder, [*others, *deeper])
        return images
    if others:
        drawing = others[0].suffix.lower() in DRAWING_SUFFIXES
        what = "a drawing or a document" if drawing else "in a camera's own format, or has no image's suffix"
        raise InputError(f"no images in {folder} that can be read: {others[0].name} is {what}; save it as PNG or JPEG")
    if deeper:
        inside = list(dict.fromkeys(path.parent.relative_to(folder).as_posix() for path in deeper))
        raise InputError(f"no images in {folder} itself, but in its folders {_first_of(inside)}; give one of these")
    raise InputError(f"no images in {folder}; put one to six images there, such as .jpg, .png or .webp")


def write_png(image: Image.Image, path: str | Path) -> None:
    """Writes a PNG atomically, making its folder; the same image always gives the same bytes."""
    write_bytes(encode(image, "PNG"), path)


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    """An image as the bytes of a file of that format."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _is_unread_image(path: Path) -> bool:
    """Whether a file that is not read is an image all the same, by its suffix or by how it begins."""
    if path.suffix.lower() in (*FOREIGN_SUFFIXES, *DRAWING_SUFFIXES):
        return True
    try:
        with open(path, "rb") as file:
            return looks_like_image(file.read(HEADER_BYTES))
    except OSError:
        return False


def _images_below(folder: Path) -> list[Path]:
    """Image files in sub-folders, hidden ones left out; of a very large tree only the first."""
    return list(islice((p for p in _walk(folder) if p.suffix.lower() in (*SUFFIXES, *FOREIGN_SUFFIXES)), 1000))


def _walk(folder: Path) -> Iterator[Path]:
    n_files = 0
    for base, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files) if Path(base) != folder else ():
            n_files += 1
            if n_files > MAX_LOOKED_AT:
                return
            if not name.startswith("."):
                yield Path(base, name)


def _say_left_out(folder: Path, paths: list[Path]) -> None:
    names = _first_of([path.relative_to(folder).as_posix() for path in paths])
    text = f"{folder}: {len(paths)} images are left out: {names}; save them as JPEG or PNG in that folder itself"
    # the same folder is listed many times in a bench
    if paths and text not in _said:
        _said.add(text)
        warnings.warn(text, stacklevel=3)


def _first_of(names: list[str]) -> str:
    more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    return ", ".join(names[:N_NAMED]) + more
