"""The tiny checkpoints, each made once; makes `cases`, what the reference was recorded for, importable."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "reference"))


@pytest.fixture(scope="module")
def model() -> Any:
    """An untrained tiny model, unless a room has another one."""
    from bdkit.testing.tiny_model import tiny_model

    return tiny_model()


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny checkpoint in each format, not to be written to."""
    from bdkit.checkpoints.save import WRITERS
    from bdkit.testing.tiny_checkpoints import write_tiny_checkpoint

    root = tmp_path_factory.mktemp("tiny")
    return {name: write_tiny_checkpoint(root / name, name) for name in WRITERS}
