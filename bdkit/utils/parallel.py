"""Work cut into parts, each of which writes a file of its own: processes share it, and a kill loses little."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from tqdm import tqdm


def make_parts(
    make: Callable[..., None],
    jobs: Sequence[tuple[Any, ...]],
    *,
    name: str,
    workers: int | None = None,
    unit: str = "it",
    progress: bool = True,
) -> None:
    """Call ``make`` with each job's arguments; when one fails, those that have not begun are left.

    Args:
        make: a function of a module, because other processes look it up by its name.
        name: label of the progress bar.
        workers: processes; None: one a core. They are spawned: forked where OpenMP has worked, they can wait forever.
    """
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    bar: dict[str, Any] = {"desc": name, "unit": unit, "disable": not progress or not jobs}
    if workers > 1:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            try:
                for future in tqdm([pool.submit(make, *job) for job in jobs], **bar):
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    else:
        for job in tqdm(jobs, **bar):
            make(*job)
