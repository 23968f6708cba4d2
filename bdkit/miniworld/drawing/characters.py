"""Stuffed animal, toy (a wind-up robot) and cartoon."""

from bdkit.miniworld.colours import INK, WHITE, shade
from bdkit.miniworld.drawing.patterns import EMBLEMS
from bdkit.miniworld.drawing.pen import Pen, blob, ellipse, lerp, line, polygon, rounded
from bdkit.miniworld.subjects import Subject


def draw_stuffed_animal(pen: Pen, subject: Subject, bend: float) -> None:
    """A plush animal that sits with its legs towards us and its arms out."""
    s = subject.shape
    rx, ry = lerp(0.25, 0.31, s[0]), lerp(0.21, 0.26, s[1])
    belly, high = lerp(0.24, 0.31, s[2]), lerp(0.42, 0.5, s[3])
    y = -high - ry * 0.72
    _plush_ears(pen, subject, y, rx, ry)
    for side in (-1, 1):
        lift = lerp(-0.02, 0.16, s[4]) + 0.06 * bend * side
        pen.limb([(side * belly * 0.6, -high + 0.1), (side * (belly + 0.14), -high + 0.17 - lift)], 0.2, pen.accent)
    body = ellipse(0, -high / 2, belly, high / 2 + 0.01)
    pen.patterned(body, (-belly, -high, belly, 0))
    kind = subject.part("belly")
    if kind == "patch" and subject.pattern not in EMBLEMS:
        pen.fill(ellipse(0, -high * 0.4, belly * 0.5, high * 0.27), pen.accent)
        pen.stroke(ellipse(0, -high * 0.4, belly * 0.5, high * 0.27), INK, 0.022)
    for side in (-1, 1):
        x = side * (belly * 0.92)
        sole = lerp(0.12, 0.15, s[5])
        pen.shape(ellipse(x, -sole + 0.01, sole, sole), pen.main)
        if subject.part("pads") == "pads":
            pen.dot(x, -sole + 0.02, sole * 0.55, pen.accent)
    pen.shape(ellipse(0, y, rx, ry), pen.main)
    wide = subject.part("muzzle") == "wide"
    mx, my = (rx * 0.55, ry * 0.45) if wide else (rx * 0.38, ry * 0.38)
    pen.shape(ellipse(0, y + ry * 0.42, mx, my), pen.accent, outline=0.025, volume=False)
    pen.fill(ellipse(0, y + ry * 0.24, 0.065, 0.045), INK)
    pen.stroke(line([(0, y + ry * 0.26), (0, y + ry * 0.5)]), INK, 0.026)
    pen.stroke(line([(-0.07, y + ry * 0.5), (0, y + ry * 0.59), (0.07, y + ry * 0.5)]), INK, 0.026)
    gap, eye = rx * lerp(0.4, 0.55, s[6]), lerp(0.045, 0.06, s[7])
    for side in (-1, 1):
        pen.dot(side * gap, y - ry * 0.18, eye)
        pen.dot(side * gap - 0.015, y - ry * 0.18 - 0.018, eye * 0.33, WHITE)
    if kind == "bow":
        by = -high + 0.05
        pen.shape(polygon([(0, by), (-0.16, by - 0.08), (-0.16, by + 0.09)]), pen.second, volume=False)
        pen.shape(polygon([(0, by), (0.16, by - 0.08), (0.16, by + 0.09)]), pen.second, volume=False)
        pen.shape(ellipse(0, by, 0.05), pen.second, volume=False)


def _plush_ears(pen: Pen, subject: Subject, y: float, rx: float, ry: float) -> None:
    size, kind = lerp(0.85, 1.2, subject.shape[8]), subject.part("ears")
    for side in (-1, 1):
        if kind == "round":
            x, top = side * rx * 0.75, y - ry * 0.72
            pen.shape(ellipse(x, top, 0.12 * size), pen.main, volume=False)
            pen.dot(x, top, 0.06 * size, pen.accent)
        elif kind == "long":
            x, top = side * rx * 0.5, y - ry * 0.8
            pen.limb([(x, top + 0.05), (x + side * 0.05, top - 0.2 * size)], 0.16, pen.main)
            pen.stroke(line([(x, top + 0.02), (x + side * 0.045, top - 0.17 * size)]), pen.accent, 0.06)
        elif kind == "pointed":
            pen.shape(
                polygon(
                    [
                        (side * rx * 0.95, y - ry * 0.3),
                        (side * rx * 0.2, y - ry * 0.85),
                        (side * rx * 0.9, y - ry - 0.16 * size),
                    ]
                ),
                pen.accent,
                volume=False,
            )
        else:
            pen.shape(
                blob(
                    [
                        (side * rx * 0.6, y - ry * 0.8),
                        (side * rx * 1.25, y - ry * 0.5),
                        (side * (rx + 0.14 * size), y + ry * 0.5),
                        (side * rx * 1.0, y + ry * 0.7),
                        (side * rx * 0.85, y - ry * 0.1),
                    ]
                ),
                pen.accent,
                volume=False,
            )


def draw_toy(pen: Pen, subject: Subject, bend: float) -> None:
    """A wind-up robot."""
    s = subject.shape
    half, high = lerp(0.27, 0.36, s[0]), lerp(0.38, 0.48, s[1])
    head, tall = lerp(0.2, 0.27, s[2]), lerp(0.23, 0.29, s[3])
    base = -0.17
    top = base - high
    _toy_base(pen, subject, half, bend)
    key = half + 0.1
    pen.limb([(half - 0.05, top + high * 0.6), (key + 0.02, top + high * 0.6)], 0.065, (150, 150, 160))
    for dy in (-0.075, 0.075):
        pen.shape(ellipse(key + 0.07, top + high * 0.6 + dy, 0.06, 0.075), (235, 190, 60), outline=0.035, volume=False)
    arms = subject.part("arms")
    for side in (-1, 1) if arms != "none" else ():
        hand = (side * (half + 0.17), top + 0.24 - 0.14 * bend * side)
        pen.limb([(side * half * 0.9, top + 0.09), (side * (half + 0.12), top + 0.1), hand], 0.095, pen.accent)
        if arms == "balls":
            pen.shape(ellipse(hand[0], hand[1] + 0.03, 0.075), pen.accent, volume=False)
        else:
            pen.limb([hand, (hand[0] - 0.06, hand[1] + 0.1)], 0.06, pen.accent, outline=0.03)
            pen.limb([hand, (hand[0] + 0.06, hand[1] + 0.1)], 0.06, pen.accent, outline=0.03)
    kind = subject.part("body")
    if kind == "box":
        body = rounded(-half, top, half, base, 0.06)
    elif kind == "round":
        body = rounded(-half, top, half, base, min(half, high / 2) * 0.95)
    else:
        body = polygon([(-half * 0.72, top), (half * 0.72, top), (half * 1.08, base), (-half * 1.08, base)])
    pen.patterned(body, (-half, top, half, base))
    low = top - 0.03
    pen.limb([(0, top + 0.01), (0, low - 0.02)], 0.13, shade(pen.accent, -0.25))
    _toy_antenna(pen, subject, low - tall, head, bend)
    for side in (-1, 1):
        pen.shape(
            rounded(side * head - 0.05, low - tall * 0.66, side * head + 0.05, low - tall * 0.28, 0.02),
            pen.accent,
            volume=False,
        )
    pen.shape(rounded(-head, low - tall, head, low, lerp(0.04, 0.13, s[4])), pen.main)
    count = {"one": 1, "two": 2, "three": 3}[subject.part("eyes")]
    eye = {1: 0.095, 2: 0.072, 3: 0.058}[count] * lerp(0.9, 1.1, s[5])
    for i in range(count):
        x = (i - (count - 1) / 2) * head * (1.0 if count == 2 else 0.68)
        pen.eye(x, low - tall * 0.6, eye, (255, 240, 120) if s[6] < 0.5 else (150, 240, 255), look=0.0)
    pen.fill(rounded(-head * 0.55, low - tall * 0.25, head * 0.55, low - tall * 0.08, 0.01), INK)
    for i in (-1, 0, 1):
        pen.fill(
            rounded(
                i * head * 0.34 - head * 0.11,
                low - tall * 0.215,
                i * head * 0.34 + head * 0.11,
                low - tall * 0.115,
                0.0,
            ),
            WHITE,
        )


def _toy_base(pen: Pen, subject: Subject, half: float, bend: float) -> None:
    kind = subject.part("base")
    if kind == "legs":
        for side in (-1, 1):
            lift = 0.035 * max(0.0, bend * side)
            pen.limb([(side * half * 0.52, -0.2), (side * half * 0.52, -0.08 - lift)], 0.13, pen.accent)
            pen.shape(
                rounded(side * half * 0.58 - 0.13, -0.105 - lift, side * half * 0.58 + 0.13, 0.0 - lift, 0.04),
                pen.accent,
                volume=False,
            )
    elif kind == "wheels":
        pen.shape(rounded(-half * 0.9, -0.22, half * 0.9, -0.1, 0.03), pen.accent, volume=False)
        for side in (-1, 1):
            pen.shape(ellipse(side * half * 0.72, -0.115, 0.115), (70, 68, 80), volume=False)
            pen.dot(side * half * 0.72, -0.115, 0.05, pen.second)
    else:
        pen.shape(rounded(-half - 0.1, -0.2, half + 0.1, 0.0, 0.1), (75, 72, 85), volume=False)
        for i in range(4):
            pen.dot(lerp(-half, half, i / 3), -0.1, 0.055, pen.accent)


def _toy_antenna(pen: Pen, subject: Subject, top: float, head: float, bend: float) -> None:
    kind = subject.part("antenna")
    long = lerp(0.09, 0.16, subject.shape[7])
    if kind == "two":
        for side in (-1, 1):
            pen.limb(
                [(side * head * 0.5, top + 0.03), (side * head * 0.8, top - long)],
                0.055,
                (120, 120, 130),
                outline=0.025,
            )
            pen.shape(ellipse(side * head * 0.8, top - long, 0.055), pen.second, outline=0.035, volume=False)
    elif kind == "bulb":
        pen.shape(ellipse(0, top - 0.06, 0.1, 0.12), (255, 90, 70))
    elif kind == "propeller":
        pen.limb([(0, top + 0.03), (0, top - long * 0.8)], 0.055, (120, 120, 130), outline=0.025)
        for side in (-1, 1):
            pen.shape(
                ellipse(side * 0.11, top - long * 0.8 - 0.02 * side * bend, 0.11, 0.045),
                pen.second,
                outline=0.035,
                volume=False,
            )
    else:
        pen.limb([(0, top + 0.03), (0.02 * bend, top - long)], 0.055, (120, 120, 130), outline=0.025)
        pen.shape(ellipse(0.02 * bend, top - long, 0.07), pen.second, outline=0.035, volume=False)


def draw_cartoon(pen: Pen, subject: Subject, bend: float) -> None:
    """A cartoon creature: one big face on thin legs, white gloves and shoes."""
    s = subject.shape
    half, high = lerp(0.31, 0.4, s[0]), lerp(0.64, 0.74, s[1])
    base = -lerp(0.13, 0.19, s[2])
    top = base - high
    middle = (base + top) / 2
    for side in (-1, 1):
        foot = side * (half * 0.5 + 0.05 * bend * side)
        pen.stroke(line([(side * half * 0.4, base - 0.05), (foot, -0.06)]), INK, 0.075)
        pen.shape(ellipse(foot + 0.05 * side, -0.06, 0.14, 0.065), pen.accent, volume=False)
    _cartoon_arms(pen, subject, half, middle, bend)
    _cartoon_top(pen, subject, half, top, bend)
    kind = subject.part("body")
    if kind == "egg":
        body = blob(
            [
                (0, top),
                (half * 0.72, top + high * 0.2),
                (half, middle + high * 0.15),
                (half * 0.68, base - 0.03),
                (0, base),
                (-half * 0.68, base - 0.03),
                (-half, middle + high * 0.15),
                (-half * 0.72, top + high * 0.2),
            ]
        )
    elif kind == "square":
        body = rounded(-half, top, half, base, 0.13)
    else:
        body = blob(
            [
                (0, top),
                (half * 0.86, top + high * 0.16),
                (half, top + high * 0.36),
                (half * 0.7, base - high * 0.22),
                (half * 0.5, base),
                (-half * 0.5, base),
                (-half * 0.7, base - high * 0.22),
                (-half, top + high * 0.36),
                (-half * 0.86, top + high * 0.16),
            ]
        )
    low = subject.pattern in EMBLEMS
    pen.patterned(body, (-half, top + high * (0.52 if low else 0), half, base))
    count = {"one": 1, "two": 2, "three": 3}[subject.part("eyes")]
    r = {1: 0.145, 2: 0.115, 3: 0.09}[count] * lerp(0.92, 1.08, s[4])
    y = top + high * lerp(0.24, 0.29, s[5])
    for i in range(count):
        pen.eye((i - (count - 1) / 2) * r * 1.95, y - (0.05 if count == 3 and i == 1 else 0.0), r, look=0.22)
    _cartoon_mouth(pen, subject, half * lerp(0.4, 0.54, s[6]), y + r + 0.065)


def _cartoon_arms(pen: Pen, subject: Subject, half: float, y: float, bend: float) -> None:
    kind = subject.part("arms")
    for side in (-1, 1):
        if kind == "up":
            points = [
                (side * half * 0.85, y + 0.06),
                (side * (half + 0.12), y + 0.02),
                (side * (half + 0.16), y - 0.18 - 0.05 * bend),
            ]
        elif kind == "down":
            points = [(side * half * 0.85, y), (side * (half + 0.1), y + 0.06), (side * (half + 0.13), y + 0.24)]
        else:
            points = [(side * half * 0.85, y), (side * (half + 0.19), y + 0.08), (side * (half + 0.04), y + 0.22)]
        pen.stroke(line(points), INK, 0.07)
        pen.shape(ellipse(*points[-1], 0.085), WHITE, volume=False)


def _cartoon_top(pen: Pen, subject: Subject, half: float, top: float, bend: float) -> None:
    kind, size = subject.part("head"), lerp(0.85, 1.2, subject.shape[7])
    if kind == "horns":
        for side in (-1, 1):
            pen.shape(
                blob(
                    [
                        (side * half * 0.35, top + 0.06),
                        (side * half * 0.45, top - 0.06),
                        (side * half * 0.85, top - 0.14 * size),
                        (side * half * 0.8, top + 0.02),
                        (side * half * 0.7, top + 0.16),
                    ]
                ),
                pen.accent,
                volume=False,
            )
    elif kind == "hair":
        points = [(-half * 0.6, top + 0.12)]
        for i, x in enumerate((-0.5, -0.25, 0.0, 0.25, 0.5)):
            points += [(x * half * 1.1, top - (0.15 if i % 2 == 0 else 0.2) * size), ((x + 0.12) * half, top + 0.01)]
        pen.shape(polygon([*points, (half * 0.6, top + 0.12)]), pen.accent, volume=False)
    elif kind == "leaf":
        pen.limb([(0, top + 0.04), (0.02, top - 0.08)], 0.06, (90, 60, 30), outline=0.025)
        for side in (-1, 1):
            pen.shape(
                blob(
                    [
                        (0.02, top - 0.06),
                        (side * 0.12, top - 0.17 * size),
                        (side * 0.24, top - 0.13 * size),
                        (side * 0.14, top - 0.04),
                    ]
                ),
                pen.accent,
                outline=0.035,
                volume=False,
            )
    else:
        for side in (-1, 1):
            x = side * half * 0.6 + 0.02 * bend
            pen.stroke(line([(side * half * 0.3, top + 0.05), (x, top - 0.13 * size)]), INK, 0.045)
            pen.shape(ellipse(x, top - 0.14 * size, 0.07), pen.accent, volume=False)


def _cartoon_mouth(pen: Pen, subject: Subject, half: float, y: float) -> None:
    kind = subject.part("mouth")
    if kind == "smile":
        pen.stroke(line([(-half, y - 0.02), (0, y + 0.07), (half, y - 0.02)]), INK, 0.055)
        return
    mouth = blob(
        [
            (-half, y - 0.03),
            (0, y - 0.005),
            (half, y - 0.03),
            (half * 0.6, y + 0.11),
            (0, y + 0.15),
            (-half * 0.6, y + 0.11),
        ]
    )
    pen.shape(mouth, (90, 10, 30), volume=False)
    if kind == "teeth":
        for x in (-half * 0.4, half * 0.4):
            pen.fill(polygon([(x - 0.055, y), (x + 0.055, y), (x, y + 0.09)]), WHITE)
    else:
        pen.fill(ellipse(0, y + 0.11, half * 0.45, 0.045), (255, 110, 130))
