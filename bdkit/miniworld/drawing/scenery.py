"""Props of the mini world's backgrounds: trees, clouds, people, flowers. Coordinates and colours as in `brush`."""

from __future__ import annotations

import math

import skia

from bdkit.miniworld.drawing.brush import BLACK, RGB, WHITE, Brush, mix


def cloud(brush: Brush, x: float, y: float, size: float, colour: RGB = WHITE, alpha: float = 0.85) -> None:
    """A flat-bottomed cloud, about 2 `size` wide."""
    brush.ovals(
        [
            (x, y, size, size * 0.3),
            (x - size * 0.3, y - size * 0.22, size * 0.42, size * 0.34),
            (x + size * 0.3, y - size * 0.15, size * 0.36, size * 0.28),
        ],
        colour,
        alpha,
    )


def sky(brush: Brush, horizon: float, top: RGB, bottom: RGB, clouds: int = 0) -> None:
    """A graded sky down to `horizon` with some clouds."""
    brush.fade(top, bottom, 0, horizon)
    for _ in range(clouds):
        cloud(brush, brush.u(0.05, 0.95), brush.u(0.08, 0.5 * horizon), brush.u(0.09, 0.16))


def fir(brush: Brush, x: float, base: float, height: float, colour: RGB, snow: bool = False) -> None:
    """A fir tree of three tiers, white-capped with `snow`."""
    width = height * 0.36
    brush.box(x - height * 0.05, base - height * 0.2, x + height * 0.05, base, (84, 62, 50))
    tiers = [(0.12, 0.55, 1.0), (0.38, 0.76, 0.78), (0.62, 1.0, 0.55)]
    brush.polys(
        [
            ((x - width * w, base - height * b), (x, base - height * t), (x + width * w, base - height * b))
            for b, t, w in tiers
        ],
        colour,
    )
    if snow:
        caps = [(b + 0.6 * (t - b), t, 0.42 * w) for b, t, w in tiers]
        brush.polys(
            [
                ((x - width * w, base - height * b), (x, base - height * t), (x + width * w, base - height * b))
                for b, t, w in caps
            ],
            (246, 250, 255),
        )


def bush(brush: Brush, x: float, y: float, size: float, colour: RGB) -> None:
    """A round, lit clump of leaves."""
    clumps = [
        (x + dx * size, y + dy * size, r * size, r * size)
        for dx, dy, r in ((-0.55, 0.15, 0.55), (0.5, 0.2, 0.6), (0.0, -0.3, 0.7), (0.0, 0.3, 0.6))
    ]
    brush.ovals(clumps, colour)
    light = mix(colour, (255, 255, 190), 0.22)
    brush.ovals([(cx - 0.15 * size, cy - 0.18 * size, 0.55 * r, 0.5 * r) for cx, cy, r, _ in clumps[:3]], light)


def palm(brush: Brush, x: float, base: float, top: float, lean: float) -> None:
    """A palm tree with its foot at (x, base) and its crown at (x + lean, top)."""
    tip = x + lean
    brush.curves([(x, base, x, (base + top) / 2, tip, top)], 0.04, (150, 108, 66))
    fronds = [brush.leaf(tip, top, a + brush.u(-0.15, 0.15), 0.25, 0.1) for a in (0.5, -0.15, -0.9, -2.2, -3.0, 2.6)]
    brush.curves(fronds, 0, brush.vary((44, 142, 66)), fill=True)


def person(brush: Brush, x: float, base: float, height: float, shirt: RGB, trousers: RGB, skin: RGB, hair: RGB) -> None:
    """A little standing person with the feet at (x, base)."""
    wide, head = height * 0.15, height * 0.12
    brush.boxes(
        [
            (x - wide * 0.8, base - 0.45 * height, x - wide * 0.1, base),
            (x + wide * 0.1, base - 0.45 * height, x + wide * 0.8, base),
        ],
        trousers,
    )
    brush.boxes([(x - wide * 1.15, base - 0.78 * height, x + wide * 1.15, base - 0.4 * height)], shirt, 0.03)
    brush.oval(x, base - 0.9 * height, head, head * 1.05, hair)
    brush.oval(x, base - 0.87 * height, head * 0.75, head * 0.8, skin)


def _petals(count: int) -> skia.Path:
    path = skia.Path()
    for k in range(count):
        left, middle, right = (math.tau * (k + shift) / count for shift in (-0.75, 0.0, 0.75))
        path.moveTo(0, 0)
        path.quadTo(0.9 * math.cos(left), 0.9 * math.sin(left), math.cos(middle), math.sin(middle))
        path.quadTo(0.9 * math.cos(right), 0.9 * math.sin(right), 0, 0)
    return path


_PETALS = _petals(9)


def sunflower(brush: Brush, x: float, y: float, size: float, base: float) -> None:
    """A sunflower whose head of radius `size` is at (x, y) and whose stem ends at `base`."""
    brush.lines([(x, y, x + brush.u(-0.02, 0.02), base)], 0.024, (58, 120, 40))
    low = (y + base) / 2 + 0.03
    leaves = [
        brush.leaf(x, low, -0.5, size * 1.1, size * 0.5),
        brush.leaf(x, low + 0.03, math.pi + 0.5, size * 1.1, size * 0.5),
    ]
    brush.curves(leaves, 0, (76, 150, 52), fill=True)
    brush.stamp(_PETALS, x, y, size, brush.u(0, 40), brush.vary((255, 200, 24), 10))
    brush.oval(x, y, size * 0.4, size * 0.4, (98, 56, 24))


def eiffel(brush: Brush, x: float, base: float, height: float, colour: RGB) -> None:
    """The Eiffel Tower, centred at x, standing on `base`."""
    h, w = height, height * 0.25
    dark = mix(colour, BLACK, 0.25)
    for side in (-1, 1):
        brush.curves(
            [
                (
                    x + side * w, base, x + side * w * 0.36, base - 0.3 * h, x + side * 0.006, base - h * 0.93,
                    x, base - h * 0.93, x, base - h * 0.8,
                    x + side * w * 0.12, base - 0.38 * h, x + side * w * 0.18, base - 0.34 * h,
                    x + side * w * 0.4, base - 0.2 * h, x + side * w * 0.56, base,
                )
            ],
            0, colour, fill=True,
        )  # fmt: skip
    brush.lines([(x, base - 0.6 * h, x, base - h)], 0.018, colour)
    brush.curves([(x - w * 0.72, base - 0.1 * h, x, base - 0.3 * h, x + w * 0.72, base - 0.1 * h)], 0.022, dark)
    brush.boxes(
        [
            (x - w * 0.62, base - 0.27 * h, x + w * 0.62, base - 0.225 * h),
            (x - w * 0.36, base - 0.48 * h, x + w * 0.36, base - 0.44 * h),
            (x - w * 0.14, base - 0.88 * h, x + w * 0.14, base - 0.85 * h),
        ],
        dark,
    )


def meadow(b: Brush, horizon: float, colour: RGB, blades: int = 14) -> None:
    """Grass from `horizon` down, with `blades` tufts."""
    b.fade(mix(colour, WHITE, 0.12), mix(colour, BLACK, 0.12), horizon)
    tufts = []
    for _ in range(blades):
        x, y = b.u(), b.u(horizon + 0.06, 0.98)
        tufts += [(x, y, x - 0.018, y - 0.045), (x, y, x + 0.018, y - 0.045)]
    b.lines(tufts, 0.014, mix(colour, (20, 70, 20), 0.35))
