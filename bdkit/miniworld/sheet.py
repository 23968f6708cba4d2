"""Contact sheets of the mini world: many scenes side by side, for people to look at."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from bdkit.miniworld.changes import CHANGES
from bdkit.miniworld.contexts import CONTEXTS, STUDIO
from bdkit.miniworld.outfits import OUTFITS
from bdkit.miniworld.render import render
from bdkit.miniworld.scenes import Scene, sample_scene
from bdkit.miniworld.subjects import CLASSES, LIVE_CLASSES, generator, sample_subject

GAP = 2


def paste_grid(rows: Sequence[Sequence[Scene | None]], size: int = 64, upscale: int = 2) -> Image.Image:
    """Render scenes into a grid with white gaps; None leaves a cell empty."""
    height, width = len(rows), max(len(row) for row in rows)
    cell = size * upscale + GAP
    sheet = np.full((height * cell + GAP, width * cell + GAP, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, scene in enumerate(row):
            if scene is not None:
                pixels = render(scene, size).image.repeat(upscale, 0).repeat(upscale, 1)
                top, left = GAP + r * cell, GAP + c * cell
                sheet[top : top + size * upscale, left : left + size * upscale] = pixels
    return Image.fromarray(sheet)


def contact_sheet(
    kind: str = "world", seed: int = 0, split: str = "train", columns: int = 12, size: int = 64, upscale: int = 2
) -> Image.Image:
    """A sheet of random scenes.

    kind: "world" (a row a class: one subject in its contexts), "individuals" (a row a class: different subjects),
    "contexts" (all 20 and studio), "outfits" (dogs and cats in all ten), "changes" (each class as it is and in all
    five). columns: images in a row of the first two kinds. Raises ValueError for an unknown kind or split.
    """
    if kind not in _ROWS:
        raise ValueError(f"unknown kind of sheet {kind!r}: use one of {', '.join(_ROWS)}")
    return paste_grid(_ROWS[kind](seed, split, columns), size, upscale)


def _world(seed: int, split: str, columns: int) -> list[list[Scene | None]]:
    rows: list[list[Scene | None]] = []
    for r, noun in enumerate(CLASSES):
        subject = sample_subject(noun, f"sheet {seed}", split)
        rng = generator("sheet", "world", noun, seed)
        contexts = [STUDIO, *(CONTEXTS[(7 * r + i) % len(CONTEXTS)] for i in range(columns - 1))]
        rows.append([sample_scene(subject, rng, context=context) for context in contexts])
    return rows


def _individuals(seed: int, split: str, columns: int) -> list[list[Scene | None]]:
    rng = generator("sheet", "individuals", seed)
    return [
        [sample_scene(sample_subject(noun, f"sheet {seed} {i}", split), rng) for i in range(columns)]
        for noun in CLASSES
    ]


def _contexts(seed: int, split: str, columns: int) -> list[list[Scene | None]]:
    rng = generator("sheet", "contexts", seed)
    rows: list[list[Scene | None]] = []
    for half in ((*CONTEXTS[:10], STUDIO), (*CONTEXTS[10:], STUDIO)):
        for i in range(3):
            nouns = [CLASSES[(5 * i + c) % len(CLASSES)] for c in range(len(half))]
            subjects = [sample_subject(noun, f"sheet {seed} {i}", split) for noun in nouns]
            rows.append([sample_scene(s, rng, context=c) for s, c in zip(subjects, half, strict=True)])
    return rows


def _outfits(seed: int, split: str, columns: int) -> list[list[Scene | None]]:
    rng = generator("sheet", "outfits", seed)
    rows: list[list[Scene | None]] = []
    for noun in sorted(LIVE_CLASSES):
        for i in range(3):
            subject = sample_subject(noun, f"sheet {seed} {i}", split)
            rows.append([sample_scene(subject, rng, outfit=outfit) for outfit in (None, *OUTFITS)])
    return rows


def _changes(seed: int, split: str, columns: int) -> list[list[Scene | None]]:
    rng = generator("sheet", "changes", seed)
    rows: list[list[Scene | None]] = []
    for noun in CLASSES:
        subjects = [sample_subject(noun, f"sheet {seed} {i}", split) for i in range(2)]
        rows.append([sample_scene(s, rng, change=change) for s in subjects for change in (None, *CHANGES)])
    return rows


_ROWS = {
    "world": _world,
    "individuals": _individuals,
    "contexts": _contexts,
    "outfits": _outfits,
    "changes": _changes,
}
