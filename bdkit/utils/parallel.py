"""Work in parts that each write a file: processes share the parts, and a kill loses at most the unfinished ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from bdkit.utils.progress import progress_bar


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
