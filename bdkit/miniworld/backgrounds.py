"""Images without a subject, for the inputs of prompted context generation."""

import numpy as np
import skia
from numpy.typing import NDArray

from bdkit.miniworld.contexts import draw_context, draw_foreground


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
