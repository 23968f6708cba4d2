"""The mini corpus: scenes of training subjects, rendered once, kept as arrays on disk."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from bdkit.miniworld.captions import caption, caption_template
from bdkit.miniworld.render import render
from bdkit.miniworld.scenes import CHANGES, CONTEXTS, OUTFITS, STUDIO, Scene, sample_scene
from bdkit.miniworld.subjects import CLASSES, LIVE_CLASSES, sample_subject
from bdkit.utils.io import write_atomically
from bdkit.utils.parallel import make_parts

PART = 4096


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """What the corpus holds; each scene has another subject, so none is seen in two contexts.

    With ``images_per_subject`` above 1 so many scenes in a row show the same one, as Re-Imagen's neighbours need.

    Paper: 292K OpenImages images without property edits; here: ``change_share`` of the scenes show a property change
    ("a red ...") that the subject itself doesn't have, because the base model must know those words, and stage 2 must
    learn that they win over the subject prompt. With ``plain`` such a scene, and one with an outfit, is kept a second
    time without it, as stage 2's input image. The model card says so.
    """

    scenes: int = 65_536
    seed: int = 0
    split: str = "train"
    studio_share: float = 0.12
    outfit_share: float = 0.35
    change_share: float = 0.16
    live_share: float | None = None  # of the scenes; None: each class has the same
    plain: bool = False
    images_per_subject: int = 1


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """``images`` (N, 64, 64, 3) and ``alphas`` (N, 64, 64), uint8; texts in the same order.

    ``plain`` holds, by index, the image and alpha of scenes without the outfit or change that they show.
    """

    images: np.ndarray
    alphas: np.ndarray
    templates: list[str]
    details: list[str]
    class_nouns: list[str]
    plain: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.templates)

    def captions_at(self, indices: np.ndarray) -> list[str]:
        """Captions with the class noun filled in."""
        return [self.templates[i].replace("{}", self.class_nouns[i]) for i in indices]


def corpus_scene(config: CorpusConfig, index: int) -> tuple[Scene, np.random.Generator]:
    """Scene ``index`` of the corpus, and the generator that its captions continue."""
    rng = np.random.default_rng([config.seed, index])
    number, several = index // config.images_per_subject, config.images_per_subject > 1
    of_subject = np.random.default_rng([config.seed, number, 1]) if several else rng
    classes = CLASSES
    if config.live_share is not None:
        live = of_subject.random() < config.live_share
        classes = tuple(noun for noun in CLASSES if (noun in LIVE_CLASSES) == live)
    noun = classes[of_subject.integers(len(classes))]
    subject = sample_subject(noun, f"corpus/{config.seed}/{number}", config.split)
    context = STUDIO if rng.random() < config.studio_share else CONTEXTS[rng.integers(len(CONTEXTS))]
    outfit = change = None
    if noun in LIVE_CLASSES and rng.random() < config.outfit_share:
        outfit = OUTFITS[rng.integers(len(OUTFITS))]
    elif rng.random() < config.change_share:
        change = CHANGES[rng.integers(len(CHANGES))]
    return sample_scene(subject, rng, context=context, outfit=outfit, change=change), rng


def _render_part(config: CorpusConfig, first: int, count: int, path: Path) -> None:
    scenes, texts, plain = [], [], {}
    for offset in range(count):
        scene, rng = corpus_scene(config, first + offset)
        scenes.append(render(scene))
        texts.append([caption_template(scene, rng), caption(scene, rng, detail=True), scene.subject.class_noun])
        if config.plain and (scene.outfit or scene.change):
            plain[offset] = render(replace(scene, outfit=None, change=None))
    arrays: dict[str, np.ndarray] = {
        "images": np.stack([r.image for r in scenes]),
        "alphas": np.stack([r.alpha for r in scenes]),
        "plain": np.array(list(plain), dtype=np.int64),
        "texts": np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8),
    }
    if plain:
        arrays |= {
            "plain_images": np.stack([r.image for r in plain.values()]),
            "plain_alphas": np.stack([r.alpha for r in plain.values()]),
        }
    write_arrays(path, **arrays)


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Writes a .npz file atomically."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    write_atomically(path, write)


def build_corpus(config: CorpusConfig, folder: Path, *, workers: int | None = None, progress: bool = True) -> Corpus:
    """Renders what ``folder`` lacks and loads all; the folder keeps one file for each 4,096 scenes.

    Args:
        workers: processes that render; None: one for each core.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, config.scenes, PART)
    several = f"x{config.images_per_subject}" if config.images_per_subject > 1 else ""
    paths = [folder / f"{config.split}-{config.seed}-{config.scenes}{several}-{start:07d}.npz" for start in starts]
    jobs = [(config, s, min(PART, config.scenes - s), p) for s, p in zip(starts, paths, strict=True) if not p.exists()]
    make_parts(_render_part, jobs, name="rendering", workers=workers, progress=progress)
    return load_corpus(paths)


def load_corpus(paths: list[Path]) -> Corpus:
    """Reads the parts that `build_corpus` wrote."""
    images, alphas = [], []
    texts: list[list[str]] = []
    plain: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for path in paths:
        with np.load(path) as part:
            if len(part["plain"]):
                pairs = zip(part["plain_images"], part["plain_alphas"], strict=True)
                plain |= {len(texts) + int(k): pair for k, pair in zip(part["plain"], pairs, strict=True)}
            images.append(part["images"])
            alphas.append(part["alphas"])
            texts.extend(json.loads(part["texts"].tobytes()))
    return Corpus(
        images=np.concatenate(images),
        alphas=np.concatenate(alphas),
        templates=[r[0] for r in texts],
        details=[r[1] for r in texts],
        class_nouns=[r[2] for r in texts],
        plain=plain,
    )
