"""`bdkit pretrain evaluators`: train the networks that score mini images, on subjects that only they may see."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bdkit import miniworld
from bdkit.miniworld.captions import VOCABULARY, caption
from bdkit.miniworld.render import render
from bdkit.miniworld.scenes import CHANGES, CONTEXTS, OUTFITS, Scene, sample_scene
from bdkit.miniworld.subjects import CLASSES, LIVE_CLASSES, Subject, generator, sample_subject
from bdkit.miniworld.truth import truth
from bdkit.utils.errors import InputError
from bdkit.utils.parallel import make_parts
from eval.mini.encoders import SMOKE, TRAININGS, Material, train_evaluator
from eval.mini.networks import HEADS, split_words
from eval.mini.tasks import Pool
from eval.score.weights import MINI_WEIGHTS

SPLIT = "evaluators"


@dataclass(frozen=True, kw_only=True)
class PoolSize:
    """How many subjects of each class, and images of each subject. Live classes count for more in DreamBench too.

    Args:
        name: part of every subject's key, so that two pools of other names hold other subjects.
    """

    name: str
    objects: int
    live: int
    pictures: int


FULL = (
    PoolSize(name="train", objects=180, live=380, pictures=10),
    PoolSize(name="held-out", objects=12, live=22, pictures=6),
)
SMALL = (
    PoolSize(name="train", objects=4, live=4, pictures=4),
    PoolSize(name="held-out", objects=2, live=2, pictures=3),
)
OUTFIT_SHARE = 0.5
CHANGE_SHARE = 0.2
N_CAPTIONS = 2


def random_scene(subject: Subject, rng: np.random.Generator, plain: bool) -> Scene:
    """A scene as the benchmark's prompts ask for: any context, at times with an outfit or a property change."""
    outfit = change = None
    draw = rng.random(2)
    if not plain and subject.class_noun in LIVE_CLASSES and draw[0] < OUTFIT_SHARE:
        outfit = OUTFITS[int(rng.integers(len(OUTFITS)))]
    elif not plain and draw[1] < CHANGE_SHARE:
        change = CHANGES[int(rng.integers(len(CHANGES)))]
    return sample_scene(subject, rng, outfit=outfit, change=change)


def render_class(class_noun: str, size: PoolSize, path: Path) -> None:
    """Draw all subjects of one class and keep images, ground truth and captions in one .npz file.

    The first image of a subject has no outfit and no change.
    """
    images: list[npt.NDArray[np.uint8]] = []
    labels: list[list[int]] = []
    subjects: list[int] = []
    captions: list[list[str]] = []
    for number in range(size.live if class_noun in LIVE_CLASSES else size.objects):
        subject = sample_subject(class_noun, f"{size.name} {number}", split=SPLIT)
        for picture in range(size.pictures):
            rng = generator("evaluators", size.name, class_noun, number, picture)
            scene = random_scene(subject, rng, plain=picture == 0)
            facts = truth(scene)
            images.append(render(scene).image)
            labels.append([int(facts[f"{name}_index"]) for name in HEADS])
            subjects.append(number)
            captions.append([caption(scene, rng), *(caption(scene, rng, detail=True) for _ in range(N_CAPTIONS))])
    part = path.with_suffix(".part.npz")
    np.savez(
        part,
        images=np.stack(images),
        labels=np.array(labels, dtype=np.int64),
        subject=np.array(subjects, dtype=np.int64),
        captions=np.array(json.dumps(captions)),
    )
    os.replace(part, path)


def make_pool(size: PoolSize, folder: Path, workers: int) -> Pool:
    """The pool of a size, drawn where it is not in `folder` yet (one file a class, so a stopped run goes on)."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{size.name}-{size.objects}-{size.live}-{size.pictures}-{noun}.npz" for noun in CLASSES]
    missing = [(noun, size, path) for noun, path in zip(CLASSES, paths, strict=True) if not path.is_file()]
    make_parts(render_class, missing, name=f"draw {size.name}", workers=workers, unit="class")
    parts = [np.load(path) for path in paths]
    most = max(size.objects, size.live)
    labels = np.concatenate([part["labels"] for part in parts])
    return Pool(
        images=np.concatenate([part["images"] for part in parts]),
        subject=np.concatenate([part["subject"] + most * i for i, part in enumerate(parts)]),
        labels={name: labels[:, i] for i, name in enumerate(HEADS)},
        captions=[tuple(texts) for part in parts for texts in json.loads(str(part["captions"]))],
    )


def make_material(sizes: tuple[PoolSize, PoolSize], work: Path, workers: int) -> Material:
    """Pools, vocabulary and the prompt of every class in every context."""
    folder = work / f"pool-{world_hash()}"
    prompts = [[f"a {noun} {context}" for context in CONTEXTS] for noun in CLASSES]
    words = {word for text in (*VOCABULARY, *(p for row in prompts for p in row)) for word in split_words(text)}
    return Material(
        train=make_pool(sizes[0], folder, workers),
        held_out=make_pool(sizes[1], folder, workers),
        words=sorted(words),
        prompts=prompts,
    )


def world_hash() -> str:
    """8 hex digits that change with any source file of the mini world: pools of an older world are not used."""
    digest = hashlib.sha256()
    for path in sorted(Path(miniworld.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("--work", type=Path, default=Path("runs/evaluators"), help="checkpoints and drawn images")
    parser.add_argument("--weights", type=Path, default=MINI_WEIGHTS, help="where the weights and card.json go")
    parser.add_argument("--only", nargs="+", choices=list(TRAININGS), default=list(TRAININGS), help="which of the four")
    parser.add_argument("--length", type=float, default=1.0, help="multiplies the number of steps (default: 1)")
    parser.add_argument("--seconds", type=float, help="stop each after so many seconds; run again to go on")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads (default: torch's)")
    parser.add_argument("--smoke", action="store_true", help="a few steps on a few images, to test the path")
    parser.add_argument(
        "--bfloat16",
        action=argparse.BooleanOptionalAction,
        default=fast_bfloat16(),
        help="compute in bfloat16 (default: where the processor has instructions for it)",
    )


def run(args: argparse.Namespace) -> int:
    """Train, write and measure the evaluators; 0 when done, also when `--seconds` stopped one early."""
    if args.length <= 0 or args.threads < 1:
        raise InputError("--length must be above 0 and --threads at least 1")
    if args.smoke and args.weights.resolve() == MINI_WEIGHTS.resolve():
        raise InputError("--smoke makes useless weights: give --weights a folder of its own")
    torch.set_num_threads(args.threads)
    material = make_material(SMALL if args.smoke else FULL, args.work, 1 if args.smoke else args.threads)
    for name in args.only:
        training = (SMOKE if args.smoke else TRAININGS)[name]
        training = replace(training, steps=max(round(training.steps * args.length), 1))
        train_evaluator(
            name, material, training, args.work, args.weights, bfloat16=args.bfloat16, stop_after=args.seconds
        )
    return 0


def fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware."""
    check: Any = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(check and check())


def main() -> int:
    """`python -m eval.mini.train`."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    raise SystemExit(main())
