"""Work on the machines of a Ray cluster, behind the interface of `concurrent.futures.Executor`."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from bdkit.utils.env import device_name, library_versions
from bdkit.utils.errors import InputError
from bdkit.utils.parallel import ONE_THREAD

ATTEMPTS = 4  # of a call whose worker dies, and of a worker that dies while it starts
CONNECT_SECONDS = 10
START_SECONDS = 300  # an autoscaler may have to start a machine first
PASSED_ON = ("HF_HUB_OFFLINE", "HF_HOME", "TOKENIZERS_PARALLELISM", "BDKIT_CACHE_DIR")


class Worker:
    """An actor: a process that stays, and so keeps the model that a call has loaded."""

    def about(self) -> dict[str, Any]:
        """The versions and the device of its machine."""
        import torch

        return {"device": device_name(), "cuda": torch.cuda.is_available(), "versions": library_versions()}

    def stream(self, call: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """What a generator yields."""
        yield from call()


class RayExecutor(Executor):
    """Runs calls in `workers` actors, one a GPU, or one a CPU core where there are no GPUs.

    A call whose machine or process is lost is done again elsewhere, at most `ATTEMPTS` times in all; a new actor starts
    as soon as the cluster has room for one. Functions are looked up by their names: the code must be installed on every
    machine, in the same versions.

    Attributes:
        threads: of this process, one an actor; each waits for one call. Functions that call `stream` run here.
        workers: number of actors.
    """

    def __init__(self, ray: Any, workers: int, gpus: float) -> None:
        self._ray, self.workers = ray, workers
        self._lost_errors = (ray.exceptions.RayActorError, ray.exceptions.NodeDiedError, ray.exceptions.ObjectLostError)
        self._actor = ray.remote(Worker).options(num_cpus=1, num_gpus=gpus, scheduling_strategy="SPREAD")
        self._idle: SimpleQueue[Any] = SimpleQueue()
        self._alive: list[Any] = []
        self._started: dict[str, Any] = {}
        self._failed_starts, self._closed = 0, False
        self.threads = ThreadPoolExecutor(workers)
        for _ in range(workers):
            self._start()

    @property
    def about(self) -> dict[str, Any]:
        """Device, whether it is a GPU, and versions of the first actor that has started."""
        if not self._started:
            self._idle.put(self._take())
        return self._started

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The future result of one call."""
        return self.threads.submit(self._call, partial(fn, *args, **kwargs))

    def _call(self, call: Callable[[], Any]) -> Any:
        (result,) = self.stream(_once, call)
        return result

    def stream(self, function: Callable[..., Iterator[Any]], /, *arguments: Any) -> Iterator[Any]:
        """What a generator function yields in an actor, as it comes; all of it once more after a loss."""
        for _ in range(ATTEMPTS):
            actor = self._take()
            try:
                for item in actor.stream.options(num_returns="streaming").remote(partial(function, *arguments)):
                    yield self._ray.get(item)
            except self._lost_errors:
                self._alive.remove(actor)
                self._start()
                continue
            except self._ray.exceptions.RayTaskError as error:
                self._idle.put(actor)
                raise error.cause from None
            self._idle.put(actor)
            return
        raise InputError(
            f"a task has lost its worker {ATTEMPTS} times, possibly out of memory; run the same command again, with "
            "fewer --workers if need be"
        )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the actors; those at work too, unless `wait` is on."""
        if wait:
            self.threads.shutdown(cancel_futures=cancel_futures)
        self._closed = True
        for actor in self._alive:
            self._ray.kill(actor)
        self._idle.put(InputError("the run was stopped"))
        self.threads.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        """Asks for one more actor, which is idle as soon as a machine has room for it."""
        if self._closed:
            return
        actor = self._actor.remote()

        def ready(future: Future[Any]) -> None:
            error = future.exception()
            if error is None:
                self._started = self._started or future.result()
                error = _other_versions(future.result()["versions"])
            elif self._failed_starts < ATTEMPTS:  # its machine may have died
                self._failed_starts += 1
                self._start()
                return
            if error is None:
                self._alive.append(actor)
            self._idle.put(actor if error is None else InputError(f"a worker could not start: {_first_line(error)}"))

        actor.about.remote().future().add_done_callback(ready)

    def _take(self) -> Any:
        """An actor that has nothing to do; waits for one."""
        while True:
            try:
                actor = self._idle.get(timeout=START_SECONDS)
            except Empty:
                if self._alive:
                    continue
                raise InputError(
                    f"the cluster has had no free machine for {START_SECONDS} seconds; see `ray status`"
                ) from None
            if isinstance(actor, InputError):
                self._idle.put(actor)  # for the next one who asks
                raise actor
            return actor


@contextmanager
def ray_executor(address: str | None, workers: int | None = None, *, use_gpus: bool = True) -> Iterator[RayExecutor]:
    """A `RayExecutor` for the block; nothing of it is left afterwards, and what is unfinished when it fails is dropped.

    Args:
        address: HOST:PORT of the cluster's head, "auto" for the one this machine is part of; None: the variable
            RAY_ADDRESS, else a Ray of this machine alone, for the time of the block.
        workers: actors; None: one a GPU, or one a CPU core where there are none.
        use_gpus: whether the actors take the GPUs.

    Raises InputError when Ray is not installed or nothing answers at the address.
    """
    ray = connect(address or os.environ.get("RAY_ADDRESS"), workers)
    try:
        total = ray.cluster_resources()
        gpus = total.get("GPU", 0) if use_gpus else 0
        count = workers or int(gpus or total.get("CPU", 0))
        if count < 1:
            raise InputError("the cluster has neither CPUs nor GPUs for workers; start its nodes with --num-cpus")
        executor = RayExecutor(ray, count, min(1.0, int(1000 * gpus / count) / 1000))
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
        executor.shutdown()
    finally:
        ray.shutdown()


def connect(address: str | None, cpus: int | None = None) -> Any:
    """Ray, connected: to a running cluster, or without an address to one of this machine alone, on the loopback.

    Token authentication is on unless RAY_AUTH_MODE says otherwise or Ray was imported before; nothing is reported to
    Ray's makers.
    """
    host, _, port = (address or "127.0.0.1").rpartition(":") if address else ("127.0.0.1", "", "")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if "ray" not in sys.modules:  # it reads the mode once, at its import; the processes it starts read it again
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    if host in ("localhost", "::1") or host.startswith("127."):
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # else Ray looks for another interface
    try:
        import ray
    except ImportError as error:
        raise InputError("the executor ray needs Ray; install it with pip install 'bdkit[ray]'") from error
    if address not in (None, "auto"):
        _check_answers(address or "", host, port)
    settings: dict[str, Any] = {
        "logging_level": "ERROR",
        "log_to_driver": False,
        "runtime_env": {"env_vars": ONE_THREAD | {n: os.environ[n] for n in PASSED_ON if n in os.environ}},
    }
    if address is None:
        settings |= {"address": "local", "include_dashboard": False, "num_cpus": cpus}
    else:
        settings["address"] = address
    try:
        ray.init(**settings)
    except Exception as error:  # Ray has no class of its own for these
        raise InputError(f"Ray at {address or 'this machine'} cannot be used: {_first_line(error)}") from error
    return ray


def _check_answers(address: str, host: str, port: str) -> None:
    """Ray itself would try for ever."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import RayError

    if not host or not port.isdigit():
        raise InputError(f"--address {address} is no address of Ray; write HOST:PORT, such as 10.0.0.1:6379, or auto")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        GcsClient(address=address).internal_kv_get(b"bdkit", timeout=CONNECT_SECONDS)
    except (OSError, OverflowError, RuntimeError, RayError) as error:
        raise InputError(
            f"no Ray answers at {address} ({_first_line(error)}); start its head with ray start --head, or check the "
            "address and the token"
        ) from error


def _once(call: Callable[[], Any]) -> Iterator[Any]:
    yield call()


def _other_versions(versions: dict[str, str]) -> InputError | None:
    """An error for a machine with other versions than here, which would give other bytes; +cu128 and +cpu are alike."""
    here = library_versions()
    for name in here.keys() | versions.keys():
        ours, theirs = (each.get(name, "none").partition("+")[0] for each in (here, versions))
        if ours != theirs:
            return InputError(f"it has {name} {theirs}, this machine {ours}; install the same on all")
    return None


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
