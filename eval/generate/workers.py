"""Worker processes of this machine that share the tasks of one `Generation`, each on one thread.

A worker is a fresh Python (`eval.generate.worker`) that is spoken to through pipes. It ends by itself when its parent is gone,
however that went, and what it leaves half done the next run does again.
"""

import json
import math
import os
import pickle
import subprocess
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from bdkit.utils.errors import InputError
from eval.generate.progress import Report
from eval.generate.rows import Generation
from eval.generate.units import Plan, Task

MAX_WORKERS = 8
# What a worker takes before it has a model, and how many times a model's files while it fits: the weights in float32,
# gradients, two moments and snapshots
WORKER_BYTES = 1_200_000_000
MODEL_TIMES = 8
START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from eval.generate.worker import main; main()"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# How long to wait for another process that works on the same task, before asking again
BUSY_SECONDS = 1.0


def suitable_workers(model_bytes: int) -> int:
    """As many workers as this machine has cores and memory for, at most MAX_WORKERS."""
    if os.name != "posix":
        return 1
    by_memory = free_memory() // (WORKER_BYTES + MODEL_TIMES * model_bytes)
    return max(1, min(usable_cores(), by_memory, MAX_WORKERS))


def usable_cores() -> int:
    """The cores that this process may use: those it is bound to, at most its container's share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(cores, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores


def free_memory() -> int:
    """Bytes of memory that are free or can be freed; a great number where the system doesn't tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, ValueError, StopIteration):
        return 1 << 62


def longest_first(tasks: Sequence[Task], steps: Mapping[str, int]) -> list[Task]:
    """Tasks in the order that keeps all workers busy to the end."""
    # tasks of one group stay together, so that a worker seldom has to build another method
    return sorted(tasks, key=lambda task: 1 if task.is_truth else -steps.get(task.group, 0))


def run_in_workers(
    job: Generation, plan: Plan, tasks: Sequence[Task], workers: int, report: Report, tick: Callable[[], None]
) -> None:
    """Does the tasks in `workers` processes; `report` gets all their events, `tick` is called about every second.

    Raises what a worker raised, and InputError when one was killed or cannot be told of the job's methods.
    """
    try:
        start = pickle.dumps((job, plan))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(f"these methods cannot be sent to worker processes ({error}); use workers=1") from error
    with _Pool(start, workers) as pool:
        waiting = deque(longest_first(tasks, plan.steps))
        again_at = 0.0
        while waiting or pool.busy:
            if time.monotonic() >= again_at:
                for worker in pool.idle()[: len(waiting)]:
                    pool.give(worker, waiting.popleft())
            for worker, (kind, value) in pool.messages():
                if kind == "event":
                    report(value)
                elif kind == "warning":
                    warnings.warn(value, stacklevel=2)
                elif kind == "error":
                    raise value
                else:
                    task = pool.take(worker)
                    if kind == "busy":
                        waiting.append(task)
                        again_at = time.monotonic() + BUSY_SECONDS
            tick()


class _Pool:
    """The processes and their pipes."""

    def __init__(self, start: bytes, count: int) -> None:
        self.busy: dict[int, Task] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._inputs: list[Connection] = []
        self._outputs: list[Connection] = []
        try:
            for _ in range(count):
                self._start()
            for number in range(count):
                self._send(number, start)
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Ends all workers; there is nothing that they could lose."""
        for process in self._processes:
            process.kill()
        for process, *channels in zip(self._processes, self._inputs, self._outputs, strict=True):
            process.wait()
            for channel in channels:
                channel.close()

    def idle(self) -> list[int]:
        return [number for number in range(len(self._processes)) if number not in self.busy]

    def give(self, number: int, task: Task) -> None:
        self.busy[number] = task
        self._send(number, pickle.dumps(task))

    def take(self, number: int) -> Task:
        return self.busy.pop(number)

    def messages(self) -> list[tuple[int, tuple[str, Any]]]:
        """What the workers have to say, after at most a second."""
        found = []
        for channel in wait(self._outputs, timeout=BUSY_SECONDS):
            number = self._outputs.index(channel)  # type: ignore[arg-type]
            try:
                found.append((number, pickle.loads(self._outputs[number].recv_bytes())))
            except (EOFError, OSError) as error:
                raise self._death(number) from error
        return found

    def _start(self) -> None:
        process = subprocess.Popen(
            [sys.executable, "-c", START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **ONE_THREAD},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self._processes.append(process)
        self._inputs.append(Connection(os.dup(process.stdin.fileno()), readable=False))
        self._outputs.append(Connection(os.dup(process.stdout.fileno()), writable=False))
        process.stdin.close()
        process.stdout.close()

    def _send(self, number: int, data: bytes) -> None:
        try:
            self._inputs[number].send_bytes(data)
        except OSError as error:
            raise self._death(number) from error

    def _death(self, number: int) -> InputError:
        code = self._processes[number].wait()
        how = f"was killed by signal {-code}, perhaps for want of memory" if code < 0 else f"ended with code {code}"
        return InputError(f"a worker process {how}; run the same command again, with fewer --workers if need be")
