"""Clusters that are not there, and Ray that is not installed."""

import builtins
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bdkit.commands.prepare import PrepareCommandConfig
from bdkit.utils.errors import InputError
from bdkit.utils.ray_executor import connect
from eval.experiments import BenchConfig


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """`connect` sets variables of Ray."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_ray_is_not_imported_unless_asked() -> None:
    modules = "bdkit.commands.prepare, eval.commands.bench, eval.generate.run"
    code = f"import sys, {modules}; print('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_ray(name: str, *rest: Any) -> Any:
        if name == "ray":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    with pytest.raises(InputError, match=r"pip install 'bdkit\[ray\]'"):
        connect(None)


@pytest.mark.slow
def test_a_dead_address_is_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    command = [sys.executable, "-m", "bdkit.cli", "bench", "mini-quick", "--executor", "ray", "--out", "results"]
    done = subprocess.run([*command, "--address", address], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"no Ray answers at {address}" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["10.0.0.1", "ray://10.0.0.1:x", ":6379", ""])
def test_what_is_no_address_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        with pytest.raises(InputError, match="HOST:PORT"):
            connect(address)
    else:
        with pytest.raises(InputError, match="--executor ray alone"):
            BenchConfig(address=address)
        with pytest.raises(InputError, match="--executor ray alone"):
            PrepareCommandConfig(images="mini", out="x", address=address)
