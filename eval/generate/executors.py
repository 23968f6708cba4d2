"""Who runs the tasks: this process, or several behind the interface of `concurrent.futures.Executor`."""

import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bdkit.checkpoints.load import read_files
from bdkit.utils.errors import InputError
from bdkit.utils.parallel import end_with_parent

MAX_WORKERS = 8
# What a worker takes before it has a model, and how many times a model's files while it fits: the weights in float32,
# gradients, two moments and snapshots
WORKER_BYTES = 1_200_000_000
MODEL_TIMES = 8


def default_workers(model_bytes: int) -> int:
    """As many processes as this machine has cores and memory for; 1 with a GPU, which they would share."""
    if torch.cuda.is_available() or os.name != "posix":
        return 1
    by_memory = free_memory() // (WORKER_BYTES + MODEL_TIMES * model_bytes)
    return max(1, min(usable_cores(), by_memory, MAX_WORKERS))


def workers_of(model: str) -> int:
    """`default_workers` for the files of a model."""
    return default_workers(sum(path.stat().st_size for path in read_files(model)))


def usable_cores() -> int:
    """The cores that this process may use: those it is bound to, at most its container's share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(cores, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores


def free_memory() -> int:
    """Bytes of memory that are free or can be freed; a huge number where the system doesn't tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, ValueError, StopIteration):
        return 1 << 62


@contextmanager
def one_thread() -> Iterator[None]:
    """Keeps torch on one CPU thread within the block, where there is no GPU: then every process, alone or one of many,
    computes the same bits.
    """
    threads = torch.get_num_threads()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def local_processes(workers: int) -> Iterator[Executor]:
    """`workers` fresh Python processes, each on one thread. They are killed at once when the block fails: what is
    unfinished then, the next run does again.
    """
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker) as executor:
        try:
            yield executor
        except BaseException:
            # Python 3.14 has kill_workers for this
            for process in list((executor._processes or {}).values()):
                process.kill()
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def run_all(
    executor: Executor, function: Callable[..., Any], items: Sequence[Any], *arguments: Any
) -> Iterator[tuple[Any, Any]]:
    """Calls `function(item, *arguments)` for all items; yields (item, result) as they finish.

    Raises what a call raised, and InputError when a process died.
    """
    futures = {executor.submit(function, item, *arguments): item for item in items}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process died, possibly out of memory; run the same command again, with fewer --workers if need be"
        ) from error


def _start_worker() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which kills its workers
    end_with_parent()
