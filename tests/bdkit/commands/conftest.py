"""Small untrained models, photos to learn from, and how the tests of the commands call them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image

from bdkit import cli
from bdkit.miniworld.subjects import CLASSES
from bdkit.testing.tiny_checkpoints import write_tiny_checkpoint
from bdkit.testing.tiny_model import tiny_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in bdkit's format; the preset "mini" starts from the folder mini-base beside the one that is given."""
    model = tiny_model()
    model.record["class_nouns"] = list(CLASSES)
    return model.save_pretrained(tmp_path_factory.mktemp("own") / "mini-base")


@pytest.fixture(scope="session")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in the public diffusers format."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("public") / "mini-base")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, size in enumerate([(36, 32, 3), (40, 50, 3)]):
        values = np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must succeed; returns what it prints."""

    def call(*arguments: object) -> str:
        capsys.readouterr()
        assert cli.main([*map(str, arguments)]) == 0
        return capsys.readouterr().out

    return call


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must be refused; returns the one line that it prints."""

    def call(*arguments: object) -> str:
        capsys.readouterr()
        assert cli.main([*map(str, arguments)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("bdkit: error: ")
        assert err.count("\n") == 1
        return err

    return call


@pytest.fixture
def generate(model: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The arguments of `bdkit generate` with the small model; later flags replace earlier ones."""

    def arguments(*more: object, out: Path = tmp_path / "out") -> list[str]:
        flags = ("--model", model, "--out", out, "--prompt", "a {} in the snow", "--num-inference-steps", 2)
        return ["generate", *map(str, (*flags, *more))]

    return arguments


@pytest.fixture
def finetune(model: Path, photos: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The arguments of `bdkit finetune` with the small model and two steps."""

    def arguments(*more: object, out: Path = tmp_path / "mine") -> list[str]:
        flags = ("--model", model, "--images", photos, "--subject", "dog", "--out", out, "--preset", "mini")
        return ["finetune", *map(str, (*flags, "--steps", 2, "--learning-rate", 1e-2, *more))]

    return arguments


@pytest.fixture(scope="session")
def my_dog(model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `bdkit finetune` wrote."""
    out = tmp_path_factory.mktemp("mine") / "my-dog"
    flags = ["--model", str(model), "--images", str(photos), "--subject", "dog", "--out", str(out), "--steps", "2"]
    assert cli.main(["finetune", *flags, "--mixed-precision", "no"]) == 0
    return out


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Path]:
    """Copies a folder, so that a test may damage it."""
    return lambda folder: shutil.copytree(folder, tmp_path / f"copy of {folder.name}")


@pytest.fixture
def fill(model, public, photos, my_dog, controlnet):
    """Puts the folders in place of their names in braces."""
    names = {"model": model, "public": public, "photos": photos, "my_dog": my_dog, "controlnet": controlnet}

    def filled(text: str) -> str:
        for name, folder in names.items():
            text = text.replace(f"{{{name}}}", str(folder))
        return text

    return lambda arguments: [filled(text) for text in arguments]


@pytest.fixture(scope="session")
def controlnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ControlNet with random weights for the small model."""
    folder = tmp_path_factory.mktemp("nets") / "net"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = ControlNetModel.from_unet(tiny_model().unet, conditioning_embedding_out_channels=(8, 16, 16))
        for parameter in net.parameters():
            parameter.data.normal_(std=0.2 if parameter.dim() < 2 else parameter[0].numel() ** -0.5)
    net.save_pretrained(folder)
    return folder
