"""Worker processes that share the work, fail, and end with their parent."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from generate_helpers import Broken, Dying, Refusing, VerySlow, files, run, start

from bdkit.cli import one_line
from bdkit.utils.errors import InputError
from eval.generate.executors import default_workers, usable_cores
from eval.results_dir import read_run


def test_as_many_workers_as_there_are_cores_and_memory() -> None:
    assert 1 <= default_workers(0) <= usable_cores()
    assert default_workers(1 << 50) == 1


@pytest.mark.slow
def test_workers_give_the_same_bytes(tmp_path: Path, whole: Path) -> None:
    assert run(tmp_path, workers=2)
    assert files(tmp_path) == files(whole)
    record = read_run(tmp_path)
    assert {name: len(seconds) for name, seconds in record["fit_seconds"].items()} == {
        "tiny": 4, "plain": 4, "ground-truth": 0
    }  # fmt: skip
    assert not (tmp_path / "fits").exists()


@pytest.mark.slow
def test_what_a_worker_raises_reaches_the_user(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no (dog|vase) can be fitted here; try another"):
        run(tmp_path / "refusing", Refusing, workers=2)
    with pytest.raises(ZeroDivisionError, match="a bug in a method") as caught:
        run(tmp_path / "broken", Broken, workers=2)
    assert "in fit" in str(caught.value.__cause__)
    assert one_line(caught.value) is None  # a bug keeps its traceback
    with pytest.raises(InputError, match="a worker process died, possibly out of memory") as died:
        run(tmp_path / "dying", Dying, workers=2)
    assert "fewer --workers" in (one_line(died.value) or "")
    assert not list(tmp_path.rglob(".writing-*"))


def children_of(parent: int) -> list[int]:
    """The processes that a process spawned, but for multiprocessing's resource tracker, which waits for them."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            command = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == parent and b"spawn_main" in command and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda how: how.name)
def test_workers_end_with_their_parent(tmp_path: Path, how: signal.Signals) -> None:
    parent = start(out=tmp_path, tiny=VerySlow, workers=2)
    assert parent.pid is not None
    deadline = time.monotonic() + 240
    while len(list((tmp_path / "fits").rglob("*.lock"))) < 2:  # both workers sit in a fit
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = children_of(parent.pid)
    assert len(workers) == 2
    os.kill(parent.pid, how)
    parent.join()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert run(tmp_path)
