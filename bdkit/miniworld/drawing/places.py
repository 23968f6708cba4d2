"""Painters of the mini world's backgrounds that people made: streets, rooms, a house, a tower, the studio."""

from __future__ import annotations

import math

from bdkit.miniworld.drawing.brush import BLACK, WHITE, Brush, hsv, mix
from bdkit.miniworld.drawing.scenery import bush, eiffel, meadow, person, sky


def cobblestone(b: Brush) -> None:
    """Rounded stones, larger towards the viewer, and a row of old houses."""
    tint = b.vary((122, 120, 122), 14)
    horizon = b.u(0.2, 0.3)
    x = -b.u(0, 0.15)
    while x < 1:
        wide, wall = b.u(0.18, 0.28), b.vary(b.pick(((196, 150, 112), (178, 122, 96), (206, 186, 150))), 12)
        b.box(x, 0, x + wide, horizon, wall)
        b.boxes([(x + wide * f, 0.03, x + wide * (f + 0.25), horizon - 0.09) for f in (0.15, 0.6)], (70, 62, 66))
        x += wide
    b.fade(mix(tint, BLACK, 0.62), mix(tint, BLACK, 0.5), horizon)
    shades: list[list[tuple[float, float, float, float]]] = [[], [], [], []]
    y, height, row = horizon + 0.008, 0.055, 0
    while y < 1:
        wide = height * 1.45
        x = 0.5 - (9 if row % 2 else 8.5) * wide
        x += wide * int(-x / wide)
        while x < 1:
            shades[int(b.u() * 4)].append((x - wide * 0.44, y, x + wide * 0.44, y + height * 0.84))
            x += wide
        y, height, row = y + height, height * 1.13, row + 1
    for stones, share in zip(shades, (-0.12, 0.0, 0.14, 0.28), strict=True):
        b.boxes(stones, mix(tint, WHITE, share) if share > 0 else mix(tint, BLACK, -share), 0.03)


def pink_fabric(b: Brush) -> None:
    """Pink cloth in soft folds."""
    pink = hsv(b.u(0.905, 0.95), b.u(0.38, 0.58), 1.0)
    b.fade(mix(pink, WHITE, 0.12), mix(pink, (200, 40, 110), 0.16))
    slope, count = b.u(-0.4, 0.4), b.count(5, 7)
    for k in range(count):
        y = (k + b.u(0.2, 0.8)) / count
        bend, lift = b.u(-0.16, 0.16), slope * 0.5
        fold = (-0.05, y - lift, 0.25, y - lift / 2 + bend, 0.5, y, 0.75, y + lift / 2 - bend, 1.05, y + lift)
        lower = tuple(v + (0.035 if i % 2 else 0) for i, v in enumerate(fold))
        b.curves([lower], b.u(0.06, 0.09), mix(pink, (190, 30, 100), 0.4), 0.55)
        b.curves([fold], b.u(0.03, 0.05), mix(pink, WHITE, 0.6), 0.8)


def wooden_floor(b: Brush) -> None:
    """Planks towards the viewer, a pale wall behind."""
    horizon = b.u(0.24, 0.36)
    wall = hsv(b.u(), b.u(0.06, 0.22), b.u(0.86, 0.96))
    b.fade(wall, mix(wall, BLACK, 0.08), 0, horizon)
    b.box(0, horizon - 0.06, 1, horizon, (250, 248, 242))
    wood = b.vary(b.pick(((184, 118, 62), (158, 96, 50), (206, 146, 84))), 10)
    b.box(0, horizon, 1, 1, wood)
    eye, shift = horizon - 0.35, b.u()
    tones: list[list[list[tuple[float, float]]]] = [[], [], []]
    seams, joints = [], []

    def across(at: float, y: float) -> float:
        return 0.5 + at * (y - eye) / (1 - eye)

    for k in range(-9, 10):
        left, right = (k + shift) * 0.15, (k + 1 + shift) * 0.15
        plank = [
            (across(left, horizon), horizon),
            (across(right, horizon), horizon),
            (across(right, 1), 1),
            (across(left, 1), 1),
        ]
        tones[int(b.u() * 3)].append(plank)
        seams.append((across(left, horizon), horizon, across(left, 1), 1.0))
        y = b.u(horizon + 0.06, 0.95)
        joints.append((across(left, y), y, across(right, y), y))
    for polygons, share in zip(tones, (0.0, 0.13, 0.24), strict=True):
        b.polys(polygons, mix(wood, (80, 40, 14), share))
    b.lines(seams + joints, 0.014, mix(wood, (60, 26, 6), 0.55))


def city(b: Brush) -> None:
    """A skyline with lit windows at dusk, a road in front."""
    top, low = b.pick(
        (((62, 58, 128), (250, 166, 120)), ((44, 70, 150), (186, 170, 214)), ((92, 74, 140), (252, 196, 150)))
    )
    base = b.u(0.62, 0.7)
    b.fade(b.vary(top), b.vary(low), 0, base)
    far, near = [], []
    windows: list[tuple[float, float, float, float]] = []
    dim: list[tuple[float, float, float, float]] = []
    x = -0.05
    while x < 1:
        wide = b.u(0.09, 0.16)
        far.append((x, b.u(0.14, 0.42), x + wide, base))
        x += wide
    x = -b.u(0, 0.1)
    while x < 1:
        wide, height = b.u(0.13, 0.2), b.u(0.2, 0.3) + 0.75 * abs(x - 0.42) * b.u(0.3, 0.9)
        near.append((x, base - height, x + wide - 0.012, base))
        for column in range(int(wide / 0.05)):
            for level in range(int(height / 0.062)):
                left, up = x + 0.016 + column * 0.05, base - height + 0.025 + level * 0.062
                (windows if b.u() < 0.6 else dim).append((left, up, left + 0.026, up + 0.032))
        x += wide
    b.boxes(far, mix(low, (44, 44, 86), 0.6))
    b.boxes(near, b.vary((40, 40, 66), 8))
    b.boxes(dim, (70, 72, 104))
    b.boxes(windows, (255, 222, 120))
    b.fade((112, 110, 124), (82, 82, 96), base)
    b.box(0, base, 1, base + 0.03, (168, 166, 176))
    b.boxes([(x, 0.93, x + 0.13, 0.955) for x in (0.04, 0.29, 0.54, 0.79)], (232, 226, 190))


def blue_house(b: Brush) -> None:
    """A blue house at one side, a fence and a bush at the other."""
    base, side = b.u(0.64, 0.7), b.sign()
    sky(b, base, b.vary((140, 206, 250)), (228, 244, 255), b.count(0, 1))
    meadow(b, base - 0.03, b.vary((112, 186, 84), 10), 10)
    x, half, top = 0.5 + side * b.u(0.2, 0.24), b.u(0.27, 0.3), b.u(0.28, 0.34)
    blue, roof = b.vary((40, 104, 220), 14), b.vary(b.pick(((172, 52, 44), (122, 62, 54), (96, 74, 96))), 10)
    b.box(x + half * 0.35, top - 0.24, x + half * 0.6, top, (150, 84, 70))
    b.box(x - half, top, x + half, base, blue)
    b.lines([(x - half, y, x + half, y) for y in (top + 0.1, top + 0.19, top + 0.28)], 0.012, mix(blue, BLACK, 0.16))
    b.poly(
        [(x - half - 0.06, top), (x - half * 0.55, top - 0.2), (x + half * 0.55, top - 0.2), (x + half + 0.06, top)],
        roof,
    )
    for window in (x - half * 0.62, x + half * 0.62):
        b.box(window - 0.065, top + 0.06, window + 0.065, top + 0.2, WHITE)
        b.box(window - 0.045, top + 0.08, window + 0.045, top + 0.18, (255, 232, 150))
        b.lines([(window, top + 0.08, window, top + 0.18)], 0.016, WHITE)
    b.box(x - 0.05, base - 0.2, x + 0.05, base, (244, 240, 230))
    bush(b, 0.5 - side * b.u(0.36, 0.44), base - 0.02, b.u(0.1, 0.14), b.vary((64, 150, 66), 10))
    posts = 0.5 - side * 0.5
    b.boxes(
        [
            (
                posts + side * (0.03 + 0.07 * k) - 0.014,
                base - 0.01,
                posts + side * (0.03 + 0.07 * k) + 0.014,
                base + 0.1,
            )
            for k in range(4)
        ],
        WHITE,
    )
    b.lines([(posts, base + 0.045, posts + side * 0.27, base + 0.045)], 0.02, WHITE)


def eiffel_tower(b: Brush) -> None:
    """The tower at one side, roofs, hedges and a gravel path."""
    base, side = b.u(0.68, 0.72), b.sign()
    top, low = b.pick(
        (((124, 184, 240), (236, 242, 250)), ((150, 160, 226), (255, 214, 196)), ((250, 180, 150), (255, 232, 196)))
    )
    sky(b, base, b.vary(top), low, b.count(0, 1))
    b.boxes(
        [(x, base - b.u(0.1, 0.17), x + 0.11, base) for x in (0.0, 0.12, 0.24, 0.36, 0.5, 0.62, 0.75, 0.88)],
        mix(low, (120, 116, 140), 0.5),
    )
    eiffel(b, 0.5 + side * b.u(0.26, 0.32), base, base - b.u(0.03, 0.08), b.vary((112, 86, 70), 10))
    hedge = b.vary((78, 138, 72), 10)
    b.ovals([(0.5 - side * b.u(0.2, 0.5), base, 0.08, 0.08) for _ in range(3)], hedge)
    b.box(0, base, 1, 1, b.vary((226, 208, 174), 8))
    b.poly([(0, base), (0.3, base), (0, 0.94)], hedge)
    b.poly([(1, base), (0.7, base), (1, 0.94)], hedge)
    b.box(0, base - 0.012, 1, base + 0.015, mix(hedge, BLACK, 0.2))


def mirror(b: Brush) -> None:
    """A mirror in a golden frame that lies on a dark table, oval or square."""
    wall = hsv(b.u(0.84, 1.0), b.u(0.25, 0.45), b.u(0.4, 0.52))
    b.fade(mix(wall, WHITE, 0.18), wall, 0, 0.46)
    b.fade(mix(wall, BLACK, 0.4), mix(wall, BLACK, 0.55), 0.44)
    b.box(0, 0.42, 1, 0.45, mix(wall, WHITE, 0.35))
    frame = b.pick(((222, 174, 72), (240, 198, 104), (208, 150, 70)))
    shade, silver, shine = mix(frame, BLACK, 0.35), b.vary((166, 184, 200), 8), (244, 250, 255)
    streaks = [
        (x - 0.1 * high, 0.74 + high / 2, x + 0.42 * high, 0.74 - high / 2)
        for x, high in ((0.12 + b.u(0, 0.04), 0.2), (0.23, 0.3), (0.66, 0.32), (0.74 + b.u(0, 0.05), 0.24))
    ]
    if b.u() < 0.55:
        rim = [
            (0.5 + 0.455 * math.cos(k * math.tau / 30), 0.735 + 0.215 * math.sin(k * math.tau / 30)) for k in range(30)
        ]
        b.dots([(x, y + 0.025) for x, y in rim], 0.07, shade)
        b.dots(rim, 0.07, frame)
        b.oval(0.5, 0.735, 0.45, 0.215, frame)
        b.oval(0.5, 0.735, 0.42, 0.185, silver)
        b.lines(streaks[1:3], 0.05, shine)
    else:
        b.poly([(0.08, 0.53), (0.92, 0.53), (1.02, 0.99), (-0.02, 0.99)], shade)
        b.poly([(0.08, 0.51), (0.92, 0.51), (1.02, 0.96), (-0.02, 0.96)], frame)
        b.poly([(0.13, 0.55), (0.87, 0.55), (0.95, 0.91), (0.05, 0.91)], silver)
        b.lines(streaks[1:3], 0.05, shine)
    b.lines([streaks[0], streaks[3]], 0.022, shine)


def crowded_street(b: Brush) -> None:
    """A pavement of slabs with people at both sides, shops behind."""
    base = 0.6
    x = -b.u(0, 0.2)
    while x < 1:
        wide, wall = b.u(0.26, 0.34), hsv(b.u(), b.u(0.1, 0.35), b.u(0.68, 0.9))
        awning = hsv(b.u(), 0.7, 0.88)
        b.box(x, 0, x + wide, base, wall)
        b.boxes([(x + wide * f, 0.03, x + wide * (f + 0.26), 0.14) for f in (0.15, 0.58)], (76, 92, 118))
        b.box(x + 0.03, 0.26, x + wide - 0.03, base, (92, 100, 122))
        b.poly([(x + 0.02, 0.2), (x + wide - 0.02, 0.2), (x + wide, 0.29), (x, 0.29)], awning)
        b.polys(
            [
                [(x + wide * f, 0.2), (x + wide * (f + 0.17), 0.2), (x + wide * (f + 0.17), 0.29), (x + wide * f, 0.29)]
                for f in (0.2, 0.6)
            ],
            WHITE,
        )
        x += wide
    pavement = b.vary((186, 184, 184), 6)
    b.fade(mix(pavement, BLACK, 0.08), pavement, base)
    b.lines(
        [(0.5 + k * 0.17, base, 0.5 + k * 0.34, 0.93) for k in range(-3, 4)] + [(0, y, 1, y) for y in (0.69, 0.8)],
        0.014,
        mix(pavement, BLACK, 0.22),
    )
    b.box(0, 0.925, 1, 0.955, (226, 224, 220))
    b.box(0, 0.955, 1, 1, (74, 76, 84))
    skins = ((255, 214, 180), (226, 170, 126), (150, 98, 66), (104, 66, 46))
    hairs = ((40, 30, 28), (110, 66, 34), (226, 186, 96), (70, 70, 76))
    spots = [
        (0.34, 0.64, 0.34),
        (0.64, 0.64, 0.34),
        (0.22, 0.68, 0.42),
        (0.78, 0.68, 0.42),
        (0.07, 0.78, 0.52),
        (0.93, 0.78, 0.52),
    ]
    for x, foot, height in spots:
        shirt, trousers = hsv(b.u(), b.u(0.5, 0.9), b.u(0.7, 1)), hsv(b.u(0.5, 0.75), 0.5, b.u(0.2, 0.5))
        x, foot = x + b.u(-0.04, 0.04), foot + b.u(-0.01, 0.03)
        person(b, x, foot, height * b.u(0.9, 1.08), shirt, trousers, b.pick(skins), b.pick(hairs))


def white_rug(b: Brush) -> None:
    """A tufted white rug, round or square, on a dark floor."""
    wall, floor = hsv(b.u(0.4, 0.62), b.u(0.25, 0.45), b.u(0.5, 0.7)), b.vary((92, 70, 62), 10)
    b.fade(mix(wall, WHITE, 0.1), wall, 0, 0.44)
    b.box(0, 0.4, 1, 0.44, (240, 240, 236))
    b.fade(mix(floor, WHITE, 0.08), mix(floor, BLACK, 0.2), 0.44)
    cream, shade = b.vary((247, 245, 240), 4), (208, 202, 196)
    side = b.sign()
    x = 0.5 + side * b.u(0.32, 0.38)
    b.box(x - 0.12, 0.08, x + 0.12, 0.28, (250, 246, 236))
    b.fade(hsv(b.u(), 0.5, 0.9), hsv(b.u(), 0.5, 0.75), 0.11, 0.25, x - 0.09, x + 0.09)
    if b.u() < 0.5:
        edge = [
            (0.5 + 0.46 * math.cos(k * math.tau / 22), 0.76 + 0.19 * math.sin(k * math.tau / 22)) for k in range(22)
        ]
        b.dots([(x, y + 0.02) for x, y in edge], 0.09, shade)
        b.dots(edge, 0.09, cream)
        b.oval(0.5, 0.76, 0.47, 0.2, cream)
    else:
        b.lines(
            [(0.5 + k * 0.075, 0.55, 0.5 + k * 0.078, 0.525) for k in range(-5, 6)]
            + [(0.5 + k * 0.092, 0.94, 0.5 + k * 0.096, 0.98) for k in range(-5, 6)],
            0.026,
            shade,
        )
        b.poly([(0.1, 0.55), (0.9, 0.55), (1.0, 0.95), (0.0, 0.95)], cream)
    tufts = []
    for _ in range(22):
        x, y = b.u(0.14, 0.86), b.u(0.61, 0.91)
        tufts.append((x - 0.025, y, x, y + 0.03, x + 0.025, y))
    b.curves(tufts, 0.014, (216, 211, 206))


def studio(b: Brush) -> None:
    """Any one colour, plain, graded or lit from the middle."""
    hue, saturation, value = b.u(), b.u(0.0, 0.6), b.u(0.45, 1.0)
    colour, kind = hsv(hue, saturation, value), b.u()
    if kind < 0.3:
        b.box(0, 0, 1, 1, colour)
    elif kind < 0.65:
        b.fade(mix(colour, WHITE, b.u(0, 0.4)), mix(colour, BLACK, b.u(0, 0.3)))
    else:
        b.fade(colour, mix(colour, BLACK, 0.18))
        b.glow(0.5 + b.u(-0.2, 0.2), b.u(0.35, 0.6), 0.7, mix(colour, WHITE, 0.6), 0.7)
