"""The mini world's backgrounds: one painter for each of DreamBench's 20 object contexts, and plain studio ones.

`draw_context` paints all that is behind the subject, `draw_foreground` the little in front of its feet. Both use
0..1 user coordinates. Positions, hues and counts vary with `rng`; what tells the contexts apart reaches the borders,
since the subject covers the middle.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import skia
from numpy.typing import NDArray

from bdkit.miniworld.drawing import landscapes, places
from bdkit.miniworld.drawing.brush import Brush

STUDIO = "studio"

_PAINTERS: dict[str, tuple[Callable[[Brush], None], float]] = {
    "in the jungle": (landscapes.jungle, 0.86),
    "in the snow": (landscapes.snow, 0.86),
    "on the beach": (landscapes.beach, 0.86),
    "on a cobblestone street": (places.cobblestone, 0.86),
    "on top of pink fabric": (places.pink_fabric, 0.84),
    "on top of a wooden floor": (places.wooden_floor, 0.86),
    "with a city in the background": (places.city, 0.88),
    "with a mountain in the background": (landscapes.mountain, 0.88),
    "with a blue house in the background": (places.blue_house, 0.88),
    "on top of a purple rug in a forest": (landscapes.rug_in_forest, 0.86),
    "with a wheat field in the background": (landscapes.wheat_field, 0.88),
    "with a tree and autumn leaves in the background": (landscapes.autumn, 0.88),
    "with the Eiffel Tower in the background": (places.eiffel_tower, 0.88),
    "floating on top of water": (landscapes.water, 0.84),
    "floating in an ocean of milk": (landscapes.milk, 0.84),
    "on top of green grass with sunflowers around it": (landscapes.sunflowers, 0.86),
    "on top of a mirror": (places.mirror, 0.8),
    "on top of the sidewalk in a crowded street": (places.crowded_street, 0.86),
    "on top of a dirt road": (landscapes.dirt_road, 0.86),
    "on top of a white rug": (places.white_rug, 0.82),
}
CONTEXTS: tuple[str, ...] = tuple(_PAINTERS)
GROUND: dict[str, float] = {context: ground for context, (_, ground) in _PAINTERS.items()} | {STUDIO: 0.85}


def draw_context(canvas: skia.Canvas, context: str, rng: np.random.Generator, light: float = 1.0) -> None:
    """Paint the whole background `context` (one of CONTEXTS or STUDIO) on `canvas`, whose user space is 0..1.

    `light` multiplies all colours (0.85..1.1). Raises ValueError for an unknown context.
    """
    brush = Brush(canvas, rng, light)
    canvas.drawColor(brush.argb((128, 124, 120)))
    if context == STUDIO:
        places.studio(brush)
    elif context in _PAINTERS:
        _PAINTERS[context][0](brush)
    else:
        raise ValueError(_unknown(context))


def _unknown(context: str) -> str:
    return f"unknown context {context!r}: use one of {', '.join((*CONTEXTS, STUDIO))}"


_FRONTS: dict[str, Callable[[Brush], None]] = {
    "in the jungle": landscapes.front_jungle,
    "in the snow": landscapes.front_snow,
    "with a mountain in the background": landscapes.front_grass,
    "with a blue house in the background": landscapes.front_grass,
    "with a wheat field in the background": landscapes.front_wheat,
    "with a tree and autumn leaves in the background": landscapes.front_autumn,
    "floating on top of water": landscapes.front_water,
    "floating in an ocean of milk": landscapes.front_milk,
    "on top of green grass with sunflowers around it": landscapes.front_grass,
}


def draw_foreground(canvas: skia.Canvas, context: str, rng: np.random.Generator, light: float = 1.0) -> None:
    """Paint what lies in front of the subject's feet (grass, snow, water) over the image; in most contexts nothing.

    Arguments as in `draw_context`; an unknown context raises the same ValueError.
    """
    if context != STUDIO and context not in _PAINTERS:
        raise ValueError(_unknown(context))
    if context in _FRONTS:
        _FRONTS[context](Brush(canvas, rng, light))


def render_background(context: str, rng: np.random.Generator, size: int = 64) -> NDArray[np.uint8]:
    """One of CONTEXTS or STUDIO without a subject, uint8 (size, size, 3)."""
    pixels = np.zeros((size, size, 4), np.uint8)
    surface = skia.Surface(pixels)
    canvas = surface.getCanvas()
    canvas.scale(size, size)
    light = float(rng.uniform(0.9, 1.08))
    draw_context(canvas, context, rng, light)
    draw_foreground(canvas, context, rng, light)
    surface.flushAndSubmit()
    return np.ascontiguousarray(pixels[..., :3])
