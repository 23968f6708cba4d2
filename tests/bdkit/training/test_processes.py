"""Two processes that share each batch train what one does with the whole; two that don't are refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bdkit.training.pretraining.presets import PRETRAIN
from bdkit.training.pretraining.stages import MiniPretraining

SCRIPT = str(Path(__file__).with_name("two_processes.py"))


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29611"]
    subprocess.run([sys.executable, SCRIPT, str(tmp_path / "one"), "8"], check=True, timeout=200)
    subprocess.run([*torchrun, SCRIPT, str(tmp_path / "two"), "4"], check=True, timeout=200)
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6)
    assert not torch.equal(one["net.0.weight"], torch.zeros_like(one["net.0.weight"]))
    assert json.loads((tmp_path / "two" / "run.json").read_text())["processes"] == 2


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="on GPUs the processes find each other")
def test_processes_that_would_each_train_alone_are_refused(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29612"]
    done = subprocess.run([*torchrun, SCRIPT, str(tmp_path), "4", "any"], capture_output=True, text=True, timeout=200)
    assert done.returncode != 0
    assert "2 processes were started, but 1 share each batch on cpu" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_pretraining_tells_its_loops_the_device_so_that_processes_find_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert MiniPretraining(tmp_path, PRETRAIN["mini-smoke"], progress=False).loop["device"] == "cpu"
