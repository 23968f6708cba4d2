"""Re-Imagen on shards: neighbours by the captions of the records, its own folder, and the method that reads it."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bdkit import cli
from bdkit.checkpoints.load import load_model
from bdkit.checkpoints.re_imagen import RECORD, WEIGHTS, additions, load_re_imagen
from bdkit.methods import build_method
from bdkit.training.bm25 import bm25_neighbours
from bdkit.training.pretraining.config import RetrievalAugmentedConfig
from bdkit.training.shards.read import Shards
from bdkit.training.shards.retrieval import RetrievalSamples, captions_of
from bdkit.utils.io import read_json

sys.path.insert(0, str(Path(__file__).parent))
import shard_training

sys.path.pop(0)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    shard_training.write_shards(folder / "shards", 12)
    shard_training.write_model(folder / "model")
    return folder


def test_a_sample_is_a_record_with_the_records_that_its_caption_retrieves(inputs: Path) -> None:
    shards, model = Shards(inputs / "shards"), load_model(inputs / "model")
    config = RetrievalAugmentedConfig(text_drop=0, neighbour_drop=0, detail_share=0, class_noun_share=0)
    neighbours = bm25_neighbours(captions_of(shards), 2)
    samples = RetrievalSamples(
        tokenizer=model.tokenizer, length=32, resolution=64, config=config, shards=shards, neighbours=neighbours
    )
    images, texts, shown = samples(shards[3], np.random.default_rng(0))
    numbers = [3, *neighbours[3].tolist()]
    assert shown
    assert len({*numbers}) == 3
    assert texts == [shards[number].details["caption"] for number in numbers]
    assert all(np.array_equal(image, shards[n].image()) for image, n in zip(images, numbers, strict=True))
    nouns = replace(samples, config=replace(config, class_noun_share=1, detail_share=1, neighbour_drop=1, text_drop=1))
    _, texts, shown = nouns(shards[3], np.random.default_rng(0))
    assert texts == ["", *(f"a {shards[number].details['subject']}" for number in numbers[1:])]
    assert not shown
    stacked, ids, all_shown = samples.collate([samples(shards[k], np.random.default_rng(k)) for k in (0, 1)])
    assert (stacked.shape, ids.shape, all_shown.tolist()) == ((2, 3, 64, 64, 3), (2, 3, 32), [True, True])


def test_the_command_trains_and_the_method_draws_with_it(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, model = tmp_path / "run", inputs / "model"
    command = ["pretrain", "re-imagen", "--data", str(inputs / "shards"), "--out", str(out), "--device", "cpu"]
    numbers = ["--preset", "mini", "--steps", "2", "--batch-size", "4", "--mixed-precision", "no"]
    assert cli.main([*command, *numbers]) == 2
    assert "Re-Imagen adds to a model; give --base" in capsys.readouterr().err
    assert cli.main([*command, *numbers, "--base", str(model)]) == 0
    assert {path.name for path in (out / "model").iterdir()} == {RECORD, WEIGHTS}
    assert read_json(out / "model" / RECORD)["training"]["final"]["step"] == 2
    assert cli.main([*command, *numbers, "--base", str(model)]) == 0  # nothing left to do
    draw = ["generate", "--model", str(out / "model"), "--prompt", "a dog", "--out", str(tmp_path / "images")]
    assert cli.main(draw) == 2
    assert "holds Re-Imagen's additions, no whole model" in capsys.readouterr().err
    start = load_model(model).to(torch.bfloat16)
    state = additions(load_re_imagen(out / "model", start))
    assert state["attention.attention.to_out.0.weight"].any()
    method = build_method("re-imagen", start, adapter=str(out / "model"))
    method.fit([Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "green")], "dog", 0)
    assert torch.Size((1, 2 * 64, 32)) == method.state()["neighbours"].shape
    assert method.generate("a {} {} in the jungle", "dog", [0])[0].size == (32, 32)
