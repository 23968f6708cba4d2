"""Backpack, clock, sneaker, boot and glasses."""

import math

import skia

from bdkit.miniworld.colours import INK, WHITE, shade
from bdkit.miniworld.drawing.patterns import EMBLEMS
from bdkit.miniworld.drawing.pen import Pen, blob, ellipse, heart, lerp, line, polygon, rounded
from bdkit.miniworld.subjects import Subject


def draw_backpack(pen: Pen, subject: Subject, bend: float) -> None:
    """A backpack from its front."""
    s = subject.shape
    half, high = lerp(0.31, 0.41, s[0]), lerp(0.8, 0.94, s[1])
    top, flare = -high, lerp(0.8, 1.0, s[2])
    arch = 0.09 if subject.part("handle") == "loop" else 0.17
    pen.limb(
        [(-arch, top + 0.06), (-arch * 0.8, top - 0.1), (arch * 0.8, top - 0.1), (arch, top + 0.06)], 0.1, pen.accent
    )
    for side in (-1, 1):
        if subject.part("sides") == "straps":
            out = half + lerp(0.09, 0.15, s[3])
            pen.limb(
                [
                    (side * half * 0.75, top + 0.2),
                    (side * out, top + 0.38),
                    (side * out, -0.16),
                    (side * half * 0.9, -0.06),
                ],
                0.12,
                pen.accent,
            )
        else:
            pen.shape(rounded(side * half - 0.12, -high * 0.46, side * half + 0.12, -0.03, 0.06), pen.accent)
    body = skia.Path()
    crown = lerp(0.2, 0.36, s[4])
    body.moveTo(-half * flare, top + crown)
    body.cubicTo(-half * flare, top + 0.02, -half * 0.5, top, 0, top)
    body.cubicTo(half * 0.5, top, half * flare, top + 0.02, half * flare, top + crown)
    body.lineTo(half, -0.08)
    body.quadTo(half, 0, half - 0.08, 0)
    body.lineTo(-half + 0.08, 0)
    body.quadTo(-half, 0, -half, -0.08)
    body.close()
    pocket = subject.part("pocket")
    wide, tall = half * lerp(0.6, 0.76, s[6]), lerp(0.24, 0.32, s[7])
    free = (-half, top + 0.1, half, 0 if pocket == "none" else -tall - 0.06)
    pen.patterned(body, free if subject.pattern in EMBLEMS else None)
    flap = subject.part("flap")
    if flap == "flap":
        lid = skia.Path()
        low = top + lerp(0.2, 0.26, s[5])
        lid.moveTo(-half * flare, low - 0.04)
        lid.cubicTo(-half * flare, top + 0.0, -half * 0.5, top, 0, top)
        lid.cubicTo(half * 0.5, top, half * flare, top + 0.0, half * flare, low - 0.04)
        lid.quadTo(0, low + 0.08, -half * flare, low - 0.04)
        pen.shape(lid, pen.accent)
        pen.shape(rounded(-0.05, low - 0.05, 0.05, low + 0.07, 0.02), (255, 214, 60), outline=0.03, volume=False)
    elif flap == "zipper":
        y = top + lerp(0.2, 0.28, s[5])
        pen.stroke(line([(-half * 0.8, y + 0.06), (0, y - 0.04), (half * 0.8, y + 0.06)]), INK, 0.065)
        pen.stroke(line([(-half * 0.8, y + 0.06), (0, y - 0.04), (half * 0.8, y + 0.06)]), (225, 225, 230), 0.025)
        pen.limb([(half * 0.45, y), (half * 0.5, y + 0.1)], 0.06, (255, 214, 60), outline=0.025)
    if pocket == "round":
        pen.shape(rounded(-wide, -tall - 0.06, wide, -0.06, 0.14), pen.accent)
    elif pocket == "square":
        pen.shape(rounded(-wide, -tall - 0.06, wide, -0.06, 0.03), pen.accent)
        pen.stroke(line([(-wide, -tall + 0.03), (wide, -tall + 0.03)]), INK, 0.03)
    elif pocket == "double":
        for side in (-1, 1):
            pen.shape(
                rounded(side * half * 0.46 - half * 0.36, -tall - 0.04, side * half * 0.46 + half * 0.36, -0.07, 0.05),
                pen.accent,
            )


def draw_clock(pen: Pen, subject: Subject, bend: float) -> None:
    """An alarm or mantel clock; its hands are part of who it is."""
    s = subject.shape
    r = lerp(0.36, 0.43, s[0])
    feet = subject.part("feet")
    y = -r - 0.1
    if feet == "legs":
        for side in (-1, 1):
            pen.limb([(side * r * 0.5, y + r * 0.7), (side * r * lerp(0.75, 0.95, s[1]), -0.05)], 0.105, pen.accent)
    elif feet == "balls":
        for side in (-1, 1):
            pen.shape(ellipse(side * r * 0.6, -0.085, 0.1), pen.accent, volume=False)
    else:
        pen.shape(polygon([(-r * 0.4, -0.16), (r * 0.4, -0.16), (r * 0.8, 0.0), (-r * 0.8, 0.0)]), pen.accent)
    top = subject.part("top")
    if top == "bells":
        size = lerp(0.13, 0.18, s[2])
        for side in (-1, 1):
            pen.shape(ellipse(side * r * 0.62, y - r * 0.88, size), pen.accent)
        pen.limb([(0, y - r), (0, y - r - 0.12)], 0.085, pen.accent)
    elif top == "handle":
        pen.limb(
            [(-r * 0.45, y - r * 0.8), (-r * 0.35, y - r - 0.14), (r * 0.35, y - r - 0.14), (r * 0.45, y - r * 0.8)],
            0.095,
            pen.accent,
        )
    case = subject.part("case")
    if case == "round":
        path = ellipse(0, y, r)
    elif case == "square":
        path = rounded(-r, y - r, r, y + r, 0.1)
    elif case == "octagon":
        angles = [math.pi / 8 + math.pi / 4 * i for i in range(8)]
        path = polygon([(1.06 * r * math.cos(a), y + 1.06 * r * math.sin(a)) for a in angles])
    else:
        path = polygon([(-r, y - r * 0.55), (0, y - r * 1.25), (r, y - r * 0.55), (r, y + r), (-r, y + r)])
    pen.patterned(path, (-r, y - r, r, y + r))
    face = r * lerp(0.54, 0.64, s[3])
    pen.shape(ellipse(0, y, face), (255, 252, 240), volume=False)
    if subject.pattern in EMBLEMS:
        pen.printed(ellipse(0, y, face - 0.02))
    marks = {"four": 4, "twelve": 12, "none": 0}[subject.part("marks")]
    for i in range(marks):
        a = 2 * math.pi * i / marks
        pen.dot(face * 0.78 * math.cos(a), y + face * 0.78 * math.sin(a), 0.026 if marks == 4 else 0.017)
    for long, width, share in ((0.46, 0.055, s[4]), (0.72, 0.042, s[5])):
        a = 2 * math.pi * share
        pen.stroke(line([(0, y), (face * long * math.cos(a), y + face * long * math.sin(a))]), INK, width)
    pen.dot(0, y, 0.04, (220, 30, 40))


def draw_sneaker(pen: Pen, subject: Subject, bend: float) -> None:
    """A sneaker with its toe to the right."""
    s = subject.shape
    long, high, sole = lerp(0.54, 0.62, s[0]), lerp(0.5, 0.72, s[1]), lerp(0.09, 0.15, s[2])
    heel, toe, low = -long, long, -sole
    open_at = heel + lerp(0.36, 0.46, s[3])
    nose = lerp(0.17, 0.23, s[4])
    pen.shape(
        blob(
            [
                (heel + 0.08, -high - 0.05),
                (heel + 0.03, -high + 0.1),
                (open_at, -high + 0.14),
                (open_at - 0.04, -high - 0.02),
            ]
        ),
        shade(pen.accent, -0.2),
    )
    upper = skia.Path()
    upper.moveTo(heel + 0.02, low)
    upper.cubicTo(heel - 0.03, low - 0.2, heel + 0.02, -high * 0.7, heel + 0.02, -high)
    upper.cubicTo(heel + 0.1, -high + 0.1, open_at - 0.14, -high + 0.12, open_at, -high + 0.0)
    upper.cubicTo(open_at + 0.12, -high * 0.72, 0.1, low - nose - 0.08, toe - 0.28, low - nose)
    upper.cubicTo(toe - 0.06, low - nose, toe, low - 0.1, toe - 0.01, low)
    upper.close()
    pen.patterned(upper, (heel, -high, toe - 0.1, low))
    pen.canvas.save()
    pen.canvas.clipPath(upper, doAntiAlias=True)
    if subject.part("toe") == "cap":
        pen.shape(ellipse(toe - 0.02, low, lerp(0.2, 0.28, s[5]), 0.25), (248, 248, 250), volume=False)
    if subject.part("heel") == "tab":
        pen.shape(
            polygon([(heel - 0.1, -high), (heel + 0.13, -high), (heel + 0.16, low), (heel - 0.1, low)]),
            pen.accent,
            volume=False,
        )
    side, x = "none" if subject.pattern in EMBLEMS else subject.part("side"), heel + long * 0.72
    if side == "stripe":
        for dx in (0.0, 0.14):
            pen.stroke(line([(x + dx + 0.12, -high * 0.78), (x + dx - 0.06, low)]), pen.accent, 0.08)
    elif side == "wave":
        pen.stroke(line([(x - 0.1, low - 0.06), (x + 0.1, low - 0.08), (x + 0.42, low - 0.28)]), pen.accent, 0.1)
    elif side == "circle":
        pen.shape(ellipse(x + 0.04, low - 0.19, 0.12), pen.accent, volume=False)
    pen.canvas.restore()
    pen.stroke(upper)
    laces = subject.part("laces")
    for i in range(3):
        share = 0.1 + 0.3 * i
        x, y = lerp(open_at + 0.06, toe - 0.36, share), lerp(-high + 0.12, low - nose - 0.035, share**0.75)
        if laces == "strap":
            if i != 1:
                pen.limb([(x - 0.07, y + 0.15), (x + 0.05, y - 0.02)], 0.11, pen.accent)
        else:
            pen.limb(
                [(x - 0.09, y + 0.09), (x + 0.05, y - 0.02)],
                0.075,
                WHITE if laces == "white" else pen.accent,
                outline=0.03,
            )
    pen.shape(
        blob(
            [
                (heel - 0.01, low),
                (0, low + 0.012),
                (toe, low - 0.01),
                (toe + 0.03, low + sole * 0.5),
                (toe - 0.05, 0),
                (heel + 0.03, 0),
                (heel - 0.035, low + sole * 0.5),
            ]
        ),
        WHITE if s[6] < 0.5 else pen.accent,
        volume=False,
    )
    if s[6] < 0.5 and s[7] < 0.6:
        pen.stroke(line([(heel + 0.03, low + sole * 0.55), (toe - 0.03, low + sole * 0.55)]), pen.second, 0.035)


def draw_boot(pen: Pen, subject: Subject, bend: float) -> None:
    """A boot with its toe to the right."""
    s = subject.shape
    high, wide = lerp(0.82, 0.98, s[0]), lerp(0.34, 0.44, s[1])
    left = -0.34
    right, toe = left + wide, left + wide + lerp(0.26, 0.38, s[2])
    heel = {"flat": 0.0, "block": 0.09, "high": 0.17}[subject.part("heel")]
    sole, foot = 0.075, lerp(0.24, 0.3, s[3])
    low = -heel - sole
    if heel:
        width = 0.26 if subject.part("heel") == "block" else 0.15
        pen.shape(
            polygon([(left, low), (left + width, low), (left + width * 0.85, 0), (left + 0.02, 0)]),
            shade(pen.accent, -0.15),
            volume=False,
        )
    tip = low + heel * 0.7
    tilt = {"round": 0.0, "cap": 0.0, "pointed": 0.1}[subject.part("toe")]
    body = skia.Path()
    body.moveTo(left - 0.01, -high)
    body.lineTo(right + lerp(-0.03, 0.05, s[4]), -high)
    body.cubicTo(right, -high * 0.7, right - 0.03, low - foot - 0.1, right + 0.06, low - foot)
    body.cubicTo(toe - 0.05, low - foot + 0.04, toe + tilt, tip - 0.16 + tilt, toe + tilt, tip)
    body.lineTo(left + 0.28, low if heel else tip)
    body.lineTo(left, low)
    body.cubicTo(left - 0.05, low - 0.2, left + 0.06, -high * 0.6, left - 0.01, -high)
    body.close()
    pen.patterned(body, (left, -high, right + 0.08, low - 0.05))
    pen.canvas.save()
    pen.canvas.clipPath(body, doAntiAlias=True)
    if subject.part("toe") == "cap":
        pen.shape(ellipse(toe + 0.02, tip, 0.25, 0.27), pen.accent, volume=False)
    pen.canvas.restore()
    pen.stroke(body)
    pen.shape(
        polygon(
            [
                (left - 0.02, low - 0.0),
                (left + 0.3, low),
                (toe + tilt + 0.01, tip),
                (toe + tilt, tip + sole),
                (left + 0.3, low + sole),
                (left - 0.02, low + sole),
            ]
        ),
        pen.accent,
        volume=False,
    )
    front = subject.part("front")
    if front == "laces":
        for i in range(3):
            y = lerp(-high + 0.26, low - foot - 0.02, i / 2)
            pen.limb([(right - 0.17, y + 0.04), (right + 0.01, y - 0.04)], 0.075, WHITE, outline=0.03)
    elif front == "buckle":
        y = low - foot - 0.06
        pen.limb([(left + 0.04, y + 0.02), (right + 0.02, y)], 0.11, pen.accent)
        pen.shape(
            rounded(right - 0.18, y - 0.07, right - 0.05, y + 0.08, 0.02), (255, 214, 60), outline=0.03, volume=False
        )
    elif front == "zipper":
        x = left + wide * 0.55
        pen.stroke(line([(x, -high + 0.12), (x + 0.02, low - 0.1)]), INK, 0.06)
        pen.stroke(line([(x, -high + 0.12), (x + 0.02, low - 0.1)]), (230, 230, 235), 0.025)
    cuff = subject.part("cuff")
    if cuff == "fur":
        for i in range(4):
            pen.shape(ellipse(lerp(left, right + 0.01, i / 3), -high + 0.02, 0.095, 0.085), pen.accent, volume=False)
        pen.fill(rounded(left - 0.02, -high - 0.02, right + 0.03, -high + 0.06, 0.03), pen.accent)
    elif cuff == "fold":
        pen.shape(rounded(left - 0.05, -high - 0.03, right + 0.06, -high + lerp(0.13, 0.2, s[5]), 0.03), pen.accent)


def draw_glasses(pen: Pen, subject: Subject, bend: float) -> None:
    """Glasses from the front; the frame carries the pattern."""
    s = subject.shape
    rx, ry = lerp(0.26, 0.31, s[0]), lerp(0.24, 0.32, s[1])
    frame, gap = lerp(0.1, 0.15, s[2]), lerp(0.05, 0.1, s[3])
    kind = subject.part("lens")
    y, x = -ry - 0.06, rx + gap
    tint = {"dark": (50, 52, 70), "clear": (200, 232, 250), "accent": shade(pen.accent, 0.1)}[subject.part("tint")]
    rise = lerp(0.1, 0.2, s[4])
    for side in (-1, 1):
        pen.limb(
            [
                (side * (x + rx * 0.95), y - ry * 0.4),
                (side * (x + rx + 0.05), y - ry * 0.5 - rise * 0.6),
                (side * (x + rx - 0.1), y - ry * 0.6 - rise),
            ],
            0.09,
            pen.accent,
        )
    if subject.part("bridge") == "arch":
        pen.limb([(-gap - 0.06, y - ry * 0.1), (0, y - ry * 0.1 - 0.1), (gap + 0.06, y - ry * 0.1)], 0.1, pen.accent)
    else:
        pen.limb([(-gap - 0.06, y - ry * 0.5), (gap + 0.06, y - ry * 0.5)], 0.11, pen.accent)
    outer, lenses = skia.Path(), []
    for side in (-1, 1):
        outer.addPath(_lens(kind, side * x, y, rx, ry, side))
        lenses.append(_lens(kind, side * x, y, rx - frame, ry - frame, side))
    pen.patterned(outer, (-x - rx, y - ry, x + rx, y + ry))
    for lens in lenses:
        pen.shape(lens, tint, volume=False)
        if subject.pattern in EMBLEMS:
            pen.printed(lens)
        bounds = lens.getBounds()
        cx, cy = bounds.centerX(), bounds.centerY()
        pen.stroke(line([(cx - 0.06, cy + 0.02), (cx + 0.02, cy - 0.07)]), WHITE, 0.04, 210)


def _lens(kind: str, x: float, y: float, rx: float, ry: float, side: int) -> skia.Path:
    if kind == "round":
        return ellipse(x, y, rx, ry)
    if kind == "square":
        return rounded(x - rx, y - ry, x + rx, y + ry, 0.07)
    if kind == "heart":
        return heart(x, y, (rx + ry) / 2 * 1.04)
    if kind == "hexagon":
        return polygon(
            [
                (x - rx * 0.55, y - ry),
                (x + rx * 0.55, y - ry),
                (x + rx, y),
                (x + rx * 0.55, y + ry),
                (x - rx * 0.55, y + ry),
                (x - rx, y),
            ]
        )
    return blob(
        [
            (x - side * rx, y - ry * 0.2),
            (x - side * rx * 0.2, y - ry * 0.8),
            (x + side * rx * 1.12, y - ry * 1.15),
            (x + side * rx, y + ry * 0.2),
            (x + side * rx * 0.3, y + ry),
            (x - side * rx * 0.7, y + ry * 0.75),
        ]
    )
