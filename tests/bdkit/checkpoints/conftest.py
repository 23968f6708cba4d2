"""A tiny checkpoint in each of the others' formats that a test may change, and the model that they hold."""

import shutil
import sys
from pathlib import Path

import pytest

from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.testing.tiny_checkpoints import public_tiny_model

sys.path.insert(0, str(Path(__file__).parent))  # for `foreign_files`


@pytest.fixture(scope="session")
def model() -> BlipDiffusion:
    return public_tiny_model()


@pytest.fixture
def public(tiny_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A folder in the public format that a test may change."""
    return Path(shutil.copytree(tiny_folders["diffusers"], tmp_path / "public"))


@pytest.fixture
def lavis(tiny_folders: dict[str, Path], tmp_path: Path) -> Path:
    """The weights alone, as LAVIS has them."""
    folder = tmp_path / "lavis"
    for path in tiny_folders["lavis"].rglob("*"):
        if path.suffix in (".pt", ".bin"):
            target = folder / path.relative_to(tiny_folders["lavis"])
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return folder
