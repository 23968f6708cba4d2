"""Locks between processes that work in one results folder. The system drops them with a process, however it ends."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bdkit.utils.errors import InputError

try:
    import fcntl
except ImportError:  # not on Windows; there the processes do the same work twice, to the same bytes
    fcntl = None  # type: ignore[assignment]

LOCKS = ".locks"


class FileLock:
    """A lock on a file of its own, which is made when needed.

    Where the file system knows no locks, every process gets it: whatever is locked here is written atomically and is
    the same from every process, so that locks save work and time, never the results.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def acquire(self, *, shared: bool = False, wait: bool = True) -> bool:
        """Takes the lock, with others that share it or alone; False when `wait` is off and it is taken.

        Raises InputError when the file cannot be made.
        """
        if fcntl is None:
            return True
        operation = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        while True:
            handle = self._open()
            try:
                fcntl.flock(handle, operation)
            except BlockingIOError:
                os.close(handle)
                return False
            except OSError:
                os.close(handle)
                return True
            if self._still_there(handle):
                self._handle = handle
                return True
            # the last process swept the locks away between our opening and our locking the file
            os.close(handle)

    def release(self) -> None:
        """Gives the lock back, if it is held."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _open(self) -> int:
        while True:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except FileNotFoundError:
                continue
            except OSError as error:
                reason = error.strerror or error
                raise InputError(
                    f"cannot write {self.path}: {reason}; free some space or choose another place"
                ) from error

    def _still_there(self, handle: int) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(handle), os.stat(self.path))
        return False


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Waits for a lock and holds it within the block."""
    lock = FileLock(path)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def at_work(out: Path, tidy: Callable[[], None]) -> Iterator[None]:
    """Marks OUT as worked in. `tidy` runs before and after the block if no other process is at work in OUT then."""
    lock = FileLock(out / LOCKS / "folder")
    if lock.acquire(wait=False):
        tidy()
        lock.release()
    lock.acquire(shared=True)
    try:
        yield
    finally:
        lock.release()
        # on a full disk not even an empty file can be made; the error that is under way says so
        with suppress(InputError):
            if lock.acquire(wait=False):
                tidy()
                shutil.rmtree(out / LOCKS, ignore_errors=True)
                lock.release()
                with suppress(OSError):
                    out.rmdir()  # where nothing was made
