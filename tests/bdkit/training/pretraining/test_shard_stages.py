"""Stages 1 and 2 on shards: bit for bit what a corpus in memory gives, on any number of processes, after any kill."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from bdkit.checkpoints.load import load_model
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.training.pretraining import multimodal_representation as stage1
from bdkit.training.pretraining import subject_representation as stage2
from bdkit.training.pretraining.autoencoder import encode_corpus
from bdkit.training.pretraining.corpus import build_corpus
from bdkit.training.pretraining.matting import build_mattes
from bdkit.training.shards.read import Shards

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


def states_of(model: BlipDiffusion) -> dict[str, torch.Tensor]:
    return model.state_dict()


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

    theirs, ours, start = load_model(shared).state_dict(), model.state_dict(), load_model(inputs / "model").state_dict()
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
@pytest.mark.parametrize(("kills", "workers"), [(5, 0), (2, 2)])
def test_killed_at_random_moments_it_ends_with_the_same_weights(
    inputs: Path, tmp_path: Path, kills: int, workers: int
) -> None:
    whole = shard_training.train(inputs, tmp_path / "whole", shard_training.presets(30, 4, 1e-3))
    seed = int(time.time())
    command = [sys.executable, SCRIPT, str(inputs), str(tmp_path / "killed"), str(kills), str(workers), str(seed)]
    subprocess.run(command, check=True, timeout=600)
    ours, theirs = (load_model(folder).state_dict() for folder in (whole, tmp_path / "killed" / "2" / "model"))
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == [], seed
