"""Images that say which unit of work they are: its key stands in the PNG, so that no two makings are ever mixed."""

import zlib
from pathlib import Path
from typing import Literal

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bdkit.utils.images import encode
from bdkit.utils.io import write_bytes

KEYWORD = "bdkit-unit"
SIGNATURE = b"\x89PNG\r\n\x1a\n"

State = Literal["missing", "broken", "other", "done"]


def write_stamped(image: Image.Image, path: Path, key: str) -> None:
    """Writes a PNG that carries `key`, atomically; the same image and key always give the same bytes.

    Raises InputError when it cannot be written; then nothing is left behind.
    """
    information = PngInfo()
    information.add_text(KEYWORD, key)
    write_bytes(encode(image, "PNG", pnginfo=information), path)


def image_state(path: Path, key: str) -> State:
    """Whether the image of a unit is there and whole ("done"), and if not, why.

    missing: no such file; broken: not a whole PNG, by its checksums; other: a whole PNG of another unit or program
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return "missing"
    stamp = read_stamp(data)
    if stamp is None:
        return "broken"
    return "done" if stamp == key else "other"


def read_stamp(data: bytes) -> str | None:
    """The key in a PNG file's bytes, "" where there is none; None when the bytes are not a whole PNG."""
    if not data.startswith(SIGNATURE):
        return None
    stamp, start = "", len(SIGNATURE)
    while start + 12 <= len(data):
        length = int.from_bytes(data[start : start + 4])
        end = start + 12 + length
        if end > len(data) or zlib.crc32(data[start + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            return None
        kind = data[start + 4 : start + 8]
        if kind == b"IEND":
            return stamp if end == len(data) else None
        if kind == b"tEXt" and data[start + 8 :].startswith(KEYWORD.encode() + b"\0"):
            stamp = data[start + 9 + len(KEYWORD) : end - 4].decode("latin-1")
        start = end
    return None
