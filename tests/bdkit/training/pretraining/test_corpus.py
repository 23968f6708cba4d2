"""The mini corpus: deterministic, resumable, of training subjects only."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bdkit.miniworld.render import render
from bdkit.miniworld.scenes import CHANGES, OUTFITS, STUDIO, Scene, sample_scene
from bdkit.miniworld.subjects import CLASSES, LIVE_CLASSES, Subject, split_of
from bdkit.training.data import epoch_indices
from bdkit.training.pretraining import corpus as module
from bdkit.training.pretraining.corpus import Corpus, CorpusConfig, build_corpus

CONFIG = CorpusConfig(scenes=14, seed=3)


def build(folder: Path, config: CorpusConfig = CONFIG) -> Corpus:
    return build_corpus(config, folder, workers=1, progress=False)


def assert_same(ours: Corpus, theirs: Corpus) -> None:
    assert np.array_equal(ours.images, theirs.images)
    assert np.array_equal(ours.alphas, theirs.alphas)
    assert (ours.templates, ours.details, ours.class_nouns) == (theirs.templates, theirs.details, theirs.class_nouns)


@pytest.fixture
def scenes(monkeypatch: pytest.MonkeyPatch) -> list[Scene]:
    """The scenes that a corpus is drawn from, as they come by."""
    seen: list[Scene] = []

    def watch(*args: object, **kwargs: object) -> Scene:
        seen.append(sample_scene(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(module, "sample_scene", watch)
    return seen


def test_shapes_and_texts_and_the_seed_decides(tmp_path: Path) -> None:
    corpus = build(tmp_path)
    assert len(corpus) == 14
    assert (corpus.images.shape, corpus.alphas.shape) == ((14, 64, 64, 3), (14, 64, 64))
    assert corpus.images.dtype == corpus.alphas.dtype == np.uint8
    assert ((corpus.alphas > 127).mean((1, 2)) > 0.02).all()
    assert set(corpus.class_nouns) <= set(CLASSES)
    assert all(template.count("{}") == 1 for template in corpus.templates)
    assert all(noun in detail for noun, detail in zip(corpus.class_nouns, corpus.details, strict=True))
    chosen = np.array([3, 0])
    assert corpus.captions_at(chosen) == [corpus.templates[i].replace("{}", corpus.class_nouns[i]) for i in chosen]
    first = build(tmp_path / "a")
    assert_same(first, build(tmp_path / "b"))
    other = build(tmp_path / "a", CorpusConfig(scenes=14, seed=4))  # another seed in the same folder
    assert not np.array_equal(first.images, other.images)


def test_a_killed_rendering_is_resumed_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build(tmp_path / "whole")
    monkeypatch.setattr(module, "PART", 5)
    parts = build(tmp_path / "parts")
    assert_same(parts, whole)  # each scene depends on its index alone
    files = sorted((tmp_path / "parts").iterdir())
    assert len(files) == 3
    content = files[1].read_bytes()
    files[1].unlink()
    times = [path.stat().st_mtime_ns for path in (files[0], files[2])]
    assert_same(build(tmp_path / "parts"), whole)
    assert [path.stat().st_mtime_ns for path in (files[0], files[2])] == times
    assert len(files[1].read_bytes()) == len(content)
    assert sorted((tmp_path / "parts").iterdir()) == files


def test_subjects_are_all_of_the_training_split_and_none_comes_twice(tmp_path: Path, scenes: list[Scene]) -> None:
    corpus = build(tmp_path, CorpusConfig(scenes=60, seed=5))
    subjects: list[Subject] = [scene.subject for scene in scenes]
    assert len(subjects) == 60
    assert {split_of(subject) for subject in subjects} == {"train"}
    assert len({repr(subject) for subject in subjects}) == 60
    assert [subject.class_noun for subject in subjects] == corpus.class_nouns


def test_shares_of_studios_outfits_and_changes(tmp_path: Path, scenes: list[Scene]) -> None:
    build(tmp_path, CorpusConfig(scenes=80, seed=6, studio_share=0.5, outfit_share=1.0, change_share=0.5))
    assert 25 <= sum(scene.context == STUDIO for scene in scenes) <= 55
    for scene in scenes:
        live = scene.subject.class_noun in LIVE_CLASSES
        assert (scene.outfit in OUTFITS) if live else (scene.outfit is None)
        assert scene.change is None or (scene.change in CHANGES and not live)
    objects = [scene for scene in scenes if scene.subject.class_noun not in LIVE_CLASSES]
    assert 0.3 < sum(scene.change is not None for scene in objects) / len(objects) < 0.7


def test_every_image_once_an_epoch_as_a_function_of_the_step() -> None:
    indices = epoch_indices(23, 5, seed=1)
    epochs = [np.concatenate([indices(4 * epoch + k) for k in range(4)]) for epoch in range(3)]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 20
    assert not np.array_equal(epochs[0], epochs[1])
    fresh = epoch_indices(23, 5, seed=1)
    assert np.array_equal(fresh(9), epochs[2][5:10])
    assert np.array_equal(fresh(2), epochs[0][10:15])
    assert not np.array_equal(epoch_indices(23, 5, seed=2)(0), epochs[0][:5])
    with pytest.raises(ValueError, match="a corpus of 4 images is smaller than the batch of 5"):
        epoch_indices(4, 5, seed=0)


def test_subjects_without_their_outfit_or_change_and_a_third_live(tmp_path: Path, scenes: list[Scene]) -> None:
    config = CorpusConfig(scenes=120, seed=5, live_share=1 / 3, outfit_share=0.5, change_share=0.25, plain=True)
    corpus = build(tmp_path, config)
    altered = {k for k, scene in enumerate(scenes) if scene.outfit or scene.change}
    assert set(corpus.plain) == altered
    assert 25 <= sum(noun in LIVE_CLASSES for noun in corpus.class_nouns) <= 55
    for k, scene in enumerate(scenes):
        image, alpha = corpus.plain.get(k, (corpus.images[k], corpus.alphas[k]))
        expected = render(replace(scene, outfit=None, change=None))
        assert np.array_equal(image, expected.image)
        assert np.array_equal(alpha, expected.alpha)
    changed = [k for k in altered if np.abs(corpus.images[k].astype(int) - corpus.plain[k][0]).mean() > 1]
    assert len(changed) > 0.9 * len(altered)


def test_processes_share_the_images_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [epoch_indices(40, 8, 7)(step) for step in range(12)]
    halves = []
    for rank in (0, 1):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", str(rank))
        indices = epoch_indices(40, 4, 7)
        halves.append([indices(step) for step in range(12)])
    assert all(np.array_equal(np.concatenate(pair), whole) for *pair, whole in zip(*halves, alone, strict=True))
