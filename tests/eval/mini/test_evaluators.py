import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bdkit.utils.errors import InputError
from eval.mini import tasks, views
from eval.mini.individuals import IndividualsConfig, draw_individuals
from eval.mini.measure import neighbours_accuracy, retrieval
from eval.mini.networks import HEADS, WordTokenizer, build_network, load_network, save_network
from eval.mini.pool import Material, Pool
from eval.mini.train import SMOKE, TRAININGS, train_evaluator

WORDS = ["a", "blue", "cup", "green", "in", "red", "snow", "the", "thing"]


def make_pool(subjects: int = 12, count: int = 4, seed: int = 0) -> Pool:
    """Subjects are squares of one colour each on noise; class 0 sits high, class 1 low."""
    rng = np.random.default_rng(seed)
    images, subject = [], []
    for number in range(subjects):
        colour = rng.integers(0, 256, 3)
        for _ in range(count):
            image = rng.integers(90, 160, (64, 64, 3))
            top, left = 4 + 30 * (number % 2) + rng.integers(0, 6), rng.integers(4, 30)
            image[top : top + 24, left : left + 24] = colour
            images.append(image.astype(np.uint8))
            subject.append(number)
    ids = np.array(subject)
    labels = {name: np.zeros(len(ids), dtype=np.int64) for name in HEADS} | {"class": ids % 2}
    captions = [("a thing in the snow", "a red thing in the snow")] * len(ids)
    return Pool(images=np.stack(images), subject=ids, labels=labels, captions=captions)


@pytest.fixture(scope="module")
def material() -> Material:
    prompts = [["a thing in the snow"], ["a cup in the snow"]]
    shown = draw_individuals(IndividualsConfig(suites=1, subjects=6, lookalikes=1, prompted=1))
    return Material(
        train=make_pool(), held_out=make_pool(6, 3, seed=1), words=WORDS, prompts=prompts, individuals=shown
    )


def same_weights(first: Path, second: Path) -> bool:
    a, b = load_network(first)[0].state_dict(), load_network(second)[0].state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("name", list(TRAININGS))
def test_a_stopped_run_ends_with_the_same_weights(name, material, tmp_path, monkeypatch):
    training = replace(SMOKE[name], steps=4, batch_size=8, checkpoint_seconds=0)
    entry = train_evaluator(name, material, training, tmp_path / "whole", tmp_path / "a", progress=False)
    usual = tasks.TASKS[name].after_step

    def stop(self: tasks.Task, step: int) -> None:
        usual(self, step)
        if step == 3:
            raise Stopped

    monkeypatch.setattr(tasks.TASKS[name], "after_step", stop)
    with pytest.raises(Stopped):
        train_evaluator(name, material, training, tmp_path / "parts", tmp_path / "b", progress=False)
    monkeypatch.undo()
    assert torch.load(tmp_path / "parts" / name / "checkpoint.pt", weights_only=True)["step"] == 2
    train_evaluator(name, material, training, tmp_path / "parts", tmp_path / "b", progress=False)
    assert same_weights(tmp_path / "a" / f"{name}.safetensors", tmp_path / "b" / f"{name}.safetensors")
    card = json.loads((tmp_path / "a" / "card.json").read_text())
    assert card["models"][name]["sha256"] == entry["sha256"]
    assert entry["measures"]
    assert all(np.isfinite(value) for value in entry["measures"].values())
    assert not list(tmp_path.rglob(".*"))


def test_the_teacher_of_dino_follows_its_student(material: Material) -> None:
    task = tasks.DinoTask(material, SMOKE["dino"])
    teacher, student = task.network.norm.weight, task.student.norm.weight
    with torch.no_grad():
        student.fill_(3.0)
    task.after_step(1)
    torch.testing.assert_close(teacher, torch.full_like(teacher, 0.9 * 1 + 0.1 * 3))
    task.after_step(SMOKE["dino"].steps + 1)  # the end of the training: momentum 1
    torch.testing.assert_close(teacher, torch.full_like(teacher, 0.9 * 1 + 0.1 * 3))


@pytest.mark.slow
def test_identity_learns_to_tell_instances_apart(material: Material, tmp_path: Path) -> None:
    training = replace(SMOKE["identity"], steps=60, batch_size=24, warmup_steps=12)
    entry = train_evaluator("identity", material, training, tmp_path, tmp_path)
    measures = entry["measures"]
    assert measures["top1"] > 0.6
    assert measures["cosine_same"] > measures["cosine_other_same_class"] + 0.3


@pytest.mark.slow
def test_classifier_learns_the_class_and_keeps_the_running_statistics(material: Material, tmp_path: Path) -> None:
    training = replace(SMOKE["classifier"], steps=80, batch_size=24, warmup_steps=16)
    entry = train_evaluator("classifier", material, training, tmp_path, tmp_path)
    assert entry["measures"]["accuracy_class"] > 0.85


def test_a_loss_that_is_not_finite_writes_no_weights(material, tmp_path, monkeypatch):
    usual = tasks.IdentityTask.batch

    def poisoned(self: tasks.IdentityTask, index: int, generator: torch.Generator) -> torch.Tensor:
        return usual(self, index, generator) * (np.nan if index == 2 else 1)

    monkeypatch.setattr(tasks.IdentityTask, "batch", poisoned)
    with pytest.raises(InputError, match="identity evaluator: the loss is nan at step 2"):
        train_evaluator("identity", material, SMOKE["identity"], tmp_path, tmp_path, progress=False)
    assert not (tmp_path / "identity.safetensors").exists()


def test_a_batch_of_instances_has_few_classes_and_two_images_of_each() -> None:
    pool, rng = make_pool(), np.random.default_rng(0)
    chosen = pool.few_classes(6, 1, rng)
    assert len(set(chosen.tolist())) == 6
    assert len(set((chosen % 2).tolist())) == 1
    first, second = pool.two_of_each(chosen, rng)
    assert (pool.subject[first] == chosen).all()
    assert (pool.subject[second] == chosen).all()
    assert (first != second).all()
    assert (pool.subject[pool.partners(first, 0.5, rng)] == chosen).all()


def test_pools_keep_together_and_tokenizers_keep_the_end() -> None:
    pool = make_pool(4, 2)
    parts: dict[str, Any] = {"images": pool.images, "subject": pool.subject, "labels": pool.labels}
    with pytest.raises(ValueError, match="lengths"):
        Pool(**parts, captions=pool.captions[:-1])
    with pytest.raises(ValueError, match="two images"):
        Pool(**{**parts, "subject": np.arange(8)}, captions=pool.captions)
    tokenizer = WordTokenizer(WORDS, 6)
    rows = tokenizer(["A red thing.", "a zebra in the snow in the snow"])
    assert rows[0].tolist() == [1, 3, 8, 11, tokenizer.end, 0]
    assert (rows[1].tolist(), rows.max()) == ([1, 3, 2, 7, 10, tokenizer.end], tokenizer.size - 1)


def test_saved_networks_come_back_in_half_precision(tmp_path: Path) -> None:
    config = {"kind": "identity", "channels": [4, 4, 4, 4], "dimension": 8}
    network = build_network(config).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
    save_network(network, config, tmp_path / "x.safetensors")
    loaded, read = load_network(tmp_path / "x.safetensors")
    assert read == config
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(loaded(x), network(x), atol=2e-2, rtol=2e-2)
    with pytest.raises(InputError, match="SHA-256"):
        load_network(tmp_path / "x.safetensors", "0" * 64)


def test_views_keep_size_and_range_and_damage_is_small() -> None:
    x = views.to_tensor(make_pool(4, 2).images)
    for view in (
        lambda g: views.crop(x, 32, (0.2, 0.5), True, g),
        lambda g: views.jiggle(x, 0.1, 0.1, g),
        lambda g: views.degrade(x, g, share=1.0),
    ):
        first, again = (view(torch.Generator().manual_seed(5)) for _ in range(2))
        other = view(torch.Generator().manual_seed(6))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert first.abs().max() <= 1.0 + 1e-5
        assert first.shape[:2] == x.shape[:2]
    untouched = views.crop(x, 64, (1.0, 1.0), False, torch.Generator().manual_seed(0))
    torch.testing.assert_close(untouched, x, atol=1e-4, rtol=0)
    x = views.to_tensor(make_pool(20, 5).images)
    damaged = views.degrade(x, torch.Generator().manual_seed(0), share=0.6)
    change = (damaged - x).abs().mean(dim=(1, 2, 3))
    assert 0.2 < float((change == 0).float().mean()) < 0.6
    assert 0.01 < float(change[change > 0].mean()) < 0.25


def test_sinkhorn_and_measures_have_known_answers() -> None:
    # all rows prefer the first prototype; the rest of their logits differ
    logits = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)) + torch.tensor([6.0] + [0.0] * 7)
    q = tasks.sinkhorn(logits, iterations=50)
    torch.testing.assert_close(q.sum(dim=1), torch.ones(64))
    torch.testing.assert_close(q.sum(dim=0), torch.full((8,), 8.0), atol=0.2, rtol=0)
    # two classes of two instances with two images each; one query is nearest to the wrong instance
    angles = np.deg2rad([0, 5, 40, 25, 180, 181, 220, 221])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    subjects, classes = np.array([0, 0, 1, 1, 2, 2, 3, 3]), np.array([0, 0, 0, 0, 1, 1, 1, 1])
    measures = retrieval(embeddings, subjects, classes)
    assert (measures["instances"], measures["top1"]) == (4, 1.0)
    embeddings[3] = [np.cos(0.1), np.sin(0.1)]
    assert retrieval(embeddings, subjects, classes)["top1"] == 0.75
    assert measures["cosine_same"] == pytest.approx(np.cos(np.deg2rad([5, 15, 1, 1])).mean())
    assert neighbours_accuracy(embeddings, subjects, classes, k=2) == 1.0
    # with the classes shuffled the neighbours of other instances vote wrong
    assert neighbours_accuracy(embeddings, subjects, np.array([0, 0, 1, 1, 0, 0, 1, 1]), k=2) == 0.0


def test_classifier_loss_falls_on_one_batch(material: Material) -> None:
    task = tasks.ClassifierTask(material, SMOKE["classifier"])
    optimizer = torch.optim.AdamW(task.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    batch = task.batch(0, generator)
    first = float(task(batch, generator)[0].detach())
    for _ in range(12):
        optimizer.zero_grad()
        loss, _ = task(batch, generator)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < first / 2
