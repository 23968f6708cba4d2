"""Bowl, can, candle, teapot and vase."""

import skia

from bdkit.miniworld.colours import INK, WHITE, shade
from bdkit.miniworld.drawing.pen import OUTLINE, Pen, blob, ellipse, lerp, line, polygon, rounded, star, turned
from bdkit.miniworld.subjects import Subject

METAL = (196, 200, 208)


def draw_bowl(pen: Pen, subject: Subject, bend: float) -> None:
    """A bowl with an open top and, mostly, something in it."""
    s = subject.shape
    half, deep = lerp(0.46, 0.6, s[0]), lerp(0.46, 0.62, s[1])
    foot = {"low": 0.06, "high": 0.14, "none": 0.0}[subject.part("foot")]
    base, rim = -foot, -foot - deep
    low = half * lerp(0.35, 0.6, s[2])
    if foot:
        pen.shape(turned([(low * 0.9, base - 0.03), (low * 1.05, 0.0)]), pen.accent)
    body = skia.Path()
    body.moveTo(-half, rim)
    belly = lerp(0.5, 0.95, s[3])
    body.cubicTo(-half * 0.98, rim + deep * belly, -low * 1.2, base, -low, base)
    body.lineTo(low, base)
    body.cubicTo(low * 1.2, base, half * 0.98, rim + deep * belly, half, rim)
    body.close()
    pen.patterned(body)
    opening = lerp(0.1, 0.15, s[4])
    content = subject.part("content")
    pen.shape(ellipse(0, rim, half, opening), shade(pen.main, -0.45) if content != "soup" else (240, 150, 40))
    if content != "soup":
        pen.canvas.save()
        cover = ellipse(0, rim, half - 0.02, opening - 0.02)
        cover.addRect(skia.Rect(-half, rim - 0.6, half, rim))
        pen.canvas.clipPath(cover, doAntiAlias=True)
        _content(pen, subject, content, rim, half)
        pen.canvas.restore()
    rim_path = ellipse(0, rim, half, opening)
    if subject.part("rim") == "thick":
        pen.stroke(rim_path, INK, 0.105)
        pen.stroke(rim_path, pen.accent, 0.065)
    else:
        pen.stroke(rim_path, INK, OUTLINE)


def _content(pen: Pen, subject: Subject, content: str, rim: float, half: float) -> None:
    turn = subject.shape[6]
    if content == "berries":
        for i in range(7):
            x = (i - 3) * half * 0.27
            y = rim - (0.09 if i % 2 else 0.015) - 0.05 * (1 - abs(i - 3) / 3)
            pen.shape(ellipse(x, y, 0.095), ((225, 30, 60), (90, 40, 160))[(i + int(turn * 2)) % 2], volume=False)
    elif content == "noodles":
        for i in range(-3, 4):
            points = [
                (i * half * 0.24 - 0.05, rim + 0.03),
                (i * half * 0.24 - 0.1, rim - 0.1),
                (i * half * 0.24 + 0.06, rim - 0.12),
                (i * half * 0.24 + 0.08, rim + 0.03),
            ]
            pen.limb(points, 0.085, (255, 220, 110), outline=0.03)
    elif content == "fruit":
        for x, colour in ((-half * 0.42, (90, 200, 60)), (half * 0.42, (255, 205, 40)), (0.0, (230, 40, 40))):
            pen.shape(ellipse(x, rim - 0.07, half * 0.3, 0.155), colour)
            pen.stroke(line([(x, rim - 0.2), (x + 0.04, rim - 0.26)]), (90, 60, 30), 0.035)


def draw_can(pen: Pen, subject: Subject, bend: float) -> None:
    """A drinks can seen from slightly above."""
    s = subject.shape
    half, high, flat = lerp(0.28, 0.4, s[0]), lerp(0.8, 0.98, s[1]), lerp(0.06, 0.1, s[2])
    top, base = -high, -0.0
    body = skia.Path()
    body.moveTo(-half, top)
    body.lineTo(half, top)
    body.lineTo(half, base - flat)
    body.cubicTo(half, base + flat * 0.3, -half, base + flat * 0.3, -half, base - flat)
    body.close()
    pen.patterned(body, (-half, top + 0.05, half, base - 0.02))
    bands = subject.part("bands")
    if bands != "none":
        thick = lerp(0.08, 0.12, s[3])
        pen.canvas.save()
        pen.canvas.clipPath(body, doAntiAlias=True)
        for y in (top + flat + 0.1, base - 0.09) if bands == "both" else (top + flat + 0.1,):
            pen.stroke(line([(-half, y - 0.05), (0, y + flat * 0.4), (half, y - 0.05)]), pen.accent, thick)
        pen.canvas.restore()
        pen.stroke(body)
    pen.shape(ellipse(0, top, half, flat), METAL)
    pen.stroke(ellipse(0, top, half - 0.06, flat * 0.6), (130, 135, 145), 0.022)
    kind = subject.part("top")
    if kind == "tab":
        pen.fill(ellipse(0.02, top, 0.1, flat * 0.4), pen.accent)
        pen.stroke(ellipse(0.02, top, 0.1, flat * 0.4), INK, 0.025)
    elif kind == "open":
        pen.fill(ellipse(half * 0.35, top + 0.01, half * 0.38, flat * 0.5), INK)
    else:
        pen.limb([(0.05, top), (0.13, top - 0.2), (0.24, top - 0.24)], 0.085, pen.accent)


def draw_candle(pen: Pen, subject: Subject, bend: float) -> None:
    """A burning candle; bend in -1..1 moves the flame."""
    s = subject.shape
    holder = subject.part("holder")
    base = {"none": 0.0, "dish": -0.1, "stick": -0.28, "glass": -0.03}[holder]
    half = lerp(0.19, 0.3, s[0])
    high = lerp(0.5, 0.66, s[1]) - (0.1 if holder == "stick" else 0.0)
    top = base - high
    if holder == "dish":
        pen.limb([(half + 0.13, -0.1), (half + 0.3, -0.12), (half + 0.28, -0.26), (half + 0.1, -0.2)], 0.09, pen.accent)
        pen.shape(turned([(half + 0.2, -0.16), (half + 0.1, 0.0)]), pen.accent)
    elif holder == "stick":
        pen.shape(
            turned(
                [
                    (half + 0.08, base - 0.03),
                    (half + 0.04, base + 0.05),
                    (0.06, base + 0.11),
                    (0.06, -0.1),
                    (half * 0.9, -0.06),
                    (half + 0.06, 0.0),
                ]
            ),
            pen.accent,
        )
    slope = 0.09 if subject.part("top") == "slanted" else 0.0
    pen.limb([(0, top + 0.04), (0.01, top - 0.09)], 0.055, INK, outline=0)
    wax = polygon([(-half, top - slope), (half, top + slope), (half, base), (-half, base)])
    pen.patterned(wax, (-half, top, half, base))
    if subject.part("wax") == "drips":
        light = shade(pen.accent, 0.15)
        for x, long in (
            (-half * 0.62, lerp(0.08, 0.24, s[3])),
            (half * 0.05, lerp(0.05, 0.16, s[4])),
            (half * 0.66, lerp(0.1, 0.28, s[5])),
        ):
            y = top + slope * x / half + 0.03
            pen.limb([(x, y), (x, y + long)], 0.13, light)
        pen.limb([(-half + 0.02, top - slope + 0.02), (half - 0.02, top + slope + 0.02)], 0.11, light)
    elif not slope:
        pen.shape(ellipse(0, top, half, 0.055), shade(pen.main, 0.35), volume=False)
    if holder == "glass":
        glass = rounded(-half - 0.08, base - high * 0.45, half + 0.08, 0.0, 0.05)
        pen.fill(glass, (190, 225, 245), 120)
        pen.stroke(glass)
        pen.stroke(line([(-half - 0.01, base - high * 0.36), (-half - 0.01, -0.1)]), WHITE, 0.04, 200)
    tall, x = lerp(0.26, 0.34, s[6]), 0.03 * bend
    y = top - 0.1
    for size, colour in ((1.0, (255, 140, 20)), (0.62, (255, 225, 60)), (0.3, (255, 255, 230))):
        h, w = tall * size, 0.115 * size
        flame = blob(
            [
                (x * 1.5, y - h),
                (x * 0.5 + w * 0.7, y - h * 0.5),
                (w, y - h * 0.18),
                (0.0, y + 0.04),
                (-w, y - h * 0.18),
                (x * 0.5 - w * 0.6, y - h * 0.5),
            ]
        )
        if size == 1.0:
            pen.shape(flame, colour, volume=False)
        else:
            pen.fill(flame, colour)


def draw_teapot(pen: Pen, subject: Subject, bend: float) -> None:
    """A teapot with its spout to the right."""
    s = subject.shape
    foot = {"none": 0.0, "ring": 0.06, "feet": 0.09}[subject.part("foot")]
    half, high = lerp(0.35, 0.45, s[0]), lerp(0.52, 0.68, s[1])
    base, top = -foot, -foot - high
    middle = (base + top) / 2
    _teapot_handle(pen, subject, half, middle, top, high)
    spout, w = subject.part("spout"), lerp(0.12, 0.16, s[4])
    tip = (half + lerp(0.17, 0.27, s[5]), top + lerp(0.0, 0.12, s[6]))
    if spout == "curved":
        points = [(half * 0.7, middle + high * 0.22), (half + 0.12, middle + 0.06), (tip[0] - 0.12, tip[1] + 0.1), tip]
    elif spout == "straight":
        points = [(half * 0.7, middle + high * 0.2), tip]
    else:
        points = [(half * 0.7, middle), (half + 0.16, tip[1] + 0.08)]
    pen.limb(points, w, pen.accent)
    if foot:
        if subject.part("foot") == "ring":
            pen.shape(turned([(half * 0.6, base - 0.04), (half * 0.7, 0.0)]), pen.accent)
        else:
            for x in (-half * 0.5, half * 0.5):
                pen.limb([(x, base - 0.05), (x * 1.15, -0.05)], 0.11, pen.accent)
    square = lerp(0.62, 0.86, s[2])
    body = blob(
        [
            (-half * 0.42, top),
            (half * 0.42, top),
            (half * square, middle - high * 0.3),
            (half, middle + high * (s[3] - 0.5) * 0.25),
            (half * square, base - high * 0.1),
            (half * 0.4, base),
            (-half * 0.4, base),
            (-half * square, base - high * 0.1),
            (-half, middle + high * (s[3] - 0.5) * 0.25),
            (-half * square, middle - high * 0.3),
        ]
    )
    pen.patterned(body, (-half, top, half, base))
    lid = half * lerp(0.55, 0.68, s[7])
    pen.shape(
        blob(
            [
                (-lid, top + 0.045),
                (-lid * 0.7, top - 0.06),
                (0, top - 0.1),
                (lid * 0.7, top - 0.06),
                (lid, top + 0.045),
                (0, top + 0.075),
            ]
        ),
        pen.accent,
    )
    knob = subject.part("knob")
    if knob == "ball":
        pen.shape(ellipse(0, top - 0.15, 0.08), pen.second, volume=False)
    elif knob == "tall":
        pen.shape(
            blob([(-0.05, top - 0.08), (-0.035, top - 0.2), (0, top - 0.26), (0.035, top - 0.2), (0.05, top - 0.08)]),
            pen.second,
            volume=False,
        )
    else:
        pen.shape(ellipse(0, top - 0.12, 0.13, 0.05), pen.second, volume=False)


def _teapot_handle(pen: Pen, subject: Subject, half: float, middle: float, top: float, high: float) -> None:
    kind, out = subject.part("handle"), lerp(0.16, 0.26, subject.shape[8])
    width = lerp(0.09, 0.13, subject.shape[9])
    if kind == "ear":
        pen.limb(
            [
                (-half * 0.75, middle - high * 0.26),
                (-half - out * 0.8, middle - high * 0.3),
                (-half - out, middle),
                (-half - out * 0.5, middle + high * 0.26),
                (-half * 0.8, middle + high * 0.24),
            ],
            width,
            pen.accent,
        )
    elif kind == "square":
        for points in (
            [(-half * 0.7, middle - high * 0.28), (-half - out, middle - high * 0.32)],
            [(-half - out, middle - high * 0.32), (-half - out, middle + high * 0.2)],
            [(-half - out, middle + high * 0.2), (-half * 0.8, middle + high * 0.22)],
        ):
            pen.limb(points, width, pen.accent)
    else:
        pen.limb(
            [
                (-half * 0.78, top + 0.14),
                (-half * 0.8, top - 0.16),
                (0, top - 0.36),
                (half * 0.8, top - 0.16),
                (half * 0.78, top + 0.14),
            ],
            width,
            pen.accent,
        )


def draw_vase(pen: Pen, subject: Subject, bend: float) -> None:
    """A vase, with flowers in two of three; bend in -1..1 moves one of them."""
    s = subject.shape
    flowers = subject.part("flowers")
    high = lerp(0.66, 0.76, s[0]) if flowers != "none" else lerp(0.84, 0.98, s[0])
    belly, neck = lerp(0.28, 0.42, s[1]), lerp(0.11, 0.2, s[2])
    foot, at = lerp(0.13, 0.24, s[3]), lerp(0.3, 0.62, s[4])
    mouth = neck + {"flared": 0.1, "straight": 0.015, "wavy": 0.06}[subject.part("rim")]
    top = -high
    _flowers(pen, subject, flowers, top, bend)
    for side in {"none": (), "one": (-1,), "two": (-1, 1)}[subject.part("handles")]:
        out = belly + lerp(0.06, 0.14, s[5])
        pen.limb(
            [
                (side * neck * 0.9, top + 0.12),
                (side * out * 0.9, top + 0.12),
                (side * out, top + 0.26),
                (side * belly * 0.8, top + high * 0.5),
            ],
            0.1,
            pen.accent,
        )
    profile = [
        (mouth, top),
        (neck, top + high * 0.15),
        (neck * 1.15, top + high * 0.24),
        (belly, -high * at),
        (lerp(belly, foot, 0.55), -high * at * 0.35),
        (foot, 0.0),
    ]
    pen.patterned(turned(profile), (-belly, top + high * 0.16, belly, 0.0))
    if subject.part("rim") == "wavy":
        for x in (-0.66, 0, 0.66):
            pen.shape(ellipse(x * mouth, top, mouth * 0.42, 0.06), pen.accent, volume=False)
    else:
        pen.shape(rounded(-mouth - 0.015, top - 0.035, mouth + 0.015, top + 0.05, 0.03), pen.accent, volume=False)


def _flowers(pen: Pen, subject: Subject, kind: str, top: float, bend: float) -> None:
    if kind == "none":
        return
    s = subject.shape
    green, spread = (40, 140, 55), lerp(0.18, 0.3, s[6])
    for i, x in enumerate((-spread, spread, 0.02 + 0.05 * bend)):
        y = top - (0.17 if i < 2 else 0.27)
        stem = (110, 70, 40) if kind == "twigs" else green
        pen.limb(
            [(x * 0.2, top + 0.03), (x * 0.7, top - 0.1), (x, y)],
            0.075 if kind == "twigs" else 0.065,
            stem,
            outline=0.025,
        )
        if kind == "daisies":
            pen.shape(star(x, y, 0.125, 6, 0.62), pen.accent, outline=0.035, volume=False)
            pen.dot(x, y, 0.05, (255, 220, 50))
        elif kind == "tulips":
            pen.shape(
                polygon(
                    [
                        (x - 0.09, y - 0.09),
                        (x - 0.04, y - 0.03),
                        (x, y - 0.11),
                        (x + 0.04, y - 0.03),
                        (x + 0.09, y - 0.09),
                        (x + 0.075, y + 0.06),
                        (x, y + 0.1),
                        (x - 0.075, y + 0.06),
                    ]
                ),
                pen.accent,
                outline=0.035,
                volume=False,
            )
        else:
            for dx, dy in ((0.07, 0.02), (-0.06, -0.03), (0.02, -0.08)):
                pen.shape(ellipse(x + dx, y + dy, 0.05), pen.accent, outline=0.03, volume=False)
