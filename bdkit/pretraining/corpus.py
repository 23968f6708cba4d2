"""The mini corpus: scenes of training subjects, rendered once, kept as arrays on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bdkit.miniworld.captions import caption, caption_template
from bdkit.miniworld.render import render
from bdkit.miniworld.scenes import CHANGES, CONTEXTS, OUTFITS, STUDIO, sample_scene
from bdkit.miniworld.subjects import CLASSES, LIVE_CLASSES, sample_subject
from bdkit.training_loop import write_atomically

PART = 4096


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """What the corpus holds; each scene has a subject of its own, so none is seen twice in two contexts.

    Paper: 292K OpenImages pictures without property edits; here: ``change_share`` of the scenes show a property change
    ("a red ...") that the subject itself doesn't have, because the base model must know those words, and stage 2 must
    learn that they win over the subject prompt. The model card says so.
    """

    scenes: int = 65_536
    seed: int = 0
    split: str = "train"
    studio_share: float = 0.12
    outfit_share: float = 0.35
    change_share: float = 0.16


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """``images`` (N, 64, 64, 3) and ``alphas`` (N, 64, 64), uint8; texts in the same order."""

    images: np.ndarray
    alphas: np.ndarray
    templates: list[str]
    details: list[str]
    class_nouns: list[str]

    def __len__(self) -> int:
        return len(self.templates)

    def captions_at(self, indices: np.ndarray) -> list[str]:
        """Captions with the class noun filled in."""
        return [self.templates[i].replace("{}", self.class_nouns[i]) for i in indices]


def _render_part(config: CorpusConfig, first: int, count: int, path: Path) -> None:
    images, alphas, rows = [], [], []
    for index in range(first, first + count):
        rng = np.random.default_rng([config.seed, index])
        noun = CLASSES[rng.integers(len(CLASSES))]
        subject = sample_subject(noun, f"corpus/{config.seed}/{index}", config.split)
        context = STUDIO if rng.random() < config.studio_share else CONTEXTS[rng.integers(len(CONTEXTS))]
        outfit = change = None
        if noun in LIVE_CLASSES and rng.random() < config.outfit_share:
            outfit = OUTFITS[rng.integers(len(OUTFITS))]
        elif rng.random() < config.change_share:
            change = CHANGES[rng.integers(len(CHANGES))]
        scene = sample_scene(subject, rng, context=context, outfit=outfit, change=change)
        rendering = render(scene)
        images.append(rendering.image)
        alphas.append(rendering.alpha)
        rows.append([caption_template(scene, rng), caption(scene, rng, detail=True), noun])
    texts = np.frombuffer(json.dumps(rows).encode(), dtype=np.uint8)
    write_atomically(path, lambda p: _save(p, np.stack(images), np.stack(alphas), texts))


def _save(path: Path, images: np.ndarray, alphas: np.ndarray, texts: np.ndarray) -> None:
    with path.open("wb") as file:
        np.savez(file, images=images, alphas=alphas, texts=texts)


def build_corpus(config: CorpusConfig, folder: Path, *, workers: int = 2, progress: bool = True) -> Corpus:
    """Render (what is not there yet) and load; ``folder`` keeps one file for each 4,096 scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, config.scenes, PART)
    paths = [folder / f"{config.split}-{config.seed}-{config.scenes}-{start:07d}.npz" for start in starts]
    jobs = [(s, min(PART, config.scenes - s), p) for s, p in zip(starts, paths, strict=True) if not p.exists()]
    if workers > 1 and len(jobs) > 1:
        with ProcessPoolExecutor(workers) as pool:
            try:
                futures = [pool.submit(_render_part, config, *job) for job in jobs]
                for future in tqdm(futures, desc="rendering", disable=not progress):
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    else:
        for job in tqdm(jobs, desc="rendering", disable=not progress or not jobs):
            _render_part(config, *job)
    return load_corpus(paths)


def load_corpus(paths: list[Path]) -> Corpus:
    """Read the parts that `build_corpus` wrote."""
    images, alphas, rows = [], [], []
    for path in paths:
        with np.load(path) as part:
            images.append(part["images"])
            alphas.append(part["alphas"])
            rows.extend(json.loads(part["texts"].tobytes()))
    return Corpus(
        images=np.concatenate(images),
        alphas=np.concatenate(alphas),
        templates=[r[0] for r in rows],
        details=[r[1] for r in rows],
        class_nouns=[r[2] for r in rows],
    )


def epoch_indices(size: int, batch: int, seed: int) -> Callable[[int], np.ndarray]:
    """``step -> indices``: every picture once an epoch, shuffled anew each epoch; a function of the step alone."""
    per_epoch = size // batch
    if per_epoch < 1:
        raise ValueError(f"a corpus of {size} pictures is smaller than the batch of {batch}")
    cached: dict[int, np.ndarray] = {}

    def indices(step: int) -> np.ndarray:
        epoch, place = divmod(step, per_epoch)
        if epoch not in cached:
            cached.clear()
            cached[epoch] = np.random.default_rng([seed, epoch]).permutation(size)
        return cached[epoch][place * batch : (place + 1) * batch]

    return indices
