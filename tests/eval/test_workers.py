"""Worker processes that fail, and parents that are killed."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from fault_bench import SUITE, Broken, Dying, Refusing, VerySlow, pictures, run, start
from tiny_bench import TinyMethod

from bdkit.cli import one_line
from bdkit.utils.errors import InputError


@pytest.mark.slow
def test_what_a_worker_raises_reaches_the_user(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no (dog|vase) can be fitted here; try another"):
        run(tmp_path / "refusing", Refusing, workers=2)
    with pytest.raises(ZeroDivisionError, match="a fault in a method") as caught:
        run(tmp_path / "broken", Broken, workers=2)
    assert "in a worker process" in caught.value.__notes__[0]
    assert one_line(caught.value) is None  # a fault of ours keeps its traceback
    with pytest.raises(InputError, match="a worker process was killed by signal 9, perhaps for want of memory") as died:
        run(tmp_path / "dying", Dying, workers=2)
    assert "fewer --workers" in (one_line(died.value) or "")
    with pytest.raises(InputError, match=r"cannot be sent to worker processes .*; use workers=1"):
        run(tmp_path / "local", lambda model: TinyMethod(model), workers=2)
    for name in ("refusing", "broken", "dying", "local"):
        assert not list((tmp_path / name).rglob(".writing-*"))
        assert not (tmp_path / name / ".locks").exists()


def workers_of(parent: int) -> list[int]:
    """The worker processes of a process."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            command = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == parent and b"eval.generate.worker" in command and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda how: how.name)
def test_workers_end_with_their_parent(tmp_path: Path, how: signal.Signals) -> None:
    parent = start(out=tmp_path, tiny=VerySlow, workers=2)
    assert parent.pid is not None
    deadline = time.monotonic() + 240
    # truth and the untrained row come last: by then both workers sit in a fit
    while len(list((tmp_path / ".locks").glob("????????????????"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = workers_of(parent.pid)
    assert len(workers) == 2
    os.kill(parent.pid, how)
    parent.join()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run(tmp_path)
    assert len(pictures(tmp_path)) == 2 * 4 * SUITE.n_images
