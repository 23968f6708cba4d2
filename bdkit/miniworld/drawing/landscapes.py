"""Painters of the mini world's backgrounds in the open, and of what lies in front of the subject's feet there."""

from __future__ import annotations

import math

from bdkit.miniworld.drawing.brush import BLACK, RGB, WHITE, Brush, hsv, mix
from bdkit.miniworld.drawing.scenery import fir, meadow, palm, sky, sunflower


def jungle(b: Brush) -> None:
    """Dark trunks, big leaves from both sides, light from above, a few flowers."""
    b.fade(b.vary((52, 128, 62)), b.vary((10, 52, 30), 8))
    b.glow(b.u(0.2, 0.8), 0.0, 0.6, (214, 240, 130), 0.55)
    for x in (b.u(0.04, 0.2), b.u(0.3, 0.7), b.u(0.8, 0.96)):
        width = b.u(0.025, 0.05)
        b.box(x - width, 0, x + width, 0.84, b.vary((58, 52, 30), 8))
    b.fade((34, 84, 36), (14, 50, 24), 0.78, 1)
    for shade in ((18, 88, 44), (34, 122, 52), (74, 160, 58)):
        leaves = []
        for side in (0.0, 1.0):
            for _ in range(4):
                angle = b.u(-0.9, 0.9) + math.pi * side
                leaves.append(b.leaf(side + b.u(-0.04, 0.04), b.u(0.02, 0.98), angle, b.u(0.2, 0.34), b.u(0.08, 0.13)))
        leaves += [b.leaf(b.u(), -0.03, b.u(0.7, 2.4), b.u(0.16, 0.26), 0.08) for _ in range(3)]
        b.curves(leaves, 0, b.vary(shade, 14), fill=True)
    x = b.pick((b.u(0.1, 0.28), b.u(0.72, 0.9)))
    b.curves([(x, 0, x + 0.12, b.u(0.2, 0.3), x + b.u(-0.05, 0.05), b.u(0.4, 0.55))], 0.022, (112, 148, 50))
    b.dots(
        [(b.pick((0.08, 0.92)) + b.u(-0.05, 0.05), b.u(0.3, 0.95)) for _ in range(2)], 0.07, hsv(b.u(0.9, 1.12), 0.8, 1)
    )


def snow(b: Brush) -> None:
    """White drifts, snow-capped firs, falling flakes."""
    sky(b, 0.6, b.vary(b.pick(((128, 164, 206), (110, 176, 240), (150, 156, 190)))), (222, 232, 246))
    b.wave(b.u(0.42, 0.5), 0.12, 0.9, (206, 220, 240))
    for x in sorted((b.u(0.02, 0.2), b.u(0.8, 0.98), b.u(0.0, 0.34), b.u(0.66, 1.0))):
        fir(b, x, b.u(0.54, 0.66), b.u(0.3, 0.48), b.vary((40, 98, 88), 14), snow=True)
    b.wave(0.62, 0.05, 0.8, (244, 248, 255))
    b.wave(0.8, 0.05, 1.0, (226, 235, 250))
    b.wave(0.86, 0.05, 1.1, (250, 252, 255))
    b.dots([(b.u(), b.u(0, 0.62)) for _ in range(26)], 0.026, WHITE)


def beach(b: Brush) -> None:
    """Sea, surf and sand with a palm or a parasol, the sun and a starfish."""
    shore, sea = b.u(0.5, 0.58), b.u(0.3, 0.38)
    sky(b, sea + 0.02, b.vary((96, 186, 246)), (206, 238, 255), b.count(0, 1))
    b.oval(b.pick((b.u(0.1, 0.25), b.u(0.75, 0.9))), b.u(0.08, 0.16), 0.075, 0.075, (255, 232, 90))
    b.fade(b.vary((14, 108, 192), 10), b.vary((50, 190, 208), 10), sea, shore + 0.05)
    b.wave(shore, 0.02, 0.4, WHITE)
    b.wave(shore + 0.03, 0.02, 0.4, b.vary((214, 178, 124), 8))
    sand = b.vary((246, 216, 152), 8)
    b.wave(shore + 0.07, 0.02, 0.5, sand)
    b.curves(
        [(0, y, b.u(0.3, 0.7), y + b.u(-0.06, 0.06), 1, y) for y in (0.74, 0.86, 0.95)],
        0.016,
        mix(sand, (150, 100, 50), 0.2),
    )
    side = b.sign()
    if b.u() < 0.6:
        palm(b, 0.5 + side * b.u(0.38, 0.44), b.u(0.64, 0.7), b.u(0.14, 0.22), -side * b.u(0.0, 0.06))
    else:
        x, y = 0.5 + side * b.u(0.32, 0.36), b.u(0.3, 0.36)
        b.lines([(x, y, x, 0.72)], 0.02, (240, 240, 240))
        cloth = hsv(b.u(), 0.75, 0.95)
        b.curves([(x - 0.2, y, x - 0.17, y - 0.18, x, y - 0.18, x + 0.17, y - 0.18, x + 0.2, y)], 0, cloth, fill=True)
        b.curves([(x - 0.07, y, x - 0.06, y - 0.17, x, y - 0.18, x + 0.06, y - 0.17, x + 0.07, y)], 0, WHITE, fill=True)
    x, y = 0.5 - side * b.u(0.32, 0.44), b.u(0.8, 0.94)
    turn = b.u()
    b.lines(
        [(x, y, x + 0.055 * math.cos(turn + k * 1.257), y + 0.045 * math.sin(turn + k * 1.257)) for k in range(5)],
        0.03,
        (240, 110, 80),
    )


def mountain(b: Brush) -> None:
    """Three snow-capped peaks behind green hills."""
    base = b.u(0.6, 0.66)
    sky(b, base, b.vary((88, 164, 240)), (214, 236, 255), b.count(0, 2))
    rock = b.vary(b.pick(((104, 110, 138), (122, 108, 128), (96, 116, 134))), 10)
    peaks = [
        (b.u(0.36, 0.64), b.u(0.22, 0.34), 0.34),
        (b.u(0.06, 0.24), b.u(0.08, 0.26), 0.36),
        (b.u(0.76, 0.94), b.u(0.08, 0.26), 0.36),
    ]
    for x, y, half in peaks:
        tall = base - y
        b.poly([(x - half, base), (x, y), (x + half, base)], rock)
        b.poly([(x, y), (x + half, base), (x + half * 0.1, base), (x - 0.03, y + tall * 0.5)], mix(rock, BLACK, 0.22))
        f = b.u(0.32, 0.4)
        zig = [
            (x + half * f * k, y + tall * (f if i % 2 == 0 else f * 0.7)) for i, k in enumerate((1, 0.5, 0, -0.5, -1))
        ]
        b.poly([(x, y), *zig], (250, 252, 255))
    b.wave(base - 0.02, 0.05, 0.7, b.vary((66, 128, 84), 8))
    b.wave(base + 0.06, 0.04, 0.9, b.vary((110, 178, 80), 10))
    b.wave(0.86, 0.03, 1.0, b.vary((94, 162, 68), 8))


def rug_in_forest(b: Brush) -> None:
    """A purple rug, round or square, between brown trunks under green leaves."""
    b.fade(b.vary((112, 158, 110)), b.vary((48, 92, 54), 8), 0, 0.62)
    b.glow(b.u(0.3, 0.7), 0.12, 0.5, (240, 246, 190), 0.6)
    b.boxes([(x - 0.02, 0, x + 0.02, 0.6) for x in (b.u(0.1, 0.3), b.u(0.35, 0.6), b.u(0.65, 0.9))], (84, 92, 66))
    b.fade((98, 92, 50), b.vary((66, 58, 32), 8), 0.54)
    bark = b.vary((96, 62, 40), 10)
    for x in (b.u(0.03, 0.14), b.u(0.24, 0.34), b.u(0.68, 0.78), b.u(0.87, 0.97)):
        width, foot = b.u(0.035, 0.055), b.u(0.58, 0.68)
        b.poly([(x - width, 0), (x + width, 0), (x + width * 1.15, foot), (x - width * 1.15, foot)], bark)
        b.box(x + width * 0.3, 0, x + width, foot, mix(bark, BLACK, 0.25))
    green = b.vary((58, 128, 52), 12)
    b.ovals([(x, b.u(-0.02, 0.08), 0.13, 0.1) for x in (0.02, 0.22, 0.42, 0.6, 0.8, 1.0)], green)
    b.ovals(
        [(x + b.u(-0.05, 0.05), b.u(-0.05, 0.03), 0.1, 0.08) for x in (0.1, 0.32, 0.7, 0.9)],
        mix(green, (210, 230, 90), 0.25),
    )
    b.dots([(b.u(), b.u(0.6, 0.98)) for _ in range(14)], 0.03, (128, 116, 56))
    purple = hsv(b.u(0.755, 0.81), b.u(0.7, 0.85), b.u(0.62, 0.76))
    trim = mix(purple, b.pick((WHITE, (255, 214, 120), (255, 150, 230))), 0.65)
    y = 0.83
    if b.u() < 0.5:
        b.oval(0.5, y, 0.49, 0.155, mix(purple, BLACK, 0.2))
        b.oval(0.5, y - 0.01, 0.48, 0.145, purple)
        b.ring(0.5, y - 0.01, 0.42, 0.115, 0.02, trim)
    else:
        fringe = [(0.5 + k * 0.09, 0.96, 0.5 + k * 0.094, 0.99) for k in range(-5, 6)]
        b.lines(fringe + [(0.5 + k * 0.075, 0.7, 0.5 + k * 0.075, 0.68) for k in range(-5, 6)], 0.02, trim)
        b.poly([(0.1, 0.7), (0.9, 0.7), (1.0, 0.96), (0.0, 0.96)], purple)
        inner = [
            (0.15, 0.735, 0.85, 0.735),
            (0.85, 0.735, 0.92, 0.92),
            (0.92, 0.92, 0.08, 0.92),
            (0.08, 0.92, 0.15, 0.735),
        ]
        b.lines(inner, 0.02, trim)


def _wheat_ears(b: Brush, count: int, low: float, high: float, size: float, colour: RGB) -> None:
    stalks, ears = [], []
    for k in range(count):
        x, y, lean = (k + b.u()) / count, b.u(low, high), b.u(-0.04, 0.04)
        stalks.append((x, y + size * 2.6, x + lean, y))
        ears.append(b.leaf(x + lean * 0.8, y + size * 0.4, -math.pi / 2 + lean * 9, size * 1.5, size * 0.5))
    b.lines(stalks, 0.015, mix(colour, (130, 80, 10), 0.35))
    b.curves(ears, 0, colour, fill=True)


def wheat_field(b: Brush) -> None:
    """Rows of golden ears under a blue sky."""
    horizon, gold = b.u(0.36, 0.44), b.vary((232, 184, 66), 10)
    sky(b, horizon, b.vary((92, 172, 240)), (226, 242, 252), b.count(1, 2))
    b.ovals([(b.u(0, 1), horizon, b.u(0.1, 0.2), 0.05) for _ in range(3)], (112, 150, 84))
    b.fade(mix(gold, WHITE, 0.25), mix(gold, (160, 100, 20), 0.3), horizon)
    _wheat_ears(b, 13, horizon, horizon + 0.05, 0.05, mix(gold, (180, 120, 20), 0.25))
    _wheat_ears(b, 12, horizon + 0.12, horizon + 0.2, 0.065, mix(gold, WHITE, 0.2))
    _wheat_ears(b, 10, 0.7, 0.78, 0.08, mix(gold, (190, 120, 20), 0.2))


def autumn(b: Brush) -> None:
    """A tree with a red and yellow crown at one side, leaves falling and lying about."""
    base, side = b.u(0.62, 0.68), b.sign()
    sky(b, base, b.vary((178, 204, 224)), (250, 236, 214))
    b.wave(base - 0.06, 0.06, 0.7, b.vary((206, 150, 84), 10))
    b.fade(b.vary((196, 158, 78), 8), b.vary((160, 108, 52), 8), base)
    x = 0.5 + side * b.u(0.3, 0.38)
    bark = (92, 60, 44)
    b.poly([(x - 0.07, base + 0.08), (x - 0.035, 0.2), (x + 0.035, 0.2), (x + 0.07, base + 0.08)], bark)
    b.lines([(x, 0.4, x - side * 0.18, 0.22), (x, 0.46, x + side * 0.12, 0.28)], 0.035, bark)
    hues = [hsv(h, 0.85, v) for h, v in ((0.01, 0.82), (0.055, 0.94), (0.09, 0.98), (0.13, 1.0))]
    for k, hue in enumerate(hues):
        crown = [
            (x + b.u(-0.3, 0.3), b.u(0.0, 0.3) - 0.01 * k, s, s * 0.8) for s in (b.u(0.08, 0.13) for _ in range(6))
        ]
        b.ovals(crown, b.vary(hue, 12))
    for hue in hues:
        fallen = [b.leaf(b.u(), b.u(base + 0.04, 0.99), b.u(0, math.tau), 0.068, 0.032) for _ in range(7)]
        falling = [
            b.leaf(0.5 - side * b.u(-0.1, 0.46), b.u(0.1, base), b.u(0, math.tau), 0.065, 0.03) for _ in range(3)
        ]
        b.curves(fallen + falling, 0, b.vary(hue, 12), fill=True)


def _ripples(b: Brush, count: int, low: float, high: float, colour: RGB, alpha: float = 0.8) -> None:
    arcs = []
    for k in range(count):
        x, y = b.u(-0.05, 1), low + (k + b.u()) / count * (high - low)
        wide = 0.05 + 0.09 * y
        arcs.append((x - wide, y, x - wide / 2, y - wide * 0.5, x, y, x + wide / 2, y + wide * 0.4, x + wide, y))
    b.curves(arcs, 0.02, colour, alpha)


def water(b: Brush) -> None:
    """Blue water up to the top, with ripples."""
    hue = b.u(0.53, 0.6)
    b.fade(hsv(hue - 0.02, b.u(0.45, 0.6), 0.94), hsv(hue + 0.02, 0.92, b.u(0.5, 0.62)))
    for k in range(4):
        b.wave(0.16 + 0.2 * k + b.u(-0.03, 0.03), 0.05, 0.5, hsv(hue + 0.015, 0.9, 0.5), alpha=0.18)
    _ripples(b, 11, 0.05, 0.98, hsv(hue - 0.03, 0.2, 1.0))


def milk(b: Brush) -> None:
    """Rolling cream-white waves and drops under a coloured sky."""
    horizon = b.u(0.2, 0.28)
    top = b.pick(((255, 170, 144), (250, 176, 204), (186, 166, 236), (255, 200, 120)))
    b.fade(b.vary(top, 8), mix(top, WHITE, 0.5), 0, horizon + 0.08)
    b.oval(b.u(0.15, 0.85), horizon - 0.03, 0.09, 0.09, (255, 246, 214))
    shade = mix((236, 216, 196), top, 0.12)
    b.wave(horizon, 0.025, 0.3, (255, 250, 240), low=(horizon + 0.16, shade))
    b.wave(horizon + 0.13, 0.045, 0.42, (255, 252, 245), low=(horizon + 0.34, shade))
    b.wave(horizon + 0.3, 0.06, 0.55, (255, 252, 245), low=(horizon + 0.58, shade))
    b.wave(horizon + 0.53, 0.07, 0.7, (255, 253, 248), low=(horizon + 0.85, shade))
    for x in (b.u(0.06, 0.24), b.u(0.76, 0.94)):
        y = horizon + b.u(-0.02, 0.04)
        drops = [
            (x, y - 0.06, 0.036),
            (x - 0.06, y - 0.02, 0.026),
            (x + 0.055, y - 0.03, 0.026),
            (x + 0.02, y - 0.13, 0.022),
        ]
        b.ovals([(dx, dy, r, r * 1.15) for dx, dy, r in drops], (255, 253, 248))
        b.ovals([(x, y + 0.02, 0.1, 0.045)], (255, 253, 248))


def sunflowers(b: Brush) -> None:
    """Green grass with sunflowers at both sides."""
    horizon = b.u(0.3, 0.4)
    sky(b, horizon + 0.02, b.vary((120, 196, 250)), (220, 242, 255), b.count(0, 1))
    meadow(b, horizon, b.vary((84, 176, 66), 10), 16)
    for low, high, size in ((0.28, 0.4, 0.09), (0.48, 0.6, 0.115), (0.72, 0.84, 0.13)):
        for x in (b.u(0.06, 0.2), b.u(0.8, 0.94)):
            y = b.u(low, high)
            sunflower(b, x, y, size * b.u(0.9, 1.1), min(y + 0.3, 1.0))


def dirt_road(b: Brush) -> None:
    """A brown road with ruts towards the horizon, a fence at one side."""
    horizon, bend = b.u(0.34, 0.42), b.u(-0.12, 0.12)
    sky(b, horizon, b.vary((142, 192, 232)), (240, 238, 222), b.count(0, 2))
    b.wave(horizon - 0.05, 0.06, 0.6, b.vary((118, 140, 96), 10))
    grass = b.vary(b.pick(((128, 158, 74), (150, 156, 80), (104, 146, 70))), 8)
    meadow(b, horizon, grass, 12)
    dirt, far = b.vary((164, 116, 74), 10), 0.5 + bend

    def strip(left: float, right: float) -> tuple[float, ...]:
        near, middle = 0.5 + left, 0.5 - bend / 2 + left * 0.5
        back, end = 0.5 - bend / 2 + right * 0.5, far + right * 0.12
        outline = (far + left * 0.12, horizon, middle, 0.62, near, 1.01, 0.5, 1.01, 0.5 + right, 1.01)
        return (*outline, back, 0.62, end, horizon)

    b.curves([strip(-0.6, 0.6)], 0, mix(dirt, BLACK, 0.14), fill=True)
    b.curves([strip(-0.54, 0.54)], 0, dirt, fill=True)
    b.curves([strip(-0.36, -0.2), strip(0.2, 0.36)], 0, mix(dirt, (80, 44, 20), 0.42), fill=True)
    b.dots([(b.u(0.2, 0.8), b.u(0.8, 0.98)) for _ in range(9)], 0.03, mix(dirt, WHITE, 0.35))
    side = b.sign()
    posts = [(0.5 + side * d, y, h) for d, y, h in ((0.2, 0.47, 0.1), (0.3, 0.54, 0.15), (0.45, 0.65, 0.23))]
    b.lines([(x, y, x, y - h) for x, y, h in posts], 0.03, (104, 76, 52))
    ends = [(*posts[k][:2], *posts[k + 1][:2], posts[k][2], posts[k + 1][2]) for k in (0, 1)]
    b.lines(
        [(x0, y0 - f * h0, x1, y1 - f * h1) for x0, y0, x1, y1, h0, h1 in ends for f in (0.45, 0.8)],
        0.016,
        (126, 96, 66),
    )


def _blades(b: Brush, colours: tuple[RGB, ...], count: int, height: float) -> None:
    for colour in colours:
        blades = []
        for _ in range(count):
            blades.append(b.leaf(b.u(), 1.02, -math.pi / 2 + b.u(-0.35, 0.35), height * b.u(0.6, 1.0), 0.024))
        b.curves(blades, 0, b.vary(colour, 10), fill=True)


def front_jungle(b: Brush) -> None:
    """Leaves and blades from below."""
    stalks = ((0.0, -1.1), (0.12, -1.9), (0.88, -1.2), (1.0, -2.0))
    b.curves(
        [b.leaf(x, 1.03, a + b.u(-0.2, 0.2), b.u(0.2, 0.28), 0.09) for x, a in stalks],
        0,
        b.vary((58, 150, 60), 14),
        fill=True,
    )
    _blades(b, ((36, 112, 48),), 8, 0.1)


def front_snow(b: Brush) -> None:
    """A drift over the feet and some flakes."""
    b.wave(0.88, 0.03, 0.6, (234, 241, 252))
    b.wave(0.895, 0.03, 0.6, (251, 253, 255))
    b.dots([(b.u(), b.u()) for _ in range(5)], 0.028, WHITE, 0.95)


def front_grass(b: Brush) -> None:
    """Blades of grass."""
    _blades(b, ((70, 142, 54), (104, 180, 72)), 9, 0.11)


def front_wheat(b: Brush) -> None:
    """Ears of wheat."""
    _wheat_ears(b, 7, 0.89, 0.96, 0.07, (238, 190, 74))


def front_autumn(b: Brush) -> None:
    """Fallen leaves."""
    for hue in (0.02, 0.07, 0.12):
        leaves = [b.leaf(b.u(), b.u(0.9, 0.99), b.u(0, math.tau), 0.075, 0.036) for _ in range(3)]
        b.curves(leaves, 0, hsv(hue, 0.85, 0.95), fill=True)


def front_water(b: Brush) -> None:
    """Half-clear water over the feet, with crests."""
    b.wave(0.815, 0.035, 0.26, (34, 132, 208), alpha=0.6)
    b.wave(0.9, 0.03, 0.3, (18, 96, 178), alpha=0.3)
    crests = [
        (x - 0.09, y, x - 0.045, y - 0.04, x, y, x + 0.045, y + 0.035, x + 0.09, y)
        for x, y in ((b.u(0.22, 0.38), 0.85), (b.u(0.6, 0.78), 0.865), (b.u(0.3, 0.7), 0.94))
    ]
    b.curves(crests, 0.022, (226, 247, 255), 0.9)


def front_milk(b: Brush) -> None:
    """Two waves of milk over the feet."""
    shade = (236, 216, 198)
    b.wave(0.815, 0.03, 0.3, (255, 253, 248), low=(0.96, shade))
    b.wave(0.91, 0.03, 0.36, (255, 253, 248), low=(1.06, shade))
