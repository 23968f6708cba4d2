"""The tiny model and the tiny checkpoints, each made once."""

from pathlib import Path
from typing import Any

import pytest


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
