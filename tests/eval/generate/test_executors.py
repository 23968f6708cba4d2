"""Worker processes that share the work, fail, and end with their parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from generate_helpers import files, run

from bdkit.cli import one_line
from bdkit.utils.errors import InputError
from eval.generate.executors import default_workers, local_processes, run_all, usable_cores
from eval.generate.tasks import parse_shard
from eval.results_dir import read_run


def test_as_many_workers_as_there_are_cores_and_memory() -> None:
    assert 1 <= default_workers(0) <= usable_cores()
    assert default_workers(1 << 50) == 1


@pytest.mark.slow
def test_workers_give_the_same_bytes(tmp_path: Path, whole: Path) -> None:
    assert run(tmp_path, workers=2)
    assert files(tmp_path) == files(whole)
    assert {name: len(seconds) for name, seconds in read_run(tmp_path)["fit_seconds"].items()} == {
        "tiny-2": 4,
        "tiny": 4,
        "plain": 4,
    }
    assert not (tmp_path / "fits").exists()


@pytest.mark.slow
def test_what_a_worker_raises_reaches_the_user() -> None:
    with pytest.raises(InputError, match="'4/3' is no shard"), local_processes(1) as executor:
        list(run_all(executor, parse_shard, ["2/3", "4/3"]))
    with pytest.raises(ValueError, match="invalid literal") as caught, local_processes(1) as executor:
        list(run_all(executor, int, ["x"]))
    assert one_line(caught.value) is None  # a bug keeps its traceback
    with pytest.raises(InputError, match="possibly out of memory") as died, local_processes(1) as executor:
        list(run_all(executor, os._exit, [1]))
    assert "fewer --workers" in (one_line(died.value) or "")


PARENT = """
import os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's children ignore it
from eval.generate.executors import local_processes, run_all
with local_processes(2) as executor:
    futures = [executor.submit(os.getpid) for _ in range(2)]
    futures[0].result()
    print(*executor._processes, flush=True)
    list(run_all(executor, time.sleep, [3600, 3600]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda how: how.name)
def test_workers_end_with_their_parent(how: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        workers = [int(worker) for worker in parent.stdout.readline().split()]
        parent.send_signal(how)
        assert len(workers) == 2
        deadline = time.monotonic() + 240
        try:
            while any(Path(f"/proc/{worker}").exists() for worker in workers):
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            parent.kill()
