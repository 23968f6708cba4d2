"""`bdkit finetune` and `bdkit generate` on a small untrained model: files, resuming, and what they refuse."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import line_of

from bdkit import cli
from bdkit.models.blip_diffusion import BlipDiffusion, GenerationDefaults
from bdkit.training.pretraining.presets import MINI
from bdkit.training.pretraining.stages import new_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = replace(
        MINI,
        unet={**MINI.unet, "block_out_channels": (32, 32, 64)},
        defaults=GenerationDefaults(resolution=64, guidance_scale=2.0, num_inference_steps=2),
    )
    return new_model(config).save_pretrained(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number, size in enumerate([(64, 64), (90, 70)]):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def my_dog(model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mine") / "my-dog"
    assert cli.main(finetune(model, photos, out)) == 0
    return out


def finetune(model: Path, photos: Path, out: Path, *more: str) -> list[str]:
    flags = ["--model", str(model), "--images", str(photos), "--subject", "dog", "--out", str(out)]
    return ["finetune", *flags, "--steps", "2", *more]


def generate(model: Path, out: Path, *more: str) -> list[str]:
    return ["generate", "--model", str(model), "--out", str(out), "--prompt", "a {} in the snow", *more]


def test_a_fine_tuned_folder_holds_the_subject_and_draws_it(my_dog: Path, tmp_path: Path) -> None:
    loaded = BlipDiffusion.from_pretrained(my_dog)
    assert loaded.subject_class == "dog"
    assert loaded.subject_embeddings is not None
    assert sorted(path.name for path in my_dog.parent.iterdir()) == ["my-dog"]
    assert cli.main(generate(my_dog, tmp_path / "out", "--seeds", "0-1,7")) == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*")) == [
        *("00000.png", "00001.png", "00007.png"),
        "run.json",
    ]
    with Image.open(tmp_path / "out" / "00007.png") as picture:
        assert (picture.size, picture.mode) == ((64, 64), "RGB")


def test_a_stopped_generation_goes_on_with_the_same_bytes(model: Path, photos: Path, tmp_path: Path) -> None:
    arguments = generate(model, tmp_path / "out", "--images", str(photos), "--subject", "dog", "--seeds", "0-4")
    assert cli.main(arguments) == 0
    paths = sorted((tmp_path / "out").glob("*.png"))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
    assert len(before) == 5
    assert len({content for content, _ in before.values()}) == 5
    paths[1].unlink()
    assert cli.main(arguments) == 0
    assert all(path.read_bytes() == content for path, (content, _) in before.items())
    kept = [path for path in paths if path.stat().st_mtime_ns == before[path][1]]
    assert kept == [paths[0], *paths[2:]]


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_one_line_and_whole_images(my_dog: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "bdkit.cli", *generate(my_dog, out, "--seeds", "0-9999")]
    # A shell's background jobs, this test's among them, ignore Ctrl-C, and their children inherit that.
    heed = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    deadline = time.monotonic() + 120
    while not list(out.glob("0*.png")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "bdkit: stopped; run the same command again to go on"
    assert "Traceback" not in err
    assert [path for path in out.iterdir() if path.name.startswith(".")] == []
    for path in out.glob("*.png"):
        with Image.open(path) as picture:
            picture.load()


def test_the_record_says_what_was_drawn_with_what(my_dog: Path, tmp_path: Path) -> None:
    flags = ["--seeds", "3", "--guidance-scale", "1.5", "--scheduler", "DDIMScheduler", "--num-inference-steps", "3"]
    assert cli.main(generate(my_dog, tmp_path / "out", *flags)) == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["seeds"] == [3]
    assert record["settings"]["guidance_scale"] == 1.5
    assert record["settings"]["scheduler"] == "DDIMScheduler"
    assert record["settings"]["prompt"] == "a {} in the snow"
    assert len(record["checkpoint"]) == 12
    assert record["libraries"]["torch"]


def test_images_of_another_command_are_kept_unless_overwrite_is_said(
    my_dog: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(generate(my_dog, out, "--seeds", "0-1")) == 0
    first = (out / "00000.png").read_bytes()
    (out / "mine.png").write_bytes(first)
    other = generate(my_dog, out, "--seeds", "0", "--guidance-scale", "9")
    assert "holds images of another command" in line_of(other, capsys)
    assert (out / "00000.png").read_bytes() == first
    assert cli.main([*other, "--overwrite"]) == 0
    assert (out / "00000.png").read_bytes() != first
    assert sorted(path.name for path in out.iterdir()) == ["00000.png", "mine.png", "run.json"]


def test_a_long_prompt_is_cut_and_that_is_said(
    my_dog: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = generate(my_dog, tmp_path / "out")
    arguments[arguments.index("--prompt") + 1] = "a {} in the snow" + " and the jungle" * 20
    assert cli.main(arguments) == 0
    assert "is cut off" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--images", "PHOTOS", "--subject", "unicorn"], "does not know the class word 'unicorn'; it knows backpack"),
        (["--images", "PHOTOS"], "--images needs --subject"),
        ([], "the prompt has a place for a subject"),
        (["--images", "PHOTOS", "--subject", "dog", "--scheduler", "Nice"], "no scheduler 'Nice'"),
        (["--images", "PHOTOS", "--subject", "dog", "--num-inference-steps", "0"], "num_inference_steps is 0"),
        (["--images", "PHOTOS", "--subject", "dog", "--prompt", "{} and {}"], "2 places for a subject"),
    ],
)
def test_generate_refuses(
    flags: list[str], words: str, model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [str(photos) if flag == "PHOTOS" else flag for flag in flags]
    assert words in line_of(generate(model, tmp_path / "out", *flags), capsys)
    assert not (tmp_path / "out").exists()


def test_a_fine_tuned_folder_refuses_other_subjects(
    my_dog: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ["--images", str(photos), "--subject", "cat"]
    assert "already holds a subject (dog)" in line_of(generate(my_dog, tmp_path / "out", *other), capsys)
    assert "holds a dog, not a cat" in line_of(generate(my_dog, tmp_path / "out", "--subject", "cat"), capsys)
    assert "already holds a subject (dog)" in line_of(finetune(my_dog, photos, tmp_path / "out"), capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--subject", "unicorn"], "does not know the class word 'unicorn'"),
        (["--preset", "best"], "unknown preset 'best'"),
        (["--steps", "-1"], "steps is -1"),
        (["--learning-rate", "fast"], "--learning-rate"),
        (["--learning-rate", "1e30"], "the loss is"),
    ],
)
def test_finetune_refuses_and_leaves_nothing(
    flags: list[str], words: str, model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert cli.main(finetune(model, photos, tmp_path / "out", *flags)) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_finetune_keeps_what_is_there_unless_overwrite_is_said(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert "already holds something" in line_of(finetune(model, photos, tmp_path / "out"), capsys)
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    assert cli.main(finetune(model, photos, tmp_path / "out", "--overwrite")) == 0
    assert not (tmp_path / "out" / "mine.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("part", ["unet", "qformer_tokenizer", "bdkit.json", "vae/diffusion_pytorch_model.safetensors"])
def test_a_missing_part_of_a_model_is_named(
    part: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    shutil.rmtree(copy / part) if (copy / part).is_dir() else (copy / part).unlink()
    line = line_of(generate(copy, tmp_path / "out", "--subject", "dog"), capsys)
    assert part in line
    assert "missing" in line


def test_damaged_weights_are_named(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert f"{path} is damaged" in line_of(generate(copy, tmp_path / "out", "--subject", "dog"), capsys)
