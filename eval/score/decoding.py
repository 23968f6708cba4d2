"""Image files in worker processes: read, hashed, decoded and cut to size, in the order they were asked for.

Chunks wait in a bounded queue, so that memory stays flat however many images there are. Nothing here depends on the
number of workers; 0 does everything in this process.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from bdkit.utils.errors import InputError
from bdkit.utils.images import read_image
from eval.score.cache import content_hash
from eval.score.preprocessing import crop_pixels
from eval.score.protocols import Preprocessing

CHUNK = 16
CHUNKS_WAITING = 2
MAX_WORKERS = 8
# Fewer images are not worth the start of a process
MIN_IMAGES = 64
OPAQUE = 255
Pixels = npt.NDArray[np.uint8]
Item = TypeVar("Item")
Answer = TypeVar("Answer")


def default_workers(n_images: int) -> int:
    """As many as there are processors to spare, none for a handful of images."""
    spare = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if n_images < MIN_IMAGES else min(MAX_WORKERS, max(1, spare - 1))


@dataclass(frozen=True)
class Checked:
    """A file's content hash (empty where it cannot be read), and what is wrong with it, None for a good image."""

    content: bytes
    problem: str | None


@dataclass(frozen=True)
class ToDecode:
    """A file, its content hash when it was checked, and the kinds of pixels wanted; None: the whole image."""

    path: Path
    content: bytes
    wanted: tuple[Preprocessing | None, ...]


def hash_file(path: Path) -> Checked:
    """A file's content, whatever it is."""
    try:
        return Checked(content_hash(path.read_bytes()), None)
    except OSError as error:
        return Checked(b"", f"{path} cannot be read ({error.strerror or error}); replace it or take it out")


def check_file(path: Path) -> Checked:
    """Whether a file is an image that can be scored: it is decoded whole."""
    checked = hash_file(path)
    if checked.problem is None:
        try:
            read_image(path)
        except InputError as error:
            return Checked(checked.content, str(error))
    return checked


def check_cut_out(path: Path) -> Checked:
    """`check_file` of an image whose background must be cut out: some of it is transparent."""
    checked = check_file(path)
    if checked.problem is None:
        with Image.open(path) as image:
            if not (image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < OPAQUE):
                return Checked(checked.content, f"{path} has no transparent background; cut it out and save it as PNG")
    return checked


def decode(item: ToDecode) -> list[Pixels] | str:
    """The pixels wanted of an image, or what is wrong with it."""
    try:
        if content_hash(item.path.read_bytes()) != item.content:
            return f"{item.path} was changed while it was scored; run the same command again"
        image = read_image(item.path)
    except InputError as error:
        return str(error)
    except OSError as error:
        return f"{item.path} cannot be read ({error.strerror or error}); run the same command again"
    return [np.asarray(image) if how is None else crop_pixels(image, how) for how in item.wanted]


class Workers:
    """Worker processes as a context: `map` gives a function's answers for many files, in order."""

    def __init__(self, count: int) -> None:
        if count < 0:
            raise InputError(f"{count} workers cannot decode anything; give 0 or more")
        self.count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        if self.count:
            # a forked worker needs no second import of everything; it never touches torch
            method = "fork" if sys.platform == "linux" else "spawn"
            self._pool = ProcessPoolExecutor(
                self.count, multiprocessing.get_context(method), initializer=_live_with, initargs=(os.getpid(),)
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def map(self, function: Callable[[Item], Answer], items: Sequence[Item]) -> Iterator[Answer]:
        """The answers in the order of the items. Raises InputError when a worker was killed."""
        if self._pool is None:
            yield from map(function, items)
            return
        waiting: deque[Future[list[Answer]]] = deque()
        try:
            for start in range(0, len(items), CHUNK):
                waiting.append(self._pool.submit(_each, function, items[start : start + CHUNK]))
                if len(waiting) > self.count * CHUNKS_WAITING:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        except BrokenProcessPool as error:
            raise InputError(
                "a process that decodes images was killed (is the memory full?); try --workers 0"
            ) from error


def _each(function: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
    return [function(item) for item in items]


def _live_with(parent: int) -> None:
    """In a worker: leaves Ctrl-C to the parent, and ends when the parent was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
