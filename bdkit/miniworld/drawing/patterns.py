"""The patterns that a subject's surface can carry, drawn into a box of subject coordinates.

Features are at least about 0.1 units wide, which is 4 pixels of a 64 pixel image.
"""

import math
from collections.abc import Callable, Sequence

import skia

from bdkit.miniworld.colours import RGB
from bdkit.miniworld.drawing.pen import Box, ellipse, fill_paint, heart, lerp, polygon, star, stroke_paint

# name -> how often it is drawn
PATTERNS: dict[str, float] = {
    "plain": 0.7,
    "horizontal stripes": 1.0,
    "vertical stripes": 1.0,
    "diagonal stripes": 1.0,
    "dots": 1.2,
    "checks": 1.0,
    "zigzag": 1.0,
    "patches": 1.0,
    "halves": 0.8,
    "band": 0.8,
    "star": 0.8,
    "heart": 0.8,
    "diamond": 0.8,
    "rings": 0.7,
    "grid": 0.7,
}

# patterns that are one figure in the middle of the surface
EMBLEMS = frozenset({"star", "heart", "diamond"})

Shape = tuple[float, ...]


def draw_pattern(canvas: skia.Canvas, box: Box, name: str, shape: Shape, colours: Sequence[RGB]) -> None:
    """Draw a pattern over `box`; the caller has painted the main colour and set the clip.

    `shape` is four numbers in 0..1: size, phase, share of the second colour, variant.
    """
    drawer = _DRAWERS.get(name)
    if drawer is not None:
        drawer(canvas, box, shape, colours)


def _stripes(canvas: skia.Canvas, box: Box, shape: Shape, colour: RGB, angle: float) -> None:
    left, top, right, bottom = box
    x, y = (left + right) / 2, (top + bottom) / 2
    reach = math.hypot(right - left, bottom - top) / 2
    period = lerp(0.23, 0.36, shape[0])
    width = period * lerp(0.42, 0.6, shape[2])
    canvas.save()
    canvas.translate(x, y)
    canvas.rotate(angle)
    paint = fill_paint(colour)
    start = -math.ceil(reach / period) * period + shape[1] * period
    while start < reach:
        canvas.drawRect(skia.Rect(start, -reach, start + width, reach), paint)
        start += period
    canvas.restore()


def _horizontal(canvas: skia.Canvas, box: Box, shape: Shape, colours: Sequence[RGB]) -> None:
    _stripes(canvas, box, shape, colours[1], 90)


def _vertical(canvas: skia.Canvas, box: Box, shape: Shape, colours: Sequence[RGB]) -> None:
    _stripes(canvas, box, shape, colours[1], 0)


def _diagonal(canvas: skia.Canvas, box: Box, shape: Shape, colours: Sequence[RGB]) -> None:
    angle = lerp(32, 58, shape[3] * 2 % 1)
    _stripes(canvas, box, shape, colours[1], angle if shape[3] < 0.5 else -angle)


def _dots(canvas: skia.Canvas, box: Box, shape: Shape, colours: Sequence[RGB]) -> None:
    left, top, right, bottom = box
    period = lerp(0.22, 0.32, shape[0])
    radius = period * lerp(0.27, 0.36, shape[2])
    paint = fill_paint(colours[1])
    row, y = 0, (top + bottom) / 2 - math.ceil((bottom - top) / 2 / period) * period
    while y < bottom + radius:
        x = (left + right) / 2 - (math.ceil((right - left) / 2 / period) + shape[1] + 0.5 * (row % 2)) * period
        while x < right + radius:
            canvas.drawCircle(x, y, radius, paint)
            x += period
        y += period * 0.9
        row += 1


def _checks(canvas: skia.Canvas, box: Box, shape: Shape, colours: Sequence[RGB]) -> None:
    left, top, right, bottom = box
    side = lerp(0.13, 0.21, shape[0])
    x0, y0 = (left + right) / 2, (top + bottom) / 2
    reach = math.hypot(right - left, bottom - top) / 2
    count = math.ceil(reach / side)
    path = skia.Path()
    for row in range(-count, count):
        for column in range(-count, count):
            if (row + column) % 2 == 0:
                path.addRect(skia.Rect(column * side, row * side, (column + 1) * side, (row + 1) * side))
    canvas.save()
    canvas.translate(x0 + (shape[1] - 0.5) * side, y0)
    if shape[3] > 0.6:
        canvas.rotate(45)
    canvas.drawPath(path, fill_paint(colours[1]))
    canvas.restore()


def _zigzag(canvas: skia.Canvas, box: Box, shape: Shape, colours: Sequence[RGB]) -> None:
    left, top, right, bottom = box
    period = lerp(0.26, 0.38, shape[0])
    step = lerp(0.13, 0.19, shape[3])
    y = (top + bottom) / 2 - math.ceil((bottom - top) / 2 / period + 1) * period + shape[1] * period
    path = skia.Path()
    while y < bottom + period:
        count = math.ceil((right - left) / 2 / step)
        x0 = (left + right) / 2 - count * step
        path.moveTo(x0, y + (step / 2 if count % 2 else -step / 2))
        for i in range(1, 2 * count + 1):
            path.lineTo(x0 + i * step, y + (step / 2 if (i + count) % 2 else -step / 2))
        y += period
    canvas.drawPath(path, stroke_paint(colours[1], period * lerp(0.36, 0.46, shape[2])))


def _patches(canvas: skia.Canvas, box: Box, shape: Shape, colours: Sequence[RGB]) -> None:
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    size = lerp(0.15, 0.21, shape[0]) * math.sqrt(max(width * height, 0.12)) / 0.6
    for i in range(3):
        turn = shape[1] * 6.28 + i * 2.09 + 0.8 * math.sin(9 * shape[2] + i)
        x = (left + right) / 2 + 0.31 * width * math.cos(turn)
        y = (top + bottom) / 2 + 0.31 * height * math.sin(turn)
        stretch = 0.3 * math.sin(7 * shape[3] + 2 * i)
        colour = colours[2] if i == 0 and shape[3] > 0.6 else colours[1]
        canvas.drawPath(ellipse(x, y, size * (1 + stretch), size * (1 - stretch)), fill_paint(colour))


def _halves(canvas: skia.Canvas, box: Box, shape: Shape, colours: Sequence[RGB]) -> None:
    left, top, right, bottom = box
    x, y = (left + right) / 2, (top + bottom) / 2
    reach = math.hypot(right - left, bottom - top)
    canvas.save()
    canvas.translate(x + (shape[1] - 0.5) * 0.3 * (right - left), y + (shape[1] - 0.5) * 0.3 * (bottom - top))
    canvas.rotate(int(shape[3] * 4) * 45)
    canvas.drawRect(skia.Rect(0, -reach, reach, reach), fill_paint(colours[1]))
    canvas.restore()


def _band(canvas: skia.Canvas, box: Box, shape: Shape, colours: Sequence[RGB]) -> None:
    left, top, right, bottom = box
    upright = shape[3] > 0.6
    low, high = (left, right) if upright else (top, bottom)
    middle = lerp(low, high, lerp(0.38, 0.62, shape[1]))
    half = max(0.07, lerp(0.11, 0.2, shape[0]) * (high - low))
    edge = 0.07
    for grow, colour in ((half + edge, colours[2]), (half, colours[1])) if shape[2] > 0.5 else ((half, colours[1]),):
        a, b = middle - grow, middle + grow
        canvas.drawRect(skia.Rect(a, top, b, bottom) if upright else skia.Rect(left, a, right, b), fill_paint(colour))


def _emblem(kind: str) -> Callable[[skia.Canvas, Box, Shape, Sequence[RGB]], None]:
    def draw(canvas: skia.Canvas, box: Box, shape: Shape, colours: Sequence[RGB]) -> None:
        left, top, right, bottom = box
        x, y = (left + right) / 2, (top + bottom) / 2
        radius = max(0.15, lerp(0.28, 0.4, shape[0]) * min(right - left, bottom - top))
        if kind == "star":
            path = star(x, y, radius * 1.15, 5 + int(shape[2] * 2), 0.48, (shape[1] - 0.5) * 0.6)
        elif kind == "heart":
            path = heart(x, y, radius)
        else:
            wide = lerp(0.65, 1.0, shape[2])
            path = polygon(
                [(x, y - radius * 1.1), (x + radius * wide, y), (x, y + radius * 1.1), (x - radius * wide, y)]
            )
        if shape[3] > 0.55:
            canvas.drawPath(path, stroke_paint(colours[2], 0.1))
        canvas.drawPath(path, fill_paint(colours[1]))

    return draw


def _rings(canvas: skia.Canvas, box: Box, shape: Shape, colours: Sequence[RGB]) -> None:
    left, top, right, bottom = box
    x = lerp(left, right, lerp(0.35, 0.65, shape[1]))
    y = lerp(top, bottom, lerp(0.35, 0.65, shape[3]))
    period = lerp(0.24, 0.33, shape[0])
    reach = math.hypot(right - left, bottom - top) * 0.7
    canvas.drawCircle(x, y, period * 0.32, fill_paint(colours[1]))
    radius = period * 0.95
    while radius < reach:
        canvas.drawCircle(x, y, radius, stroke_paint(colours[1], period * lerp(0.42, 0.54, shape[2])))
        radius += period


def _grid(canvas: skia.Canvas, box: Box, shape: Shape, colours: Sequence[RGB]) -> None:
    left, top, right, bottom = box
    period = lerp(0.27, 0.37, shape[0])
    half = period * lerp(0.17, 0.23, shape[2])
    reach = math.hypot(right - left, bottom - top) / 2
    count = math.ceil(reach / period) + 1
    path = skia.Path()
    for i in range(-count, count):
        at = (i + shape[1]) * period
        path.addRect(skia.Rect(at - half, -reach, at + half, reach))
        path.addRect(skia.Rect(-reach, at - half, reach, at + half))
    canvas.save()
    canvas.translate((left + right) / 2, (top + bottom) / 2)
    if shape[3] > 0.5:
        canvas.rotate(45)
    canvas.drawPath(path, fill_paint(colours[1]))
    canvas.restore()


_DRAWERS: dict[str, Callable[[skia.Canvas, Box, Shape, Sequence[RGB]], None]] = {
    "horizontal stripes": _horizontal,
    "vertical stripes": _vertical,
    "diagonal stripes": _diagonal,
    "dots": _dots,
    "checks": _checks,
    "zigzag": _zigzag,
    "patches": _patches,
    "halves": _halves,
    "band": _band,
    "star": _emblem("star"),
    "heart": _emblem("heart"),
    "diamond": _emblem("diamond"),
    "rings": _rings,
    "grid": _grid,
}
