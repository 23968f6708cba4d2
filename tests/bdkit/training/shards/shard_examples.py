"""Small shards and what makes them, for the tests of this folder."""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bdkit.training.shards.files import pack
from bdkit.training.shards.jobs import Item
from bdkit.training.shards.read import Record
from bdkit.training.shards.write import write_shards
from bdkit.utils.images import encode

SETTINGS = {"size": 4, "path": Path("images")}
PER_JOB, COUNT, REJECTED, DUPLICATE = 9, 33, 7, 20
BYTES = 16_000  # a shard: seven records


class Inline(Executor):
    """Does the work at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def make(first: int, count: int) -> list[Item]:
    return [item(number) for number in range(first, first + count)]


def item(number: int) -> Item:
    shown = 3 if number == DUPLICATE else number
    pixels = np.full((4, 4, 3), shown, np.uint8)
    details = {"caption": f"a Dog, number {number}", "subject": "dog", "number": number}
    record = pack(
        f"{number:04d}", {"json": json.dumps(details).encode(), "png": encode(Image.fromarray(pixels), "PNG")}
    )
    whole = Item(
        row=number,
        key=f"{number:04d}",
        source=f"{number}.png",
        pixels=hashlib.sha256(pixels.tobytes()).hexdigest(),
        record=record,
    )
    return replace(whole, record=b"", pixels="", reason="too dark", detail="by far") if number == REJECTED else whole


def write(out: Path | str, **options: Any) -> dict[str, Any]:
    jobs = [(first, min(PER_JOB, COUNT - first)) for first in range(0, COUNT, PER_JOB)]
    defaults = {"settings": SETTINGS, "shard_bytes": BYTES, "total": COUNT, "executor": Inline(), "progress": False}
    return write_shards(make, jobs, str(out), **{**defaults, **options})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def number_of(record: Record, rng: np.random.Generator) -> tuple[int, int]:
    return record.details["number"], int(rng.integers(1 << 40))
