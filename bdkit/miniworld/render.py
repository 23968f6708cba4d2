"""From a scene to pixels: background, shadow, the subject on a layer of its own (whose alpha is the mask), foreground."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import skia
from numpy.typing import NDArray

from .animals import draw_cat, draw_dog
from .changes import changed_colours, gloss, puddle, sparkle
from .characters import draw_cartoon, draw_stuffed_animal, draw_toy
from .colours import RGB
from .contexts import GROUND, draw_context, draw_foreground
from .cubes import draw_cube
from .patterns import draw_pattern
from .pen import Box, Pen
from .scenes import Scene
from .subjects import Subject, generator
from .vessels import draw_bowl, draw_can, draw_candle, draw_teapot, draw_vase
from .wearables import draw_backpack, draw_boot, draw_clock, draw_glasses, draw_sneaker

# class -> picture widths per unit of subject coordinates, and how far the subject's feet spread (units)
UNITS: dict[str, tuple[float, float]] = {
    "backpack": (0.66, 0.4),
    "stuffed animal": (0.65, 0.42),
    "bowl": (0.68, 0.42),
    "can": (0.66, 0.32),
    "candle": (0.66, 0.34),
    "cat": (0.66, 0.38),
    "clock": (0.66, 0.4),
    "sneaker": (0.68, 0.6),
    "dog": (0.68, 0.48),
    "toy": (0.64, 0.38),
    "boot": (0.66, 0.42),
    "glasses": (0.7, 0.55),
    "cartoon": (0.66, 0.4),
    "teapot": (0.66, 0.4),
    "vase": (0.66, 0.3),
}
_FLOATING = frozenset({"floating on top of water", "floating in an ocean of milk"})

_OBJECTS: dict[str, Callable[[Pen, Subject, float], None]] = {
    "backpack": draw_backpack,
    "stuffed animal": draw_stuffed_animal,
    "bowl": draw_bowl,
    "can": draw_can,
    "candle": draw_candle,
    "clock": draw_clock,
    "sneaker": draw_sneaker,
    "toy": draw_toy,
    "boot": draw_boot,
    "glasses": draw_glasses,
    "cartoon": draw_cartoon,
    "teapot": draw_teapot,
    "vase": draw_vase,
}
_ANIMALS: dict[str, Callable[[Pen, Subject, float, str | None], None]] = {"dog": draw_dog, "cat": draw_cat}


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """image: uint8 (size, size, 3); alpha: uint8 (size, size), the subject with its outfit."""

    image: NDArray[np.uint8]
    alpha: NDArray[np.uint8]


def render(scene: Scene, size: int = 64) -> Rendering:
    """Draw a scene at size x size pixels, anti-aliased. The same scene gives the same pixels."""
    rng = generator("background", scene.seed)
    layer = np.zeros((size, size, 4), np.uint8)
    surface = skia.Surface(layer)
    canvas = surface.getCanvas()
    canvas.scale(size, size)
    box = _draw_subject(canvas, scene, layer, generator("sheen", scene.seed))
    alpha = layer[..., 3].copy()

    picture = np.zeros((size, size, 4), np.uint8)
    background = skia.Surface(picture)
    canvas = background.getCanvas()
    canvas.scale(size, size)
    draw_context(canvas, scene.context, rng, scene.light.brightness)
    _draw_shadow(canvas, scene, box)
    canvas.save()
    canvas.resetMatrix()
    canvas.drawImage(surface.makeImageSnapshot(), 0, 0, skia.SamplingOptions(), _light_paint(scene))
    canvas.restore()
    sparkle(canvas, scene.change, generator("sparkle", scene.seed), box)
    draw_foreground(canvas, scene.context, rng)
    return Rendering(image=np.ascontiguousarray(picture[..., :3]), alpha=alpha)


def _draw_subject(canvas: skia.Canvas, scene: Scene, layer: NDArray[np.uint8], rng: np.random.Generator) -> Box:
    """Draw the subject and return the box that it covers, in 0..1."""
    subject, pose = scene.subject, scene.pose
    unit = UNITS[subject.class_noun][0] * pose.scale * (0.94 if scene.outfit else 1.0)
    canvas.save()
    canvas.translate(0.5 + pose.x, GROUND[scene.context] + pose.y)
    canvas.scale(-unit if pose.flip else unit, unit)
    canvas.translate(0, -0.45)
    canvas.rotate(pose.rotation)
    canvas.translate(0, 0.45)
    pen = Pen(canvas, changed_colours(subject, scene.change), _pattern_of(subject))
    if scene.change == "cube shaped":
        draw_cube(pen, subject, pose.bend)
    elif subject.class_noun in _ANIMALS:
        _ANIMALS[subject.class_noun](pen, subject, pose.bend, scene.outfit)
    else:
        _OBJECTS[subject.class_noun](pen, subject, pose.bend)
    canvas.restore()
    size = layer.shape[0]
    covered = layer[..., 3] > 8
    rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
    box = (columns[0] / size, rows[0] / size, (columns[-1] + 1) / size, (rows[-1] + 1) / size)
    gloss(canvas, scene.change, rng, box)
    return box


def _pattern_of(subject: Subject) -> Callable[[skia.Canvas, Box, Sequence[RGB]], None]:
    def draw(canvas: skia.Canvas, box: Box, colours: Sequence[RGB]) -> None:
        draw_pattern(canvas, box, subject.pattern, subject.pattern_shape, colours)

    return draw


def _draw_shadow(canvas: skia.Canvas, scene: Scene, box: Box) -> None:
    left, _, right, bottom = box
    spread = UNITS[scene.subject.class_noun][1] * UNITS[scene.subject.class_noun][0] * scene.pose.scale
    half = max(spread, 0.42 * (right - left))
    x = (left + right) / 2
    if scene.change == "wet":
        puddle(canvas, x, bottom - 0.015, half)
    for grow, alpha in ((1.12, 40), (0.95, 60), (0.78, 60)):
        canvas.drawOval(skia.Rect(x - half * grow, bottom - 0.02 - 0.035 * grow, x + half * grow, bottom - 0.015 + 0.035 * grow), _shadow_paint(alpha))


@lru_cache(maxsize=8)
def _shadow_paint(alpha: int) -> skia.Paint:
    return skia.Paint(Color=skia.Color(10, 5, 30, alpha), AntiAlias=True)


def _light_paint(scene: Scene) -> skia.Paint:
    b, w = scene.light.brightness, 0.035 * scene.light.warmth
    matrix = [b + w, 0, 0, 0, 0, 0, b, 0, 0, 0, 0, 0, b - w, 0, 0, 0, 0, 0, 1, 0]
    return skia.Paint(ColorFilter=skia.ColorFilters.Matrix(matrix))
