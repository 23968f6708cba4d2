"""From a scene to pixels: background, shadow, the subject on its own layer (whose alpha is the mask), foreground."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import skia
from numpy.typing import NDArray

from bdkit.miniworld.changes import GLOSSY, changed_colours, gloss, puddle, sparkle
from bdkit.miniworld.colours import RGB
from bdkit.miniworld.contexts import GROUND, draw_context, draw_foreground
from bdkit.miniworld.drawing.animals import draw_cat, draw_dog
from bdkit.miniworld.drawing.characters import draw_cartoon, draw_stuffed_animal, draw_toy
from bdkit.miniworld.drawing.cubes import draw_cube
from bdkit.miniworld.drawing.patterns import draw_pattern
from bdkit.miniworld.drawing.pen import Box, Pen
from bdkit.miniworld.drawing.vessels import draw_bowl, draw_can, draw_candle, draw_teapot, draw_vase
from bdkit.miniworld.drawing.wearables import draw_backpack, draw_boot, draw_clock, draw_glasses, draw_sneaker
from bdkit.miniworld.scenes import Scene
from bdkit.miniworld.subjects import Subject, generator

# class -> image widths per unit of subject coordinates, and how far the subject's feet spread (units)
UNITS: dict[str, tuple[float, float]] = {
    "backpack": (0.69, 0.4),
    "stuffed animal": (0.7, 0.42),
    "bowl": (0.68, 0.42),
    "can": (0.7, 0.32),
    "candle": (0.7, 0.36),
    "cat": (0.73, 0.38),
    "clock": (0.69, 0.4),
    "sneaker": (0.68, 0.6),
    "dog": (0.68, 0.48),
    "toy": (0.68, 0.38),
    "boot": (0.68, 0.42),
    "glasses": (0.7, 0.55),
    "cartoon": (0.66, 0.4),
    "teapot": (0.65, 0.4),
    "vase": (0.69, 0.3),
}
# how much smaller an animal is drawn so that what it wears on its head has room
_HAT_ROOM = {
    "purple wizard outfit": 0.84,
    "chef outfit": 0.86,
    "black top hat and monocle": 0.86,
    "santa hat": 0.9,
    "police outfit": 0.91,
    "red hat": 0.91,
    "firefighter outfit": 0.91,
}
# the most of the image that a subject may cover, and its least distance from the image's edges
_MOST_WIDTH, _MOST_HEIGHT, _EDGE = 0.96, 0.93, 0.02

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
    layer, surface, box, (x, y) = _subject_layer(scene, size)
    alpha = layer[y : y + size, x : x + size, 3].copy()

    pixels = np.zeros((size, size, 4), np.uint8)
    background = skia.Surface(pixels)
    canvas = background.getCanvas()
    canvas.scale(size, size)
    draw_context(canvas, scene.context, rng, scene.light.brightness)
    _draw_shadow(canvas, scene, box)
    canvas.save()
    canvas.resetMatrix()
    canvas.drawImage(surface.makeImageSnapshot(), -x, -y, skia.SamplingOptions(), _light_paint(scene))
    canvas.restore()
    if scene.change in GLOSSY:
        sparkle(canvas, scene.change, generator("sparkle", scene.seed), box)
    draw_foreground(canvas, scene.context, rng, scene.light.brightness)
    return Rendering(image=np.ascontiguousarray(pixels[..., :3]), alpha=alpha)


def _subject_layer(scene: Scene, size: int) -> tuple[NDArray[np.uint8], skia.Surface, Box, tuple[int, int]]:
    """The subject on a transparent layer that is larger than the image.

    Returns the layer, its surface, the box that the subject covers in the image (0..1) and the corner at which the
    image is cut out of the layer: a subject that would leave the image is moved, or drawn smaller, to stay in it.
    """
    margin = size // 4
    layer = np.zeros((size + 2 * margin, size + 2 * margin, 4), np.uint8)
    surface = skia.Surface(layer)
    canvas = surface.getCanvas()
    canvas.translate(margin, margin)
    canvas.scale(size, size)
    shrink = _HAT_ROOM.get(scene.outfit or "", 1.0)
    _draw_subject(canvas, scene, shrink)
    left, top, right, bottom = _covered(layer, margin, size)
    fit = min(_MOST_WIDTH / (right - left), _MOST_HEIGHT / (bottom - top))
    if fit < 1:
        canvas.clear(skia.ColorTRANSPARENT)
        _draw_subject(canvas, scene, shrink * fit * 0.98)
        left, top, right, bottom = _covered(layer, margin, size)
    if scene.change in GLOSSY:
        gloss(canvas, scene.change, generator("sheen", scene.seed), (left, top, right, bottom))
    move_x = max(0.0, _EDGE - left) - max(0.0, right - 1 + _EDGE)
    move_y = max(0.0, _EDGE - top) - max(0.0, bottom - 1 + _EDGE / 2)
    dx, dy = round(move_x * size), round(move_y * size)
    box = (left + dx / size, top + dy / size, right + dx / size, bottom + dy / size)
    return layer, surface, box, (margin - dx, margin - dy)


def _covered(layer: NDArray[np.uint8], margin: int, size: int) -> Box:
    covered = layer[..., 3] > 8
    rows, columns = np.flatnonzero(covered.any(1)) - margin, np.flatnonzero(covered.any(0)) - margin
    return columns[0] / size, rows[0] / size, (columns[-1] + 1) / size, (rows[-1] + 1) / size


def _draw_subject(canvas: skia.Canvas, scene: Scene, shrink: float) -> None:
    subject, pose = scene.subject, scene.pose
    unit = UNITS[subject.class_noun][0] * pose.scale * shrink
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
        canvas.drawOval(
            skia.Rect(x - half * grow, bottom - 0.02 - 0.035 * grow, x + half * grow, bottom - 0.015 + 0.035 * grow),
            _shadow_paint(alpha),
        )


@lru_cache(maxsize=8)
def _shadow_paint(alpha: int) -> skia.Paint:
    return skia.Paint(Color=skia.Color(10, 5, 30, alpha), AntiAlias=True)


def _light_paint(scene: Scene) -> skia.Paint:
    b, w = scene.light.brightness, 0.035 * scene.light.warmth
    matrix = [b + w, 0, 0, 0, 0, 0, b, 0, 0, 0, 0, 0, b - w, 0, 0, 0, 0, 0, 1, 0]
    return skia.Paint(ColorFilter=skia.ColorFilters.Matrix(matrix))
