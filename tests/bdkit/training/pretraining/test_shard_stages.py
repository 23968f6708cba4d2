"""Stages 1 and 2 on shards: bit for bit what a corpus in memory gives, on any number of processes, after any kill."""

import fcntl
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bdkit import cli
from bdkit.checkpoints.load import load_model
from bdkit.training.config import ShardConfig
from bdkit.training.pretraining import multimodal_representation as stage1
from bdkit.training.pretraining import subject_representation as stage2
from bdkit.training.pretraining.autoencoder import encode_corpus
from bdkit.training.pretraining.corpus import build_corpus
from bdkit.training.pretraining.matting import build_mattes
from bdkit.training.shards.files import pack
from bdkit.training.shards.jobs import Item
from bdkit.training.shards.read import Shards
from bdkit.training.shards.write import write_shards
from bdkit.utils.errors import InputError
from bdkit.utils.images import encode

sys.path.insert(0, str(Path(__file__).parent))
import shard_training

sys.path.pop(0)
SCRIPT = str(Path(__file__).with_name("shard_training.py"))
MATTES = 6


def inputs_of(folder: Path, size: int) -> Path:
    shard_training.write_shards(folder / "shards", mattes=MATTES)
    shard_training.write_shards(folder / "backgrounds", 8)
    shard_training.write_model(folder / "model", size)
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return inputs_of(tmp_path_factory.mktemp("inputs"), 32)


def scalars(log: Path) -> dict[str, float]:
    """The last value of each number in tensorboard's events."""
    events = EventAccumulator(str(log / "bdkit"))
    events.Reload()
    return {name: events.Scalars(name)[-1].value for name in events.Tags()["scalars"]}


@pytest.mark.slow
def test_shards_train_what_a_corpus_in_memory_does_bit_for_bit(tmp_path: Path) -> None:
    inputs = inputs_of(tmp_path, 64)  # the mini world's own size, as there nothing is resized
    settings = shard_training.presets(100, 4, 1e-3, mixed_precision="bf16")
    shared = shard_training.train(inputs, tmp_path / "shards-run", settings, cache_latents=True)

    corpus = build_corpus(shard_training.CORPUS, tmp_path / "corpus", workers=1, progress=False)
    mattes = build_mattes(
        corpus.images[:MATTES], corpus.alphas[:MATTES], tmp_path / "mattes", workers=1, progress=False
    )
    assert 0 < len(corpus.plain) < len(corpus)
    model, loop = load_model(inputs / "model"), {"progress": False, "device": "cpu"}
    encoder, training = model.multimodal_encoder, settings[0].training
    pairs = stage1.pair_batches(corpus, encoder, model.qformer_tokenizer, training, settings[0].config)
    stage1.train_multimodal_representation(encoder, model.qformer_tokenizer, pairs, training, None, **loop)
    others = Shards(inputs / "backgrounds")
    backgrounds = np.stack([others[number].image() for number in range(len(others))])
    latents = encode_corpus(model.vae, corpus.images)
    given = stage2.subject_batches(model, corpus, latents, backgrounds, training, settings[1].config, mattes)
    history = stage2.train_subject_representation(model, given, training, settings[1].config, None, **loop)

    theirs, start = (load_model(folder).state_dict() for folder in (shared, inputs / "model"))
    ours = model.state_dict()
    assert theirs.keys() == ours.keys()
    assert [name for name in ours if not torch.equal(theirs[name], ours[name])] == []
    moved = {name.split(".")[0] for name in ours if not torch.equal(start[name], ours[name])}
    assert moved == {"unet", "text_encoder", "multimodal_encoder"}
    losses = pd.read_csv(tmp_path / "shards-run" / "2" / "loss.csv")["loss"]
    assert losses.tolist() == [row["loss"] for row in history]


@pytest.mark.slow
def test_two_processes_train_what_one_does(inputs: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29631"]
    subprocess.run([sys.executable, SCRIPT, str(inputs), str(tmp_path / "one"), "8"], check=True, timeout=400)
    subprocess.run([*torchrun, SCRIPT, str(inputs), str(tmp_path / "two"), "8"], check=True, timeout=400)
    for stage in ("1", "2"):
        one, two = (pd.read_csv(tmp_path / name / stage / "loss.csv") for name in ("one", "two"))
        assert one["step"].tolist() == two["step"].tolist() == list(range(1, 21))
        assert np.abs(one["loss"] - two["loss"]).max() < 1e-5
    first, second = (load_model(tmp_path / name / "2" / "model").state_dict() for name in ("one", "two"))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "workers"), [(5, 0), (1, 2)])
def test_killed_at_random_moments_it_ends_with_the_same_weights(
    inputs: Path, tmp_path: Path, kills: int, workers: int
) -> None:
    whole = shard_training.train(inputs, tmp_path / "whole", shard_training.presets(30, 4, 1e-3))
    seed = int(time.time())
    command = [sys.executable, SCRIPT, str(inputs), str(tmp_path / "killed"), str(kills), str(workers), str(seed)]
    subprocess.run(command, check=True, timeout=600)
    ours, theirs = (load_model(folder).state_dict() for folder in (whole, tmp_path / "killed" / "2" / "model"))
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == [], seed


def test_the_commands_make_a_model_that_draws(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shared = ["--data", str(inputs / "shards"), "--preset", "mini", "--device", "cpu", "--steps", "2"]
    shared += ["--batch-size", "4", "--mixed-precision", "no"]
    first = ["pretrain", "stage1", *shared, "--image-encoder", str(inputs / "model"), "--warmup-steps", "0"]
    first += ["--log-with", "tensorboard", "--sample-every", "2"]
    assert cli.main([*first, "--out", "first"]) == 0
    captured = capsys.readouterr()
    shares = scalars(tmp_path / "first" / "log")
    assert all(0 <= shares[name] <= 1 for name in ("caption_found", "image_found"))
    assert (tmp_path / "first" / "log" / "samples" / "step-0000002.png").exists()
    assert captured.out == "the Q-Former starts from random weights\nstage1: finished in first/model.\n"
    record = json.loads((tmp_path / "first" / "model" / "multimodal_encoder.json").read_text())
    assert record["stage1"]["config"]["steps"] == 2
    second = ["pretrain", "stage2", *shared, "--base", str(inputs / "model"), "--micro-batch", "2"]
    # the mini preset's Q-Former is too wide for the tiny text encoder
    assert cli.main([*second, "--init", "first/model", "--out", "second"]) == 2
    assert "vectors of width 192, but the text encoder of" in capsys.readouterr().err
    second += ["--init", str(inputs / "model"), "--backgrounds", str(inputs / "backgrounds"), "--out", "second"]
    assert cli.main([*second, "--template", "paper"]) == 0
    run = json.loads((tmp_path / "second" / "run.json").read_text())
    assert run["config"]["batch_size"] * run["config"]["gradient_accumulation_steps"] == 4
    assert run["config"]["gradient_accumulation_steps"] == 2
    model = load_model(tmp_path / "second" / "model")
    assert model.conventions.template == "paper"
    (image,) = model("a {} in the snow", target_subject="dog", num_inference_steps=1, seeds=[0])
    assert image.size == (32, 32)
    # finished: nothing is trained again; another run is refused
    assert cli.main([*second, "--template", "paper"]) == 0
    capsys.readouterr()
    assert cli.main([*second, "--template", "place"]) == 2
    assert capsys.readouterr().err == (
        "bdkit: error: second belongs to another run (its template differs); choose another --out\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stage1", "--preset", "paper-stage1"], "needs an image encoder; give --image-encoder the folder or id"),
        (["stage1", "--preset", "small", "--image-encoder", "x"], "needs a Q-Former; give --qformer a BERT-base"),
        (["stage2", "--backgrounds", "mini"], "needs a text-to-image model; give --base"),
        (["stage2", "--backgrounds", "mini", "--base", "mini-base"], "starts from stage 1; give --init its result"),
        (["stage2"], "blends subjects on other images; give --backgrounds"),
        (["stage2", "--preset", "huge"], "--preset 'huge' is not known for stage2; use paper-stage2, small, mini"),
        (["stage1", "--micro-batch", "3", "--batch-size", "8"], "--micro-batch is 3, which does not divide the 8"),
        (["stage1", "--micro-batch", "0"], "--micro-batch is 0; use at least 1"),
        (["base"], "base trains on the mini world alone; leave --data out, or train one of stage1"),
        (["stage1", "--smoke"], "--smoke trains on a corpus of its own; with --data give --steps 2"),
        (["stage1", "--min-crop", "0"], "min_crop is 0.0; use a share above 0"),
        (
            ["stage1", "--batch-size", "64", "--image-encoder", "mini", "--qformer", "random"],
            "fewer than a batch of 64",
        ),
    ],
)
def test_mistakes_are_one_line(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    out = tmp_path / "run"
    command = ["pretrain", *arguments, "--data", str(inputs / "shards"), "--out", str(out), "--device", "cpu"]
    assert cli.main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_controlnet_reads_the_same_shards(inputs: Path, tmp_path: Path) -> None:
    command = ["pretrain", "controlnet", "--data", str(inputs / "shards"), "--device", "cpu", "--steps", "2"]
    command += ["--batch-size", "4", "--mixed-precision", "no", "--out", str(tmp_path / "run")]
    assert cli.main(command) == 2
    watched = ["--log-with", "tensorboard", "--sample-every", "2"]
    assert cli.main([*command, "--base", str(inputs / "model"), *watched]) == 0
    assert 0 <= scalars(tmp_path / "run" / "log")["edge_f1"] <= 1
    with Image.open(tmp_path / "run" / "log" / "samples" / "step-0000002.png") as grid:
        assert grid.width > 3 * 128
    net = ControlNetModel.from_pretrained(tmp_path / "run" / "model")
    assert net.controlnet_mid_block.weight.any()  # zero before the training
    assert json.loads((tmp_path / "run" / "model" / "run.json").read_text())["config"]["steps"] == 2


def test_two_runs_at_once_and_foreign_folders_are_refused(inputs: Path, tmp_path: Path) -> None:
    settings = shard_training.presets(2, 4, 1e-3)
    out = tmp_path / "run" / "1"
    out.mkdir(parents=True)
    (out / "photo.jpg").write_text("")
    with pytest.raises(InputError, match="already holds something else"):
        shard_training.train(inputs, tmp_path / "run", settings)
    (out / "photo.jpg").unlink()
    with open(out / ".lock", "w") as lock:
        (out / "settings.json").write_text("{}")
        with pytest.raises(InputError, match="belongs to another run"):
            shard_training.train(inputs, tmp_path / "run", settings)
        (out / "settings.json").unlink()
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another run is training in"):
            shard_training.train(inputs, tmp_path / "run", settings)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_record_that_cannot_be_used_is_one_line(tmp_path: Path, workers: int) -> None:
    record = {"caption": "a cat", "subject": "dog"}
    pixels = np.zeros((8, 8, 3), np.uint8)
    files = {"json": json.dumps(record).encode(), "png": encode(Image.fromarray(pixels), "PNG")}
    files["alpha.png"] = encode(Image.fromarray(pixels[..., 0]), "PNG")
    items = [Item(row=k, key=f"{k}", source="", record=pack(f"{k}", files)) for k in range(4)]
    with ThreadPoolExecutor(1) as pool:
        write_shards(
            lambda: items, [()], str(tmp_path / "shards"), settings={},
            shard_bytes=10**6, total=4, executor=pool, progress=False,
        )  # fmt: skip
    shard_training.write_shards(tmp_path / "backgrounds", 4)
    shard_training.write_model(tmp_path / "model")
    settings = shard_training.presets(2, 4, 1e-3)
    config = ShardConfig(
        data=str(tmp_path / "shards"), out=tmp_path / "run", base=str(tmp_path / "model"), workers=workers,
        init=str(tmp_path / "model"), backgrounds=str(tmp_path / "backgrounds"), device="cpu",
    )  # fmt: skip
    with pytest.raises(InputError, match=r"record \d: the caption 'a cat' lacks the noun 'dog'; prepare it again$"):
        shard_training.pretrain_stage2(settings[1], config, progress=False)
