"""Order, conditions and helper modules: fast tests first, GPU tests only where there is a GPU, never the network."""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Ray reads these once, at its first import in a process: a loopback cluster that asks for a token. Of nodes that are
# started one by one none makes the token, as ray.init does in the user's home
os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "of-these-tests-0123456789abcdef"}

import tempfile

import pytest

from bdkit.cli import quiet_libraries

SHARED = "PYTEST_XDIST_WORKER" in os.environ  # by several processes: pytest -n 2 --dist loadfile
if SHARED:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before any import of torch
HERE = Path(__file__).parent
# the folders of helper modules, and `cases`, what the reference was recorded for
sys.path[:0] = [
    str(HERE / name)
    for name in ("reference", "eval", "eval/score", "eval/score/editing", "eval/generate", "bdkit/models")
]

CACHE = tempfile.TemporaryDirectory(prefix="bdkit-tests-")
os.environ["BDKIT_CACHE_DIR"] = CACHE.name  # embeddings, never in the user's own cache

quiet_libraries()  # before any test imports a library that a command would find talking


def pytest_configure(config: pytest.Config) -> None:
    # numpy's remark on what diffusers does with tensors
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = {item: item.get_closest_marker("slow") is not None for item in items}
    if SHARED:  # whole files, those with slow tests first, so that no process has nothing left to do
        files = {item.path for item in items if slow[item]}
        items.sort(key=lambda item: item.path not in files)
    else:
        items.sort(key=lambda item: slow[item])
    if not any(item.get_closest_marker("gpu") for item in items):
        return
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
