"""The public tiny model; makes `small_calls` importable in the tests of models."""

import sys
from pathlib import Path

import pytest

from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.testing.tiny_checkpoints import public_tiny_model

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def model() -> BlipDiffusion:
    return public_tiny_model()
