"""The five property changes of DreamBench's prompts: red, purple, shiny, wet and cube shaped."""

import math
from functools import lru_cache

import numpy as np
import skia

from bdkit.miniworld.colours import CHANGE_HUES, RGB, shift_to_hue
from bdkit.miniworld.drawing.pen import ellipse, fill_paint, line, star, stroke_paint
from bdkit.miniworld.subjects import Subject

# in the order of DreamBench's prompts 20..24
CHANGES: tuple[str, ...] = ("red", "purple", "shiny", "wet", "cube shaped")
# the changes that lay something over the subject
GLOSSY = frozenset({"shiny", "wet"})


def changed_colours(subject: Subject, change: str | None) -> tuple[RGB, ...]:
    """The subject's three colours under a change: "red" and "purple" move all of them to shades of that hue."""
    if change in CHANGE_HUES:
        return shift_to_hue(subject.colours, CHANGE_HUES[change])
    return subject.colours


@lru_cache(maxsize=64)
def _on_top(colour: RGB, alpha: int, width: float = 0.0) -> skia.Paint:
    """A paint that keeps to what is already drawn on the layer."""
    paint = skia.Paint(stroke_paint(colour, width, alpha) if width else fill_paint(colour, alpha))
    paint.setBlendMode(skia.BlendMode.kSrcATop)
    return paint


@lru_cache(maxsize=1)
def _soaked() -> skia.Paint:
    """Multiplies what is drawn by a light blue, as wet things are darker and mirror the sky."""
    return skia.Paint(Color=skia.Color(150, 196, 255), BlendMode=skia.BlendMode.kModulate)


def gloss(
    canvas: skia.Canvas, change: str | None, rng: np.random.Generator, box: tuple[float, float, float, float]
) -> None:
    """Draw a change's sheen over the subject's own layer; its alpha stays as it is.

    `box` is what the subject covers, in the canvas's coordinates (0..1).
    """
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    if change == "shiny":
        canvas.save()
        canvas.translate((left + right) / 2, (top + bottom) / 2)
        canvas.rotate(28)
        reach = math.hypot(width, height)
        shift = (rng.random() - 0.5) * 0.1
        for x, half, alpha in ((-0.17, 0.042, 215), (-0.085, 0.014, 200), (0.2, 0.026, 150)):
            canvas.drawRect(
                skia.Rect((x + shift - half) * width, -reach, (x + shift + half) * width, reach),
                _on_top((255, 255, 255), alpha),
            )
        canvas.restore()
    elif change == "wet":
        canvas.drawRect(skia.Rect(left - 0.1, top - 0.1, right + 0.1, bottom + 0.1), _soaked())
        for i in range(3):
            x = left + width * (0.2 + 0.28 * i + 0.1 * rng.random())
            y = top + height * (0.1 + 0.2 * rng.random())
            streak = line([(x, y), (x + 0.01, y + height * 0.22), (x - 0.01, y + height * 0.4)])
            canvas.drawPath(streak, _on_top((235, 248, 255), 215, 0.024))


def sparkle(
    canvas: skia.Canvas, change: str | None, rng: np.random.Generator, box: tuple[float, float, float, float]
) -> None:
    """Draw what a change adds in front of the subject: sparkles or drops. It is no part of the subject's mask."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    if change == "shiny":
        for fx, fy, size in ((0.12, 0.14, 0.085), (0.9, 0.24, 0.07), (0.2, 0.8, 0.055), (0.82, 0.78, 0.06)):
            x = left + width * (fx + 0.08 * (rng.random() - 0.5))
            y = top + height * (fy + 0.08 * (rng.random() - 0.5))
            path = star(x, y, size, 4, 0.26)
            canvas.drawPath(path, stroke_paint((255, 196, 40), 0.016))
            canvas.drawPath(path, fill_paint((255, 255, 255)))
    elif change == "wet":
        for i in range(9):
            x = left + width * ((i + 0.5) / 9 + 0.08 * (rng.random() - 0.5)) * 1.1 - 0.05 * width
            y = top + height * (0.02 + 0.92 * rng.random())
            drop(canvas, x, y, 0.024 + 0.012 * rng.random())


def drop(canvas: skia.Canvas, x: float, y: float, r: float) -> None:
    """A blue water drop with a glint."""
    path = skia.Path()
    path.moveTo(x, y - 2.0 * r)
    path.cubicTo(x + 0.5 * r, y - r, x + 1.1 * r, y - 0.4 * r, x + r, y + 0.2 * r)
    path.cubicTo(x + r, y + 1.3 * r, x - r, y + 1.3 * r, x - r, y + 0.2 * r)
    path.cubicTo(x - 1.1 * r, y - 0.4 * r, x - 0.5 * r, y - r, x, y - 2.0 * r)
    canvas.drawPath(path, stroke_paint((12, 50, 140), 0.014))
    canvas.drawPath(path, fill_paint((70, 165, 255)))
    canvas.drawPath(ellipse(x - 0.3 * r, y, 0.34 * r), fill_paint((255, 255, 255)))


def puddle(canvas: skia.Canvas, x: float, y: float, half: float) -> None:
    """A puddle under a wet subject."""
    canvas.drawPath(ellipse(x, y, half * 1.12, 0.065), fill_paint((25, 95, 190), 235))
    canvas.drawPath(ellipse(x, y - 0.004, half * 1.04, 0.05), fill_paint((80, 170, 245), 255))
    canvas.drawPath(ellipse(x - half * 0.5, y - 0.012, half * 0.3, 0.012), fill_paint((235, 250, 255), 220))
