"""A small drawing kit over skia: outlined shapes, patterned surfaces and limbs in a subject's own coordinates.

Subject coordinates: x to the right, y down, the ground at y = 0, the subject about one unit tall around x = 0.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import skia

from bdkit.miniworld.colours import INK, RGB

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom

OUTLINE = 0.04


def lerp(low: float, high: float, share: float) -> float:
    """The number that lies `share` of the way from low to high."""
    return low + (high - low) * share


@lru_cache(maxsize=16384)
def fill_paint(colour: RGB, alpha: int = 255) -> skia.Paint:
    """A cached anti-aliased fill."""
    return skia.Paint(Color=skia.Color(*colour, alpha), AntiAlias=True)


@lru_cache(maxsize=16384)
def stroke_paint(colour: RGB, width: float, alpha: int = 255) -> skia.Paint:
    """A cached anti-aliased stroke with round ends and joins."""
    return skia.Paint(
        Color=skia.Color(*colour, alpha),
        AntiAlias=True,
        Style=skia.Paint.kStroke_Style,
        StrokeWidth=width,
        StrokeCap=skia.Paint.kRound_Cap,
        StrokeJoin=skia.Paint.kRound_Join,
    )


@lru_cache(maxsize=1)
def _volume_paint() -> skia.Paint:
    """Light from the upper left, in a unit square that is scaled to the shape."""
    shader = skia.GradientShader.MakeLinear(
        points=[skia.Point(0.1, 0.0), skia.Point(0.95, 0.9)],
        colors=[skia.Color(255, 255, 255, 46), skia.Color(255, 255, 255, 0), skia.Color(20, 0, 50, 76)],
        positions=[0.0, 0.42, 1.0],
    )
    return skia.Paint(Shader=shader, AntiAlias=True)


def ellipse(x: float, y: float, rx: float, ry: float | None = None) -> skia.Path:
    """An ellipse around (x, y); a circle without `ry`."""
    ry = rx if ry is None else ry
    path = skia.Path()
    path.addOval(skia.Rect(x - rx, y - ry, x + rx, y + ry))
    return path


def rounded(left: float, top: float, right: float, bottom: float, radius: float = 0.05) -> skia.Path:
    """A rectangle with rounded corners."""
    path = skia.Path()
    path.addRoundRect(skia.Rect(left, top, right, bottom), radius, radius)
    return path


def polygon(points: Sequence[Point]) -> skia.Path:
    """A closed polygon."""
    path = skia.Path()
    path.moveTo(*points[0])
    for point in points[1:]:
        path.lineTo(*point)
    path.close()
    return path


def line(points: Sequence[Point]) -> skia.Path:
    """An open curve through the points (straight when there are two)."""
    path = skia.Path()
    path.moveTo(*points[0])
    if len(points) == 2:
        path.lineTo(*points[1])
        return path
    padded = [points[0], *points, points[-1]]
    for i in range(1, len(padded) - 2):
        _segment(path, padded[i - 1], padded[i], padded[i + 1], padded[i + 2])
    return path


def blob(points: Sequence[Point]) -> skia.Path:
    """A smooth closed curve through the points."""
    path = skia.Path()
    path.moveTo(*points[0])
    n = len(points)
    for i in range(n):
        _segment(path, points[i - 1], points[i], points[(i + 1) % n], points[(i + 2) % n])
    path.close()
    return path


def turned(profile: Sequence[Point]) -> skia.Path:
    """The outline of something turned on a lathe: (half width, y) from top to bottom, flat ends."""
    path = skia.Path()
    right = list(profile)
    left = [(-w, y) for w, y in reversed(right)]
    path.moveTo(*left[-1])
    for side in (right, left):
        path.lineTo(*side[0])
        padded = [side[0], *side, side[-1]]
        for i in range(1, len(padded) - 2):
            _segment(path, padded[i - 1], padded[i], padded[i + 1], padded[i + 2])
    path.close()
    return path


def star(x: float, y: float, radius: float, points: int = 5, inner: float = 0.45, turn: float = 0.0) -> skia.Path:
    """A star with `points` tips; `inner` is the inner radius as a share, `turn` in radians."""
    corners = []
    for i in range(2 * points):
        angle = math.pi * i / points - math.pi / 2 + turn
        r = radius if i % 2 == 0 else radius * inner
        corners.append((x + r * math.cos(angle), y + r * math.sin(angle)))
    return polygon(corners)


def heart(x: float, y: float, r: float) -> skia.Path:
    """A heart about 2.2 r wide and 2 r high around (x, y)."""
    path = skia.Path()
    path.moveTo(x, y + r)
    path.cubicTo(x - 1.5 * r, y - 0.1 * r, x - 0.8 * r, y - 1.35 * r, x, y - 0.4 * r)
    path.cubicTo(x + 0.8 * r, y - 1.35 * r, x + 1.5 * r, y - 0.1 * r, x, y + r)
    path.close()
    return path


def _segment(path: skia.Path, a: Point, b: Point, c: Point, d: Point) -> None:
    path.cubicTo(
        b[0] + (c[0] - a[0]) / 6,
        b[1] + (c[1] - a[1]) / 6,
        c[0] - (d[0] - b[0]) / 6,
        c[1] - (d[1] - b[1]) / 6,
        c[0],
        c[1],
    )


class Pen:
    """Draws one subject. `main`, `second`, `accent` are its colours after any property change.

    `pattern` draws the subject's pattern into a box of the canvas; the pen clips it to a shape.
    """

    def __init__(
        self, canvas: skia.Canvas, colours: Sequence[RGB], pattern: Callable[[skia.Canvas, Box, Sequence[RGB]], None]
    ):
        self.canvas = canvas
        self.main, self.second, self.accent = colours
        self._pattern = pattern

    def fill(self, path: skia.Path, colour: RGB, alpha: int = 255) -> None:
        self.canvas.drawPath(path, fill_paint(colour, alpha))

    def stroke(self, path: skia.Path, colour: RGB = INK, width: float = OUTLINE, alpha: int = 255) -> None:
        self.canvas.drawPath(path, stroke_paint(colour, width, alpha))

    def shape(self, path: skia.Path, colour: RGB, outline: float = OUTLINE, volume: bool = True) -> None:
        """A filled shape with light on it and a dark outline."""
        self.canvas.drawPath(path, fill_paint(colour))
        if volume:
            self._light(path)
        if outline:
            self.canvas.drawPath(path, stroke_paint(INK, outline))

    def patterned(self, path: skia.Path, box: Box | None = None, outline: float = OUTLINE) -> None:
        """A shape in the main colour with the subject's pattern, laid out in `box` (default: its bounds)."""
        self.canvas.drawPath(path, fill_paint(self.main))
        self.printed(path, box)
        self._light(path)
        if outline:
            self.canvas.drawPath(path, stroke_paint(INK, outline))

    def printed(self, path: skia.Path, box: Box | None = None) -> None:
        """The subject's pattern alone, inside a shape that is already filled."""
        bounds = path.getBounds()
        self.canvas.save()
        self.canvas.clipPath(path, doAntiAlias=True)
        self._pattern(
            self.canvas,
            box or (bounds.left(), bounds.top(), bounds.right(), bounds.bottom()),
            (self.main, self.second, self.accent),
        )
        self.canvas.restore()

    def limb(self, points: Sequence[Point], width: float, colour: RGB, outline: float = OUTLINE) -> None:
        """A round-ended outlined stroke through the points."""
        path = line(points)
        if outline:
            self.canvas.drawPath(path, stroke_paint(INK, width + outline))
        self.canvas.drawPath(path, stroke_paint(colour, width - outline if outline else width))

    def eye(self, x: float, y: float, r: float, iris: RGB | None = None, look: float = 0.2) -> None:
        """A white eye with a dark pupil (and an iris), a glint in it."""
        self.fill(ellipse(x, y, r + OUTLINE * 0.6), INK)
        self.fill(ellipse(x, y, r), iris or (255, 255, 255))
        self.fill(ellipse(x + look * r, y, r * 0.56), INK)
        self.fill(ellipse(x + look * r - 0.22 * r, y - 0.25 * r, r * 0.2), (255, 255, 255))

    def dot(self, x: float, y: float, r: float, colour: RGB = INK) -> None:
        self.fill(ellipse(x, y, r), colour)

    def _light(self, path: skia.Path) -> None:
        bounds = path.getBounds()
        width, height = bounds.width(), bounds.height()
        if width <= 0 or height <= 0:
            return
        canvas = self.canvas
        canvas.save()
        canvas.clipPath(path, doAntiAlias=True)
        canvas.translate(bounds.left(), bounds.top())
        canvas.scale(width, height)
        canvas.drawPaint(_volume_paint())
        canvas.restore()
