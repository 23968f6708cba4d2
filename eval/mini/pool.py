"""The images that evaluators are trained and measured on: subjects of the mini world that only they may see."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bdkit import miniworld
from bdkit.miniworld.captions import VOCABULARY
from bdkit.miniworld.render import render
from bdkit.miniworld.scenes import CHANGES, CONTEXTS, OUTFITS, Scene, sample_scene
from bdkit.miniworld.subjects import CLASSES, LIVE_CLASSES, Subject, generator, sample_subject
from bdkit.miniworld.truth import truth
from bdkit.training.pretraining.corpus import write_arrays
from bdkit.utils.parallel import make_parts
from eval.mini.captions import SHADES, captions_of
from eval.mini.individuals import Individuals, IndividualsConfig, draw_individuals
from eval.mini.networks import HEADS, split_words

SPLIT = "evaluators"
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Rendered images and their ground truth.

    Args:
        images: (n, 64, 64, 3) uint8.
        subject: (n,) which instance; every instance has at least two images.
        labels: for each of class, context, outfit and change the index (n,).
        captions: n tuples of at least one caption; the first is plain, later ones describe the individual.
    """

    images: npt.NDArray[np.uint8]
    subject: IntArray
    labels: dict[str, IntArray]
    captions: list[tuple[str, ...]]
    _rows: dict[int, IntArray] = field(init=False, repr=False)
    _by_class: dict[int, IntArray] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n = len(self.images)
        lengths = [len(self.subject), len(self.captions), *(len(self.labels[name]) for name in HEADS)]
        if any(length != n for length in lengths):
            raise ValueError(f"{n} images, but ground truth of lengths {lengths}")
        order = np.argsort(self.subject, kind="stable")
        names, starts = np.unique(self.subject[order], return_index=True)
        rows = {int(s): r for s, r in zip(names, np.split(order, starts[1:]), strict=True)}
        if min(len(r) for r in rows.values()) < 2:
            raise ValueError("every instance needs at least two images")
        classes = np.array([self.labels["class"][rows[int(s)][0]] for s in names])
        object.__setattr__(self, "_rows", rows)
        object.__setattr__(self, "_by_class", {int(c): names[classes == c] for c in np.unique(classes)})

    def two_of_each(self, subjects: IntArray, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Two different images of each instance, as row numbers."""
        pairs = np.array([rng.choice(self._rows[int(s)], 2, replace=False) for s in subjects])
        return pairs[:, 0], pairs[:, 1]

    def few_classes(self, n: int, classes: int, rng: np.random.Generator) -> IntArray:
        """About n different instances of a few classes: hard negatives for one another."""
        chosen = rng.choice(list(self._by_class), min(classes, len(self._by_class)), replace=False)
        each = max(n // len(chosen), 1)
        return np.concatenate(
            [rng.choice(self._by_class[c], min(each, len(self._by_class[c])), replace=False) for c in chosen]
        )

    def few_contexts(self, n: int, contexts: int, rng: np.random.Generator) -> IntArray:
        """n rows whose images show a few contexts."""
        known = np.unique(self.labels["context"])
        chosen = rng.choice(known, min(contexts, len(known)), replace=False)
        return rng.choice(np.flatnonzero(np.isin(self.labels["context"], chosen)), n)

    def partners(self, rows: IntArray, share: float, rng: np.random.Generator) -> IntArray:
        """For a share of the rows another image of the same instance, for the rest the row itself."""
        swap = rng.random(len(rows)) < share
        return np.array(
            [rng.choice(self._rows[int(self.subject[r])]) if s else r for r, s in zip(rows, swap, strict=True)]
        )


@dataclass(frozen=True, kw_only=True)
class Material:
    """What the four evaluators are trained and measured on.

    Args:
        train, held_out: images of disjoint subjects.
        words: every word that a caption or prompt can hold.
        prompts: a prompt for every class (rows) in every context (columns), for CLIP's zero-shot measures.
        individuals: of the development split.
    """

    train: Pool
    held_out: Pool
    words: list[str]
    prompts: list[list[str]]
    individuals: Individuals


@dataclass(frozen=True, kw_only=True)
class PoolSize:
    """How many subjects of each class (live classes have more, as in DreamBench), and images of each subject.

    Args:
        name: part of every subject's key: pools of different names hold different subjects.
    """

    name: str
    objects: int
    live: int
    images: int


OUTFIT_SHARE = 0.5
CHANGE_SHARE = 0.2
N_CAPTIONS = 3


def random_scene(subject: Subject, rng: np.random.Generator, plain: bool) -> Scene:
    """A scene as the benchmark's prompts ask for: any context, and unless ``plain`` sometimes an outfit or a change."""
    outfit = change = None
    draw = rng.random(2)
    if not plain and subject.class_noun in LIVE_CLASSES and draw[0] < OUTFIT_SHARE:
        outfit = OUTFITS[int(rng.integers(len(OUTFITS)))]
    elif not plain and draw[1] < CHANGE_SHARE:
        change = CHANGES[int(rng.integers(len(CHANGES)))]
    return sample_scene(subject, rng, outfit=outfit, change=change)


def render_class(class_noun: str, size: PoolSize, path: Path) -> None:
    """Renders all subjects of one class into one .npz file of images, ground truth and captions.

    The first image of a subject has no outfit and no change.
    """
    images: list[npt.NDArray[np.uint8]] = []
    labels: list[list[int]] = []
    subjects: list[int] = []
    captions: list[list[str]] = []
    for number in range(size.live if class_noun in LIVE_CLASSES else size.objects):
        subject = sample_subject(class_noun, f"{size.name} {number}", split=SPLIT)
        for index in range(size.images):
            rng = generator("evaluators", size.name, class_noun, number, index)
            scene = random_scene(subject, rng, plain=index == 0)
            facts = truth(scene)
            images.append(render(scene).image)
            labels.append([int(facts[f"{name}_index"]) for name in HEADS])
            subjects.append(number)
            captions.append(captions_of(scene, rng, N_CAPTIONS))
    write_arrays(
        path,
        images=np.stack(images),
        labels=np.array(labels, dtype=np.int64),
        subject=np.array(subjects, dtype=np.int64),
        captions=np.array(json.dumps(captions)),
    )


def make_pool(size: PoolSize, folder: Path, workers: int) -> Pool:
    """The pool of a size; classes that `folder` lacks are rendered, one file each."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{size.name}-{size.objects}-{size.live}-{size.images}-{noun}.npz" for noun in CLASSES]
    missing = [(noun, size, path) for noun, path in zip(CLASSES, paths, strict=True) if not path.is_file()]
    make_parts(render_class, missing, name=f"render {size.name}", workers=workers, unit="class")
    parts = [np.load(path) for path in paths]
    most = max(size.objects, size.live)
    labels = np.concatenate([part["labels"] for part in parts])
    return Pool(
        images=np.concatenate([part["images"] for part in parts]),
        subject=np.concatenate([part["subject"] + most * i for i, part in enumerate(parts)]),
        labels={name: labels[:, i] for i, name in enumerate(HEADS)},
        captions=[tuple(texts) for part in parts for texts in json.loads(str(part["captions"]))],
    )


def make_material(
    sizes: tuple[PoolSize, PoolSize], individuals: IndividualsConfig, folder: Path, workers: int
) -> Material:
    """Pools, vocabulary and the prompt of every class in every context."""
    prompts = [[f"a {noun} {context}" for context in CONTEXTS] for noun in CLASSES]
    words = {
        word for text in (*VOCABULARY, *SHADES, *(p for row in prompts for p in row)) for word in split_words(text)
    }
    return Material(
        train=make_pool(sizes[0], folder, workers),
        held_out=make_pool(sizes[1], folder, workers),
        words=sorted(words),
        prompts=prompts,
        individuals=draw_individuals(individuals),
    )


def world_hash() -> str:
    """8 hex digits that change with any source file of the mini world, so that no pool of an older world is used."""
    digest = hashlib.sha256()
    for path in sorted(Path(miniworld.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]
