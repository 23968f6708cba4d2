"""Work in parts that each write a file: processes share the parts, and a kill loses at most the unfinished ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

from bdkit.utils.errors import InputError
from bdkit.utils.progress import progress_bar

# Environment of a process that computes with one thread: a sum's last bit may depend on their number
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def make_parts(
    make: Callable[..., None],
    jobs: Sequence[tuple[Any, ...]],
    *,
    name: str,
    workers: int | None = None,
    unit: str = "it",
    progress: bool = True,
) -> None:
    """Calls `make` with each job's arguments; when one fails, those that have not begun are dropped.

    Args:
        make: a function of a module, because other processes look it up by its name.
        name: label of the progress bar.
        workers: processes; None: one a core. They are spawned: a process forked after OpenMP was used can hang.
    """
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    bar: dict[str, Any] = {"desc": name, "unit": unit, "show": progress and bool(jobs)}
    if workers > 1:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            try:
                for future in progress_bar([pool.submit(make, *job) for job in jobs], **bar):
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    else:
        for job in progress_bar(jobs, **bar):
            make(*job)


def end_with_parent(*_: Any) -> None:
    """Lets a worker end when its parent was killed, however early; otherwise it would wait for work forever."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Holds the lock of a file, which ends with the process; InputError with the text `busy` if another one has it."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(busy) from error
    try:
        yield
    finally:
        lock.release()
