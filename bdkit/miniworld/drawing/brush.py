"""The brush that the mini world's backgrounds are painted with (`bdkit.miniworld.contexts`).

Coordinates are 0..1 in both axes, y downwards; colours are (red, green, blue) in 0..255.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
import skia

RGB = tuple[float, float, float]
XY = tuple[float, float]
T = TypeVar("T")

WHITE: RGB = (255, 255, 255)
BLACK: RGB = (0, 0, 0)


def hsv(hue: float, saturation: float, value: float) -> RGB:
    """RGB (0..255) of a colour given by hue (any real, period 1), saturation and value (0..1)."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return 255 * red, 255 * green, 255 * blue


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """The colour `share` (0..1) of the way from `first` to `second`."""
    keep = 1 - share
    return (
        first[0] * keep + second[0] * share,
        first[1] * keep + second[1] * share,
        first[2] * keep + second[2] * share,
    )


class Brush:
    """Paints flat and graded shapes on a canvas of 0..1 user coordinates.

    `light` multiplies every colour. All chance comes from `rng`, drawn in blocks because single draws are slow.
    """

    def __init__(self, canvas: skia.Canvas, rng: np.random.Generator, light: float = 1.0) -> None:
        self.canvas = canvas
        self.light = light
        self._rng = rng
        self._chance: list[float] = []
        self._fill = skia.Paint(AntiAlias=True)
        self._pen = skia.Paint(
            AntiAlias=True,
            Style=skia.Paint.kStroke_Style,
            StrokeCap=skia.Paint.kRound_Cap,
            StrokeJoin=skia.Paint.kRound_Join,
        )

    def u(self, low: float = 0.0, high: float = 1.0) -> float:
        """A uniform draw from low..high."""
        if not self._chance:
            self._chance = self._rng.random(96).tolist()
        return low + (high - low) * self._chance.pop()

    def pick(self, choices: Sequence[T]) -> T:
        """One of `choices`, all equally likely."""
        return choices[int(self.u() * len(choices))]

    def count(self, low: int, high: int) -> int:
        """A whole number from low..high, both included."""
        return low + int(self.u() * (high - low + 1))

    def sign(self) -> int:
        """-1 or 1."""
        return 1 if self.u() < 0.5 else -1

    def vary(self, colour: RGB, amount: float = 12.0) -> RGB:
        """`colour` with its brightness and each channel moved by at most `amount` and half of it."""
        half, shift = amount / 2, self.u(-amount, amount)
        red, green, blue = colour
        return (
            red + shift + self.u(-half, half),
            green + shift + self.u(-half, half),
            blue + shift + self.u(-half, half),
        )

    def argb(self, colour: RGB, alpha: float = 1.0) -> int:
        """Skia's packed colour, lit and clipped to 0..255."""
        light = self.light
        red, green, blue = (min(255, max(0, int(channel * light + 0.5))) for channel in colour)
        return int(alpha * 255 + 0.5) << 24 | red << 16 | green << 8 | blue

    def fade(self, top: RGB, bottom: RGB, y0: float = 0.0, y1: float = 1.0, x0: float = 0.0, x1: float = 1.0) -> None:
        """A rectangle graded from `top` at y0 to `bottom` at y1."""
        shader = skia.GradientShader.MakeLinear(
            [skia.Point(0, y0), skia.Point(0, y1)], [self.argb(top), self.argb(bottom)]
        )
        self.canvas.drawRect(skia.Rect.MakeLTRB(x0, y0, x1, y1), skia.Paint(Shader=shader))

    def glow(self, x: float, y: float, radius: float, colour: RGB, alpha: float = 0.5) -> None:
        """A soft round light that ends at `radius`."""
        shader = skia.GradientShader.MakeRadial(
            skia.Point(x, y), radius, [self.argb(colour, alpha), self.argb(colour, 0.0)]
        )
        box = skia.Rect.MakeLTRB(x - radius, y - radius, x + radius, y + radius)
        self.canvas.drawRect(box, skia.Paint(Shader=shader))

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: RGB, alpha: float = 1.0) -> None:
        """A filled rectangle."""
        self._fill.setColor(self.argb(colour, alpha))
        self.canvas.drawRect(skia.Rect.MakeLTRB(x0, y0, x1, y1), self._fill)

    def boxes(self, boxes: Iterable[tuple[float, float, float, float]], colour: RGB, round_: float = 0.0) -> None:
        """Filled rectangles (x0, y0, x1, y1) of one colour, with corners of radius `round_`."""
        path = skia.Path()
        for x0, y0, x1, y1 in boxes:
            if round_:
                path.addRoundRect(skia.Rect.MakeLTRB(x0, y0, x1, y1), round_, round_)
            else:
                path.addRect(skia.Rect.MakeLTRB(x0, y0, x1, y1))
        self._path(path, colour)

    def oval(self, x: float, y: float, rx: float, ry: float, colour: RGB, alpha: float = 1.0) -> None:
        """A filled ellipse around (x, y)."""
        self._fill.setColor(self.argb(colour, alpha))
        self.canvas.drawOval(skia.Rect.MakeLTRB(x - rx, y - ry, x + rx, y + ry), self._fill)

    def ovals(self, ovals: Iterable[tuple[float, float, float, float]], colour: RGB, alpha: float = 1.0) -> None:
        """Filled ellipses (x, y, rx, ry) of one colour."""
        path = skia.Path()
        for x, y, rx, ry in ovals:
            path.addOval(skia.Rect.MakeLTRB(x - rx, y - ry, x + rx, y + ry))
        self._path(path, colour, alpha)

    def ring(self, x: float, y: float, rx: float, ry: float, width: float, colour: RGB, alpha: float = 1.0) -> None:
        """The outline of an ellipse."""
        self._ink(width, colour, alpha)
        self.canvas.drawOval(skia.Rect.MakeLTRB(x - rx, y - ry, x + rx, y + ry), self._pen)

    def dots(self, points: Iterable[XY], size: float, colour: RGB, alpha: float = 1.0) -> None:
        """Round dots of diameter `size`."""
        self._ink(size, colour, alpha)
        mode = skia.Canvas.PointMode.kPoints_PointMode
        self.canvas.drawPoints(mode, [skia.Point(x, y) for x, y in points], self._pen)

    def poly(self, points: Iterable[XY], colour: RGB, alpha: float = 1.0) -> None:
        """A filled polygon."""
        self._path(skia.Path.Polygon([skia.Point(x, y) for x, y in points], True), colour, alpha)

    def polys(self, polygons: Iterable[Iterable[XY]], colour: RGB, alpha: float = 1.0) -> None:
        """Filled polygons of one colour."""
        path = skia.Path()
        for points in polygons:
            path.addPoly([skia.Point(x, y) for x, y in points], True)
        self._path(path, colour, alpha)

    def lines(self, segments: Iterable[tuple[float, float, float, float]], width: float, colour: RGB) -> None:
        """Straight strokes (x0, y0, x1, y1) of one colour and width."""
        self._ink(width, colour, 1.0)
        points = [skia.Point(x, y) for x0, y0, x1, y1 in segments for x, y in ((x0, y0), (x1, y1))]
        self.canvas.drawPoints(skia.Canvas.PointMode.kLines_PointMode, points, self._pen)

    def curves(
        self, curves: Iterable[tuple[float, ...]], width: float, colour: RGB, alpha: float = 1.0, fill: bool = False
    ) -> None:
        """Curves of one colour: (x0, y0), then control and end point (four numbers) of each quadratic piece."""
        path = skia.Path()
        for curve in curves:
            path.moveTo(curve[0], curve[1])
            for i in range(2, len(curve), 4):
                path.quadTo(curve[i], curve[i + 1], curve[i + 2], curve[i + 3])
        if fill:
            self._path(path, colour, alpha)
        else:
            self._ink(width, colour, alpha)
            self.canvas.drawPath(path, self._pen)

    def wave(
        self,
        y: float,
        height: float,
        length: float,
        colour: RGB,
        *,
        alpha: float = 1.0,
        low: tuple[float, RGB] | None = None,
    ) -> None:
        """Everything below a wavy line around `y`; with `low` = (y1, colour) graded to that colour at y1."""
        path, x, up = skia.Path(), -self.u(0, length), self.sign()
        path.moveTo(x, y)
        while x < 1:
            step = length * self.u(0.4, 0.6)
            path.quadTo(x + step / 2, y + up * height, x + step, y)
            x, up = x + step, -up
        path.lineTo(x, 1)
        path.lineTo(-length, 1)
        path.close()
        if low is None:
            self._path(path, colour, alpha)
            return
        ends = [skia.Point(0, y), skia.Point(0, low[0])]
        shader = skia.GradientShader.MakeLinear(ends, [self.argb(colour), self.argb(low[1])])
        self.canvas.drawPath(path, skia.Paint(Shader=shader, AntiAlias=True))

    def stamp(self, path: skia.Path, x: float, y: float, size: float, turn: float, colour: RGB) -> None:
        """A ready-made shape around (0, 0), `size` times as large, turned by `turn` degrees, put at (x, y)."""
        self.canvas.save()
        self.canvas.translate(x, y)
        self.canvas.rotate(turn)
        self.canvas.scale(size, size)
        self._path(path, colour)
        self.canvas.restore()

    def leaf(self, x: float, y: float, angle: float, length: float, width: float) -> tuple[float, ...]:
        """A pointed leaf from its stalk at (x, y), angle in radians, for `curves(..., fill=True)`."""
        dx, dy = math.cos(angle) * length, math.sin(angle) * length
        wx, wy = -math.sin(angle) * width, math.cos(angle) * width
        mx, my = x + dx * 0.45, y + dy * 0.45
        return x, y, mx + wx, my + wy, x + dx, y + dy, mx - wx, my - wy, x, y

    def _path(self, path: skia.Path, colour: RGB, alpha: float = 1.0) -> None:
        self._fill.setColor(self.argb(colour, alpha))
        self.canvas.drawPath(path, self._fill)

    def _ink(self, width: float, colour: RGB, alpha: float) -> None:
        self._pen.setColor(self.argb(colour, alpha))
        self._pen.setStrokeWidth(width)
