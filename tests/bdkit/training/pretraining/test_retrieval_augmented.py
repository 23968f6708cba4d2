"""Re-Imagen's training: what is drawn and dropped, what is trained, exact resuming, and its folder."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bdkit import cli
from bdkit.checkpoints.load import SHIPPED, load_model
from bdkit.checkpoints.re_imagen import (
    MINI_RE_IMAGEN,
    RECORD,
    WEIGHTS,
    additions,
    load_re_imagen,
    new_retrieval_unet,
    save_re_imagen,
)
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.configs import RetrievalConfig
from bdkit.testing.tiny_checkpoints import public_tiny_model
from bdkit.testing.tiny_model import tiny_model
from bdkit.training.bm25 import bm25_neighbours
from bdkit.training.config import TrainingConfig
from bdkit.training.data import step_generator
from bdkit.training.pretraining.autoencoder import encode_corpus
from bdkit.training.pretraining.config import RetrievalAugmentedConfig
from bdkit.training.pretraining.corpus import Corpus, CorpusConfig, build_corpus, corpus_scene
from bdkit.training.pretraining.presets import RE_IMAGEN
from bdkit.training.pretraining.retrieval_augmented import (
    RetrievalAugmentedLoss,
    RetrievalBatch,
    descriptions,
    draw_retrieval,
    retrieval_batches,
    train_retrieval_augmented,
)
from bdkit.utils.errors import InputError
from bdkit.utils.io import read_json, write_json

TRAINING = TrainingConfig(steps=4, batch_size=4, learning_rate=1e-2)
RETRIEVAL = RetrievalConfig(heads=2)
CONFIG = RetrievalAugmentedConfig()


def corpus() -> Corpus:
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    texts = [f"a {{}} in the {place}" for place in ("snow", "city", "grass", "jungle")] * 2
    nouns = ["dog", "cat"] * 4
    details = [text.replace("{}", f"red {noun}") for text, noun in zip(texts, nouns, strict=True)]
    return Corpus(images=images, alphas=images[..., 0], templates=texts, details=details, class_nouns=nouns)


def train(
    model: BlipDiffusion, training: TrainingConfig = TRAINING, out: Path | None = None
) -> dict[str, torch.Tensor]:
    scenes = corpus()
    latents, neighbours = encode_corpus(model.vae, scenes.images), bm25_neighbours(scenes.details, 2)
    batches = retrieval_batches(model, scenes, latents, neighbours, training, CONFIG)
    unet = new_retrieval_unet(model, RETRIEVAL)
    record = train_retrieval_augmented(model, unet, batches, training, CONFIG, out, device="cpu", progress=False)
    assert record["final"]["step"] == training.steps
    return {name: value.detach().clone() for name, value in additions(unet).items()}


def test_text_and_neighbours_are_dropped_independently_a_tenth_each() -> None:
    numbers = np.random.default_rng(0).random((20000, 4))
    draws = [draw_retrieval(row, CONFIG) for row in numbers.tolist()]
    empty, hidden = (np.array(column) for column in zip(*((d.empty, not d.shown) for d in draws), strict=True))
    assert abs(empty.mean() - 0.1) < 0.01
    assert abs(hidden.mean() - 0.1) < 0.01
    assert abs((empty & hidden).mean() - 0.01) < 0.004
    assert not any(
        draw_retrieval(row, replace(CONFIG, text_drop=0, neighbour_drop=0)).empty for row in numbers.tolist()
    )
    for name, value in (("neighbours", 0), ("text_drop", 1.5), ("noise_weights", (1.0,))):
        with pytest.raises(InputError, match=f"{name} is"):
            replace(CONFIG, **{name: value})


def test_a_batch_holds_the_other_images_that_the_captions_retrieve() -> None:
    model, scenes = tiny_model(), corpus()
    latents = encode_corpus(model.vae, scenes.images)
    neighbours = bm25_neighbours(scenes.details, 2)
    batches = retrieval_batches(model, scenes, latents, neighbours, TRAINING, CONFIG)
    batch, texts = batches.make(0, step_generator(0, 0)), ["", *scenes.captions_at(np.arange(8)), *scenes.details]
    known = {tuple(model.tokenize([text])[0][0].tolist()) for text in texts}
    nouns = {tuple(model.tokenize([f"a {noun}"])[0][0].tolist()) for noun in ("dog", "cat")}
    for image, near, ids, near_ids in zip(
        batch.latents, batch.neighbours, batch.input_ids, batch.neighbour_ids, strict=True
    ):
        own = next(k for k in range(8) if torch.equal(latents[k].float(), image))
        assert all(torch.equal(latents[k].float(), one) for k, one in zip(neighbours[own], near, strict=True))
        assert own not in neighbours[own]
        assert tuple(ids.tolist()) in known
        assert {tuple(row) for row in near_ids.tolist()} <= known | nouns
    again = batches.make(0, step_generator(0, 0))
    assert torch.equal(again.input_ids, batch.input_ids)
    assert torch.equal(again.shown, batch.shown)


def test_without_neighbours_the_loss_is_that_of_the_base_and_with_them_it_is_not() -> None:
    model, scenes = tiny_model(), corpus()
    latents = encode_corpus(model.vae, scenes.images)
    batches = retrieval_batches(model, scenes, latents, bm25_neighbours(scenes.details, 2), TRAINING, CONFIG)
    unet = new_retrieval_unet(model, RETRIEVAL)
    torch.nn.init.normal_(unet.attention.attention.to_out[0].weight, generator=torch.Generator().manual_seed(0))
    loss = RetrievalAugmentedLoss(unet, model)
    batch = batches.make(0, step_generator(0, 0))

    def value(shown: bool, neighbours: torch.Tensor) -> float:
        given = replace(batch, shown=torch.full((4,), shown), neighbours=neighbours)
        with torch.no_grad():
            return float(loss(given, step_generator(0, 1))[0])

    other = batch.neighbours.flip(0)
    assert value(False, batch.neighbours) == value(False, other)
    assert len({value(True, batch.neighbours), value(True, other), value(False, other)}) == 3


def test_the_additions_alone_are_trained() -> None:
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    trained = train(model)
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    start = additions(new_retrieval_unet(tiny_model(), RETRIEVAL))
    assert [name for name, value in trained.items() if torch.equal(value, start[name])] == []
    assert all(value.isfinite().all() for value in trained.values())


def test_a_stopped_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = train(tiny_model())
    train(tiny_model(), replace(TRAINING, steps=2), tmp_path)
    resumed = train(tiny_model(), out=tmp_path)
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_a_saved_folder_is_read_back_and_others_are_refused(tmp_path: Path) -> None:
    model = tiny_model()
    unet = new_retrieval_unet(model, RETRIEVAL, 3)
    folder = save_re_imagen(unet, tmp_path / "additions", RETRIEVAL, {"note": 1}, model)
    loaded = load_re_imagen(folder, tiny_model())
    for name, value in additions(loaded).items():
        assert torch.equal(value, additions(unet)[name].half().float())
        assert not value.requires_grad
    with pytest.raises(InputError, match=r"holds no additions of Re-Imagen .*bdkit pretrain re-imagen"):
        load_re_imagen(tmp_path, model)
    with pytest.raises(InputError, match="does not fit the model"):
        load_re_imagen(folder, public_tiny_model())
    write_json({"retrieval": {"heads": "many"}}, folder / RECORD)
    with pytest.raises(InputError, match="heads is 'many'"):
        load_re_imagen(folder, model)
    write_json({}, folder / RECORD)
    with pytest.raises(InputError, match="does not fit the model: 'retrieval'"):
        load_re_imagen(folder, model)
    with pytest.raises(InputError, match="heads is 5, which does not divide the 32 channels"):
        new_retrieval_unet(model, replace(RETRIEVAL, heads=5))
    assert {path.name for path in folder.iterdir()} == {RECORD, WEIGHTS}


def test_several_images_of_a_subject_and_captions_that_find_them(tmp_path: Path) -> None:
    config = CorpusConfig(scenes=48, seed=3, images_per_subject=4, live_share=0.5)
    subjects = [corpus_scene(config, index)[0].subject for index in range(48)]
    assert all(subjects[k] == subjects[k - k % 4] for k in range(48))
    assert len({*subjects}) == 12
    assert len({corpus_scene(config, index)[0].context for index in range(4)}) > 1
    rendered = build_corpus(config, tmp_path, workers=1, progress=False)
    assert descriptions(rendered)[0].startswith(f"{rendered.class_nouns[0]} ")
    assert not any(" the " in f" {text} " for text in descriptions(rendered))  # no places
    near = bm25_neighbours(descriptions(rendered), 2, pairs=True)
    same = near // 4 == np.arange(48)[:, None] // 4
    assert same.mean() > 0.6  # by chance 6%
    assert not np.array_equal(rendered.images[0], rendered.images[1])


@pytest.mark.slow
@pytest.mark.weights
def test_the_stage_trains_on_the_shipped_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pretrain", "re-imagen", "--smoke", "--out", str(tmp_path), "--device", "cpu"]) == 0
    folder = tmp_path / "weights" / MINI_RE_IMAGEN
    assert str(folder) in capsys.readouterr().out
    record = read_json(folder / RECORD)
    assert (record["beside"], record["trained_on"]) == ("mini-base", {"model": "mini-base"})
    assert record["corpus"]["scenes"] == RE_IMAGEN["mini-smoke"].corpus.scenes
    assert sum(path.stat().st_size for path in folder.iterdir()) < 0.9 * 2**20
    assert "mini-base" in (folder / "README.md").read_text()
    assert cli.main(["pretrain", "re-imagen", "--smoke", "--out", str(tmp_path)]) == 0  # nothing left to do


@pytest.mark.weights
def test_the_shipped_one_draws_from_the_right_neighbours(tmp_path: Path) -> None:
    preset, model = RE_IMAGEN["mini"], load_model("mini-base")
    config = replace(preset.config, text_drop=0.0, neighbour_drop=0.0, detail_share=0.0)
    scenes = build_corpus(replace(preset.corpus, scenes=64, seed=77), tmp_path, progress=False)
    number = np.arange(64)
    others = np.stack([number // 4 * 4 + (number + shift) % 4 for shift in (1, 2)], axis=1)  # the same individual
    training = replace(preset.training, batch_size=32)
    latents = encode_corpus(model.vae, scenes.images)
    batches = retrieval_batches(model, scenes, latents, others, training, config)
    loss = RetrievalAugmentedLoss(load_re_imagen(SHIPPED / MINI_RE_IMAGEN, model), model, config.noise_weights)

    def mean(change: Callable[[RetrievalBatch], RetrievalBatch]) -> float:
        with torch.no_grad():
            losses = [loss(change(batches.make(k, step_generator(0, k))), step_generator(1, k))[0] for k in range(2)]
        return float(torch.stack(losses).mean())

    right = mean(lambda batch: batch)
    without = mean(lambda batch: replace(batch, shown=torch.zeros_like(batch.shown)))
    wrong = mean(lambda batch: replace(batch, neighbours=batch.neighbours.roll(1, 0)))
    assert right < without < wrong
