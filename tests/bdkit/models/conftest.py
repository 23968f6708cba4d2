"""The tiny checkpoints in each layout, written once."""

from pathlib import Path

import pytest

from bdkit.models.tiny_checkpoints import WRITERS, write_tiny_checkpoint


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Not to be written to."""
    root = tmp_path_factory.mktemp("tiny")
    return {name: write_tiny_checkpoint(root / name, name) for name in WRITERS}
