"""Every image once: read, hashed, checked, cropped, and embedded by every network whose cache does not know it yet.

The files are read by a torch DataLoader, in the order they are given, so that nothing depends on its workers. The cache
keeps embeddings by the content of what was embedded: an image goes through a network once, for all protocols, metrics
and runs that share the network and its pixels.
"""

import hashlib
import io
import os
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch.utils.data import DataLoader, Dataset

from bdkit.utils.errors import InputError
from bdkit.utils.images import read_image
from bdkit.utils.io import write_bytes
from bdkit.utils.progress import progress_bar
from bdkit.utils.rgb import is_one_colour
from eval.score.encoders import ClipEncoder, Encoder, crop_pixels
from eval.score.protocols import Preprocessing

CACHE_VARIABLE = "BDKIT_CACHE_DIR"
SEGMENT_ROWS = 256
KEYS, VALUES = "keys", "values"
PLAIN = "plain-images"
HASH_BYTES = 32
MAX_WORKERS = 8
# Fewer images are not worth the start of a process
MIN_IMAGES = 64
# Images that wait for the networks, a worker: bounded, so that memory stays flat however many images there are
PREFETCHED = 16
OPAQUE = 255
FloatArray = NDArray[np.float32]
Pixels = NDArray[np.uint8]


def default_cache() -> Path:
    """$BDKIT_CACHE_DIR/embeddings, else the user's cache folder's."""
    folder = os.environ.get(CACHE_VARIABLE)
    if folder:
        return Path(folder) / "embeddings"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bdkit" / "embeddings"


def default_workers(n_images: int) -> int:
    """As many as there are processors to spare, none for a handful of images."""
    spare = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if n_images < MIN_IMAGES else min(MAX_WORKERS, max(1, spare - 1))


def content_hash(data: bytes) -> bytes:
    """What an image's file or a text is known by: its SHA-256, 32 bytes."""
    return hashlib.sha256(data).digest()


@dataclass(frozen=True)
class ReadFile:
    """A file's content hash (empty where it cannot be read), what is wrong with it (None for a good image), and its
    crops, (crop, crop, 3) each, one for each kind of pixels wanted.

    one_colour: all its pixels are the same
    warnings: what its reader says about it
    """

    content: bytes
    problem: str | None
    crops: tuple[Pixels, ...] = ()
    one_colour: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageFiles(Dataset[ReadFile]):
    """Image files, each read once.

    hows: the kinds of pixels wanted
    known: contents that were embedded before; they are good images without peculiarities, and need no decoding
    cut_out: the backgrounds must be transparent
    """

    paths: Sequence[Path]
    hows: tuple[Preprocessing, ...]
    known: frozenset[bytes]
    cut_out: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> ReadFile:
        path = self.paths[index]
        try:
            data = path.read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            return ReadFile(b"", f"{path} cannot be read ({reason}); replace it or take it out")
        content = content_hash(data)
        if content in self.known and not self.cut_out:
            return ReadFile(content, None)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                image = read_image(path, data, to_srgb=False)
        except InputError as error:
            return ReadFile(content, str(error))
        if self.cut_out and not _is_cut_out(data):
            return ReadFile(content, f"{path} has no transparent background; cut it out and save it as PNG")
        crops = tuple(crop_pixels(image, how) for how in self.hows)
        said = tuple(str(warning.message) for warning in caught if warning.category is UserWarning)
        return ReadFile(content, None, crops, is_one_colour(image), said)


class Features:
    """The rows of all networks for all images of a run.

    Args:
        networks: name -> encoder or classifier.
        folder: of the cache; each network has its own folder in it.
    """

    def __init__(self, networks: Mapping[str, Encoder], folder: Path) -> None:
        self.networks, self.folder = dict(networks), folder
        # networks with the same key share their rows
        self._distinct = {network.key: network for network in self.networks.values()}
        self.caches = {key: EmbeddingCache(folder / key) for key in self._distinct}
        # contents that were decoded and have no peculiarity to report
        self.plain = EmbeddingCache(folder / PLAIN)
        self.n_embedded = 0

    def add(
        self,
        paths: Sequence[Path],
        *,
        may_fail: Collection[Path] = (),
        cut_out: bool = False,
        workers: int = 0,
        embed: bool = True,
        show_progress: bool = True,
    ) -> dict[Path, ReadFile]:
        """Reads every file and embeds what the cache does not have yet, in full batches, in the order of `paths`.

        may_fail: files that may be bad; after any other bad file the rest is read, but no longer embedded
        workers: processes that read, 0 for none

        Returns what was read, without the crops.
        """
        hows = tuple(dict.fromkeys(network.how for network in self._distinct.values())) if embed else ()
        known = frozenset(set.intersection(set(self.plain), *map(set, self.caches.values())))
        files = ImageFiles(paths, hows, known, cut_out)
        waiting: dict[str, dict[bytes, Pixels]] = {key: {} for key in self._distinct}
        read: dict[Path, ReadFile] = {}
        bar = progress_bar(total=len(paths), desc="scoring", unit=" images", show=show_progress)
        try:
            with bar:
                for path, file in zip(paths, _load(files, workers), strict=True):
                    read[path] = replace(file, crops=())
                    bar.update()
                    for text in file.warnings:
                        warnings.warn(text, stacklevel=2)
                    if file.problem is None and not file.one_colour and not file.warnings:
                        self._keep_plain(file.content)
                    embed = embed and (file.problem is None or path in may_fail)
                    if not embed or file.problem is not None:
                        continue
                    lacking = [
                        key
                        for key in waiting
                        if file.content not in self.caches[key] and file.content not in waiting[key]
                    ]
                    self.n_embedded += bool(lacking)
                    for key in lacking:
                        network = self._distinct[key]
                        waiting[key][file.content] = file.crops[hows.index(network.how)]
                        if len(waiting[key]) == network.batch_size:
                            self._embed(key, waiting[key])
                for key, crops in waiting.items():
                    if embed and crops:
                        self._embed(key, crops)
        finally:
            for cache in (*self.caches.values(), self.plain):
                cache.flush()
        return read

    def get(self, name: str, contents: Sequence[bytes]) -> FloatArray:
        """(n, d) rows of one network."""
        return self.caches[self.networks[name].key].get(contents)

    def texts(self, texts: Sequence[str], name: str = "clip") -> FloatArray:
        """(n, d) rows of the text side of an encoder."""
        clip = self.networks[name]
        assert isinstance(clip, ClipEncoder)
        cache = self.caches.setdefault(clip.text_key, EmbeddingCache(self.folder / clip.text_key))
        by_key = {content_hash(text.encode()): text for text in texts}
        if new := cache.missing(by_key):
            cache.put(new, clip.embed_texts([by_key[key] for key in new]))
            cache.flush()
        return cache.get([content_hash(text.encode()) for text in texts])

    def _keep_plain(self, content: bytes) -> None:
        if content not in self.plain:
            self.plain.put([content], np.ones((1, 1), dtype=np.float32))

    def _embed(self, key: str, crops: dict[bytes, Pixels]) -> None:
        rows = self._distinct[key].embed(np.stack(list(crops.values())))
        if not np.isfinite(rows).all():
            name = next(name for name, network in self.networks.items() if network.key == key)
            raise InputError(f"the weights of {name!r} give no numbers for an image: damaged; fetch them again")
        self.caches[key].put(list(crops), rows)
        crops.clear()


class EmbeddingCache:
    """The rows of one network on disk: content hash -> float32 vector.

    Its folder holds segments: safetensors files of some hundred rows. A segment appears whole or not at all and never
    changes, so that a killed run loses at most its last segment, and processes that share the folder at worst embed an
    image twice.

    Args:
        folder: the network's own folder; made with the first row.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stored: dict[bytes, tuple[Path, int]] = {}
        self._new: dict[bytes, FloatArray] = {}
        self._read: set[Path] = set()
        self.refresh()

    def __contains__(self, key: bytes) -> bool:
        return key in self._new or key in self._stored

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stored.keys() | self._new.keys())

    def __len__(self) -> int:
        return len(self._stored.keys() | self._new.keys())

    def missing(self, keys: Iterable[bytes]) -> list[bytes]:
        """Those of `keys` that the cache lacks, each once, in their order."""
        return [key for key in dict.fromkeys(keys) if key not in self]

    def refresh(self) -> None:
        """Reads the segments that were written since; a damaged one is left out, and so embedded again."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path not in self._read:
                self._read.add(path)
                with suppress(SafetensorError, OSError, KeyError, ValueError):
                    self._stored |= _segment_rows(path)

    def put(self, keys: Sequence[bytes], rows: FloatArray) -> None:
        """Adds rows; they are on disk after `flush`, which comes by itself every some hundred rows."""
        self._new.update(zip(keys, np.asarray(rows, dtype=np.float32), strict=True))
        if len(self._new) >= SEGMENT_ROWS:
            self.flush()

    def flush(self) -> None:
        """Writes the rows that are not on disk yet."""
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
        self._stored |= {key: (path, row) for row, key in enumerate(keys)}
        self._new.clear()

    def get(self, keys: Sequence[bytes]) -> FloatArray:
        """(n, d) rows of n keys. Raises InputError when a segment was removed meanwhile, KeyError for a new key."""
        rows: list[FloatArray | None] = [self._new.get(key) for key in keys]
        wanted: dict[Path, list[tuple[int, int]]] = {}
        for number, key in enumerate(keys):
            if rows[number] is None:
                path, row = self._stored[key]
                wanted.setdefault(path, []).append((number, row))
        for path, pairs in wanted.items():
            try:
                with safe_open(path, framework="np") as segment:
                    values = segment.get_tensor(VALUES)
            except (SafetensorError, OSError) as error:
                raise InputError(f"{path} of the cache was changed meanwhile; run the same command again") from error
            for number, row in pairs:
                rows[number] = values[row].copy()
        return np.stack([row for row in rows if row is not None])


def _load(files: ImageFiles, workers: int) -> Iterable[ReadFile]:
    """What is read, in the order of the paths."""
    if workers < 0:
        raise InputError(f"{workers} workers cannot read anything; give 0 or more")
    settings: dict[str, Any] = {}
    if workers:
        # a forked worker needs no second import of everything; it never runs a network
        settings["multiprocessing_context"] = "fork" if sys.platform == "linux" else "spawn"
        settings["prefetch_factor"] = PREFETCHED
    # a generator of its own, because a loader draws a seed for its workers
    loader = DataLoader(
        files, batch_size=None, num_workers=workers, collate_fn=_same, generator=torch.Generator(), **settings
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputError("a process that reads images was killed, possibly out of memory; try --workers 0") from error


def _same(file: Any) -> Any:
    return file


def _is_cut_out(data: bytes) -> bool:
    with Image.open(io.BytesIO(data)) as image:
        return image.has_transparency_data and int(np.asarray(image.convert("RGBA"))[..., 3].min()) < OPAQUE


def _segment_rows(path: Path) -> dict[bytes, tuple[Path, int]]:
    with safe_open(path, framework="np") as segment:
        keys = segment.get_tensor(KEYS)
        if keys.shape != (segment.get_slice(VALUES).get_shape()[0], HASH_BYTES):
            raise ValueError("not a segment of this cache")
    return {key.tobytes(): (path, row) for row, key in enumerate(keys)}
