"""`bdkit finetune` after a kill: the same command goes on, and ends with the bytes of an undisturbed run."""

import json
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bdkit import cli
from bdkit.methods import build_method
from bdkit.testing.tiny_model import tiny_model
from bdkit.training.finetuning import Work

STEPS = 40
CHILDREN = multiprocessing.get_context("forkserver")  # imports once for all children
CHILDREN.set_forkserver_preload(["bdkit.commands.finetune"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model().save_pretrained(tmp_path_factory.mktemp("models") / "mini-base")


def pictures(count: int = 2) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (36, 32, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, picture in enumerate(pictures()):
        picture.save(folder / f"{number}.png")
    return folder


def command(model: Path, photos: Path, out: Path, *more: object) -> list[str]:
    flags = ["--model", model, "--images", photos, "--subject", "dog", "--out", out, "--preset", "mini"]
    numbers = ["--steps", STEPS, "--learning-rate", 1e-3, "--checkpoint-seconds", 0]
    return ["finetune", *map(str, (*flags, *numbers, *more))]


def start(arguments: list[str]) -> multiprocessing.process.BaseProcess:
    child = CHILDREN.Process(target=cli.main, args=(arguments,))
    child.start()
    return child


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["blip-diffusion", "dreambooth", "dreambooth-lora", "textual-inversion"])
def test_a_killed_fit_goes_on_and_ends_with_the_same_bytes(
    name: str, model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, checkpoint = tmp_path / "mine", tmp_path / "mine" / ".fit" / "checkpoint.pt"
    arguments = command(model, photos, out, "--method", name)
    child = start(arguments)
    deadline = time.monotonic() + 300
    while not checkpoint.exists() and child.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    step = torch.load(checkpoint, weights_only=True)["step"]
    assert 0 < step < STEPS
    assert [path.name for path in out.iterdir()] == [".fit"]
    capsys.readouterr()
    assert cli.main(arguments) == 0
    shown = re.search(rf"(\d+)/{STEPS}", capsys.readouterr().err)
    assert shown is not None
    assert int(shown[1]) >= step, "it began anew"
    undisturbed = start(command(model, photos, tmp_path / "other", "--method", name))
    undisturbed.join()
    assert undisturbed.exitcode == 0
    ours, theirs = content(out), content(tmp_path / "other")
    assert ours.keys() == theirs.keys()
    assert not [file for file in ours if ours[file] != theirs[file]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "other"]


class Stopped(Exception):
    pass


def test_snapshots_and_images_of_the_class_survive_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped amid the class's images, and again between two snapshots."""
    settings = {"steps": 6, "snapshots": (2, 4), "prior_loss_weight": 1.0, "class_images": 20, "preset": "mini"}

    def fitted(work: Work | None, stop_at: int = 10**6) -> dict[str, torch.Tensor]:
        model = tiny_model()
        method = build_method("dreambooth", model, start=None, **settings)  # type: ignore[arg-type]
        method.work = work  # type: ignore[attr-defined]
        left = [stop_at]

        def count(*_: object) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Stopped

        for unet in (model.unet, method._unet):  # type: ignore[attr-defined]
            unet.register_forward_hook(count)
        method.fit(pictures(), "dog", 0)
        calls.append(stop_at - left[0])
        return method.state()

    calls: list[int] = []
    work = Work(folder=tmp_path, seconds=0)
    whole = fitted(None)
    drawing = calls[0] - 6 * 2  # a step looks at the subject and at the class
    with pytest.raises(Stopped):
        fitted(work, drawing - 1)
    assert len(list(tmp_path.glob("class-*.pt"))) == 2
    with pytest.raises(Stopped):
        fitted(work, drawing // 3 + 3 * 2)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 3
    resumed = fitted(work)
    assert calls[-1] == 3 * 2
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())


def test_an_unfinished_fit_is_no_other_fits(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    work = out / ".fit"
    work.mkdir(parents=True)
    (work / "fit.json").write_text(json.dumps({"subject": "cat"}))
    (work / "checkpoint.pt").write_bytes(b"of another fit")
    assert cli.main(command(model, photos, out, "--steps", 1)) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "holds an unfinished fit with other images, settings or weights" in err
    assert (work / "checkpoint.pt").read_bytes() == b"of another fit"
    assert cli.main(command(model, photos, out, "--steps", 1, "--overwrite")) == 0
    assert not work.exists()
