"""Binary data inside an HTML file: 8 bytes become 7-bit characters that take 8/7 of their size (base64: 4/3).

A script element keeps its text as it stands, but for NUL, line ends and "<". Each character holds 7 bits; one of those
four is joined with the next 7 bits in a character above U+0080, which UTF-8 writes in two bytes. `report.js` reads it.
"""

import json
import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

UNSAFE = b"\x00\n\r<"


def pack(values: Any, contents: Sequence[bytes]) -> str:
    """JSON values and files as text for a script element: the length of the deflated JSON (4 bytes, little-endian), the
    JSON itself with the files' lengths as `sizes`, then the files.
    """
    text = json.dumps({**values, "sizes": [len(content) for content in contents]}, separators=(",", ":"))
    head = zlib.compress(text.encode(), level=9)
    return encode_text(b"".join([len(head).to_bytes(4, "little"), head, *contents]))


def encode_text(data: bytes) -> str:
    """Bytes as characters without NUL, line ends and "<"; zero bits fill the last character."""
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
    groups = np.pad(bits, (0, -len(bits) % 7)).reshape(-1, 7)
    symbols = np.packbits(groups, axis=1).ravel() >> 1
    return re.sub(b"[" + UNSAFE + b"](.?)", _two_symbols, symbols.tobytes(), flags=re.DOTALL).decode()


def _two_symbols(match: "re.Match[bytes]") -> bytes:
    following = match[1][0] if match[1] else 0
    return chr(0x80 + (UNSAFE.index(match[0][0]) << 7) + following).encode()
