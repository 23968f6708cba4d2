"""Jobs done by many workers and handed back in their order, each kept on disk until it is no longer needed."""

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bdkit.utils.errors import InputError
from bdkit.utils.io import write_bytes
from bdkit.utils.parallel import ONE_THREAD, end_with_parent


@dataclass(frozen=True, kw_only=True)
class Item:
    """What became of one row of the input: a record for the shards, or the reason why there is none.

    pixels: hash of the source's pixels, by which a duplicate is known
    record: bytes as `pack` makes them; empty for a rejected row
    """

    row: int
    key: str
    source: str
    pixels: str = ""
    record: bytes = b""
    reason: str = ""
    detail: str = ""


Make = Callable[..., list[Item]]


@contextmanager
def threads_of_one() -> Iterator[None]:
    """Processes that start meanwhile compute with one thread each."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def pool_of(workers: int, executor: Executor | None) -> Iterator[Executor]:
    """The given executor, or `workers` processes that are spawned and end with the block."""
    if executor is not None:
        yield executor
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise InputError(
                "a worker died, possibly out of memory; give fewer --workers, the same command resumes"
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def items_in_order(
    make: Make, jobs: Sequence[tuple[Any, ...]], first: int, work: Path, executor: Executor, window: int
) -> Iterator[tuple[int, list[Item]]]:
    """Each job's number and items from `first` on, in order; at most `window` jobs are under way.

    Their results stay in `work` for a later call, until the shard that needs them is finished.
    """
    todo = iter(range(first, len(jobs)))
    pending: deque[tuple[int, Any]] = deque()
    while True:
        for number in islice(todo, window - len(pending)):
            known = part_path(work, number).exists()
            pending.append((number, None if known else executor.submit(make, *jobs[number])))
        if not pending:
            return
        number, future = pending.popleft()
        path = part_path(work, number)
        if future is not None:
            write_bytes(_dump(future.result()), path)
        yield number, _load(path.read_bytes())


def part_path(work: Path, number: int) -> Path:
    """Where a job's items are kept."""
    return work / f"part-{number:07d}"


def _dump(items: list[Item]) -> bytes:
    """Items as one line of JSON, and their records."""
    head = [asdict(item) | {"record": len(item.record)} for item in items]
    return json.dumps(head).encode() + b"\n" + b"".join(item.record for item in items)


def _load(data: bytes) -> list[Item]:
    line, _, records = data.partition(b"\n")
    items, start = [], 0
    for values in json.loads(line):
        end = start + values["record"]
        items.append(Item(**values | {"record": records[start:end]}))
        start = end
    return items
