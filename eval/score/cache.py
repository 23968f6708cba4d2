"""Embeddings on disk, by the content of what was embedded: each image goes through a network once, for all protocols
and metrics that share the network and its pixels.

A cache folder holds a folder for each network and preprocessing (`Encoder.key`), and in it segments: safetensors files
of some hundred rows. A segment appears whole or not at all and is never changed, so that a killed run loses at most its
last segment, and processes that share the folder at worst embed an image twice.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bdkit.utils.errors import InputError
from bdkit.utils.io import write_bytes

CACHE_VARIABLE = "BDKIT_CACHE_DIR"
SEGMENT_ROWS = 256
KEYS, VALUES = "keys", "values"
HASH_BYTES = 32
FloatArray = npt.NDArray[np.float32]


def default_cache() -> Path:
    """$BDKIT_CACHE_DIR/embeddings, else the user's cache folder's."""
    folder = os.environ.get(CACHE_VARIABLE)
    if folder:
        return Path(folder) / "embeddings"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bdkit" / "embeddings"


def content_hash(data: bytes) -> bytes:
    """What an image's file or a text is known by: its SHA-256, 32 bytes."""
    return hashlib.sha256(data).digest()


class EmbeddingCache:
    """The rows of one network: content hash -> float32 vector.

    Args:
        folder: the network's own folder; made with the first row.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[bytes, tuple[Path, int]] = {}
        self._new: dict[bytes, FloatArray] = {}
        self._read: set[Path] = set()
        self.refresh()

    def __contains__(self, key: bytes) -> bool:
        return key in self._new or key in self._places

    def __len__(self) -> int:
        return len(self._places.keys() | self._new.keys())

    def missing(self, keys: Iterable[bytes]) -> list[bytes]:
        """Those of `keys` that are not there, each once, in their order."""
        return [key for key in dict.fromkeys(keys) if key not in self]

    def refresh(self) -> None:
        """Takes in the segments that were written since; a damaged one is left out, and so embedded again."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path not in self._read:
                self._read.add(path)
                with suppress(SafetensorError, OSError, KeyError, ValueError):
                    self._places |= _segment_places(path)

    def put(self, keys: Sequence[bytes], rows: FloatArray) -> None:
        """Adds rows; they are on disk after `flush`, which comes by itself every some hundred rows."""
        self._new.update(zip(keys, np.asarray(rows, dtype=np.float32), strict=True))
        if len(self._new) >= SEGMENT_ROWS:
            self.flush()

    def flush(self) -> None:
        """Writes the rows that are not on disk yet. Raises InputError when the disk is full."""
        if not self._new:
            return
        keys = list(self._new)
        data = save(
            {
                KEYS: np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, HASH_BYTES),
                VALUES: np.stack([self._new[key] for key in keys]),
            }
        )
        path = self.folder / f"{hashlib.sha256(data).hexdigest()[:32]}.safetensors"
        write_bytes(data, path)
        self._read.add(path)
        self._places |= {key: (path, row) for row, key in enumerate(keys)}
        self._new.clear()

    def get(self, keys: Sequence[bytes]) -> FloatArray:
        """(n, d) rows of n keys. Raises InputError when a segment was taken away meanwhile, KeyError for a new key."""
        rows: list[FloatArray | None] = [self._new.get(key) for key in keys]
        wanted: dict[Path, list[tuple[int, int]]] = {}
        for number, key in enumerate(keys):
            if rows[number] is None:
                path, row = self._places[key]
                wanted.setdefault(path, []).append((number, row))
        for path, places in wanted.items():
            try:
                with safe_open(path, framework="np") as segment:
                    values = segment.get_tensor(VALUES)
            except (SafetensorError, OSError) as error:
                raise InputError(f"{path} of the cache was changed meanwhile; run the same command again") from error
            for number, row in places:
                rows[number] = values[row].copy()
        return np.stack([row for row in rows if row is not None])


def _segment_places(path: Path) -> dict[bytes, tuple[Path, int]]:
    with safe_open(path, framework="np") as segment:
        keys = segment.get_tensor(KEYS)
        if keys.shape != (segment.get_slice(VALUES).get_shape()[0], HASH_BYTES):
            raise ValueError("not a segment of this cache")
    return {key.tobytes(): (path, row) for row, key in enumerate(keys)}
