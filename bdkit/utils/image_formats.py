"""Which files are images, by their suffixes and their first bytes, as literal tables."""

from functools import cache

# What Pillow decodes by itself; left out are its stubs (GRIB, HDF5, ...), what needs another program (EPS, WMF) and
# what it only writes (PDF)
SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".avifs", ".gif", ".bmp", ".dib",
    ".tif", ".tiff", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga",
    ".icb", ".vda", ".vst", ".psd", ".qoi", ".ico", ".icns", ".dds", ".pcx", ".sgi", ".rgb", ".rgba", ".bw", ".ras",
    ".xbm", ".xpm",
)  # fmt: skip
HEIF_SUFFIXES = (".heic", ".heif", ".hif", ".heics", ".heifs")
RAW_SUFFIXES = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".pef", ".srw")
# Images that Pillow alone cannot read
FOREIGN_SUFFIXES = (*HEIF_SUFFIXES, *RAW_SUFFIXES, ".jxl", ".exr", ".hdr")
DRAWING_SUFFIXES = (".ai", ".eps", ".pdf", ".svg")
HEADER_BYTES = 64
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_IMAGE_SIGNATURES = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*", b"\x00\x00\x00\x0cjP  ",
    b"8BPS", b"qoif", b"\xff\x0a", b"\x00\x00\x00\x0cJXL ",
)  # fmt: skip
# What is often found under an image's name
_OTHER_SIGNATURES = (
    (b"version https://git-lfs", "a git-lfs pointer, not the file; fetch it with 'git lfs pull'"),
    (b"<!doctype html", "a web page, from a download that failed; download it again"),
    (b"<html", "a web page, from a download that failed; download it again"),
    (b"<svg", "a drawing (SVG); save it as PNG"),
    (b"<?xml", "a drawing (SVG) or other XML; save it as PNG"),
    (b"%pdf", "a PDF; save it as PNG"),
    (b"%!ps", "a drawing (EPS); save it as PNG"),
    (b"\xc5\xd0\xd3\xc6", "a drawing (EPS); save it as PNG"),
    (b"pk\x03\x04", "a zip archive; unpack it"),
    (b"\xff\x0a", "JPEG XL; save it as PNG or JPEG"),
    (b"\x00\x00\x00\x0cjxl ", "JPEG XL; save it as PNG or JPEG"),
)


@cache
def can_read_heif() -> bool:
    """Whether pillow-heif is installed; from then on Pillow opens its files."""
    try:
        from pillow_heif import register_heif_opener  # type: ignore[import-not-found]
    except ImportError:
        return False
    register_heif_opener()
    return True


def readable_suffixes() -> tuple[str, ...]:
    """The suffixes of files that are read as images here, lower case."""
    return (*SUFFIXES, *HEIF_SUFFIXES) if can_read_heif() else SUFFIXES


def is_heif(header: bytes) -> bool:
    """Whether a file that begins so is HEIC or HEIF, whatever its name."""
    return header[4:8] == b"ftyp" and header[8:12] in _HEIF_BRANDS


def looks_like_image(header: bytes) -> bool:
    """Whether a file that begins so is an image, whatever its name."""
    return (
        header.startswith(_IMAGE_SIGNATURES)
        or header[8:12] == b"WEBP"
        or is_heif(header)
        or header[4:12] in (b"ftypavif", b"ftypavis")
    )


def name_content(header: bytes) -> str | None:
    """What a file that begins so is instead of a readable image, and what to do; None where that is not known."""
    if not header:
        return "empty; replace it or remove it"
    if is_heif(header):
        return "HEIC, a camera's own format; save it as JPEG or PNG, or pip install pillow-heif"
    start = header.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    known = (text for signature, text in _OTHER_SIGNATURES if start.startswith(signature.lower()))
    return next(known, None)
