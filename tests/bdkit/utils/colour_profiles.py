"""Small ICC profiles, written by hand: Display P3, and CMYK as a table."""

import struct

import numpy as np

# Colorants of Display P3 adapted to D50, as in Apple's own profile
P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
GAMMA = 2.2


def fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def profile(space: bytes, pcs: bytes, tags: dict[bytes, bytes], name: str) -> bytes:
    text = name.encode() + b"\0"
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + b"\0" * 78, **tags}
    tags[b"wtpt"] = b"XYZ \0\0\0\0" + fixed(0.9642) + fixed(1) + fixed(0.8249)
    offset, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for key, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += key + struct.pack(">II", offset + len(body), len(data))
        body += data
    device = b"prtr" if space == b"CMYK" else b"mntr"
    header = b"\0" * 4 + b"\x02\x10\0\0" + device + space + pcs + b"\0" * 12 + b"acsp" + b"\0" * 28
    header += fixed(0.9642) + fixed(1) + fixed(0.8249)
    header += b"\0" * (124 - len(header))
    return struct.pack(">I", offset + len(body)) + header + struct.pack(">I", len(tags)) + table + body


def matrix_profile(colorants: tuple[tuple[float, ...], ...] = P3, name: str = "wide") -> bytes:
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(GAMMA * 256))
    tags = {f"{c}TRC".encode(): curve for c in "rgb"}
    tags |= {
        f"{c}XYZ".encode(): b"XYZ \0\0\0\0" + b"".join(map(fixed, xyz)) for c, xyz in zip("rgb", colorants, strict=True)
    }
    return profile(b"RGB ", b"XYZ ", tags, name)


def to_srgb_by_matrix(pixels: np.ndarray) -> np.ndarray:
    """The closed form: curve, matrix, sRGB's curve backwards; 0..255."""
    linear = (pixels / 255) ** (round(GAMMA * 256) / 256)
    mixed = (linear @ np.array(P3) @ np.linalg.inv(np.array(SRGB))).clip(0, 1)
    return 255 * np.where(mixed <= 0.0031308, 12.92 * mixed, 1.055 * mixed ** (1 / 2.4) - 0.055)


def cmyk_profile(lightness: float = 50.0) -> bytes:
    """A press on which full cyan is a grey of this lightness and every other full ink is black; no ink is white."""
    corners = []
    for index in range(16):
        cyan, others = index >> 3 & 1, index & 7
        corners.append(0 if others else 255 * lightness / 100 if cyan else 255)
    table = b"".join(bytes([round(value), 128, 128]) for value in corners)
    ramp = bytes(range(256))
    identity = b"".join(fixed(value) for value in np.eye(3).ravel())
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + table + ramp * 3
    return profile(b"CMYK", b"Lab ", {b"A2B0": lut}, "press")
