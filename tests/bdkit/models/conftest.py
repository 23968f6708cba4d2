"""The tiny checkpoints, each made once; makes `small_calls` importable in the tests of models."""

import sys
from pathlib import Path

import pytest

from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.testing.tiny_checkpoints import WRITERS, public_tiny_model, write_tiny_checkpoint

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def model() -> BlipDiffusion:
    return public_tiny_model()


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Not to be written to."""
    root = tmp_path_factory.mktemp("tiny")
    return {name: write_tiny_checkpoint(root / name, name) for name in WRITERS}
