"""The ten outfits of DreamBench's live prompts, drawn on an animal's anchors."""

import math
from dataclasses import dataclass

import skia

from bdkit.miniworld.colours import INK, RGB, WHITE
from bdkit.miniworld.drawing.pen import OUTLINE, Box, Pen, Point, blob, ellipse, line, polygon, rounded, star

# in the order of DreamBench's live prompts 10..19
OUTFITS: tuple[str, ...] = (
    "red hat",
    "santa hat",
    "rainbow scarf",
    "black top hat and monocle",
    "chef outfit",
    "firefighter outfit",
    "police outfit",
    "pink glasses",
    "yellow shirt",
    "purple wizard outfit",
)

RED, GOLD, YELLOW = (222, 22, 36), (255, 205, 40), (255, 224, 30)
NAVY, PURPLE, PINK = (28, 42, 110), (118, 38, 190), (255, 70, 165)
RAINBOW = ((235, 40, 50), (255, 150, 20), (255, 228, 40), (50, 185, 70), (45, 110, 235), (150, 60, 200))


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """What an outfit needs to know about the animal that wears it: anchors in subject coordinates.

    head: centre; head_radius: half width and half height; crown: the point on which a hat sits, hat: its half width;
    eyes: centre and radius of the left and the right eye; neck: two ends of the line around which a scarf goes;
    torso: outline of the body, jacket: the part of it that clothes cover; chest: where a badge goes.
    """

    head: Point
    head_radius: Point
    crown: Point
    hat: float
    eyes: tuple[tuple[float, float, float], tuple[float, float, float]]
    neck: tuple[Point, Point]
    torso: skia.Path
    jacket: Box
    chest: Point


def wear_on_body(pen: Pen, anatomy: Anatomy, outfit: str | None) -> None:
    """What is worn below the head; drawn after the body and before the head."""
    if outfit == "rainbow scarf":
        _scarf(pen, anatomy)
    elif outfit == "chef outfit":
        _jacket(pen, anatomy, (250, 250, 252), [])
        _collar(pen, anatomy, RED)
        _buttons(pen, anatomy, INK)
    elif outfit == "firefighter outfit":
        _jacket(pen, anatomy, (60, 52, 58), [(YELLOW, 0.7)])
        _collar(pen, anatomy, (200, 40, 30))
    elif outfit == "police outfit":
        _jacket(pen, anatomy, NAVY, [])
        _collar(pen, anatomy, (120, 175, 250))
        pen.fill(star(*anatomy.chest, 0.095), GOLD)
    elif outfit == "yellow shirt":
        _jacket(pen, anatomy, YELLOW, [])
        _collar(pen, anatomy, (255, 245, 170))
        _buttons(pen, anatomy, (200, 130, 10))
    elif outfit == "purple wizard outfit":
        _jacket(pen, anatomy, PURPLE, [])
        pen.fill(star(*anatomy.chest, 0.085), GOLD)
        _collar(pen, anatomy, GOLD)


def wear_on_head(pen: Pen, anatomy: Anatomy, outfit: str | None) -> None:
    """What is worn on the head; drawn last."""
    drawer = {
        "red hat": _red_hat,
        "santa hat": _santa_hat,
        "black top hat and monocle": _top_hat,
        "chef outfit": _toque,
        "firefighter outfit": _helmet,
        "police outfit": _police_cap,
        "pink glasses": _glasses,
        "purple wizard outfit": _wizard_hat,
    }.get(outfit or "")
    if drawer is not None:
        drawer(pen, anatomy)


def _jacket(pen: Pen, anatomy: Anatomy, colour: RGB, bands: list[tuple[RGB, float]]) -> None:
    left, top, right, bottom = anatomy.jacket
    canvas = pen.canvas
    canvas.save()
    canvas.clipRect(skia.Rect(left, top, right, bottom), doAntiAlias=True)
    pen.shape(anatomy.torso, colour, outline=0)
    box = anatomy.torso.getBounds()
    for band, at in bands:
        y = box.top() + (min(bottom, box.bottom()) - box.top()) * at
        canvas.save()
        canvas.clipPath(anatomy.torso, doAntiAlias=True)
        pen.stroke(line([(left, y), (right, y)]), band, 0.1)
        canvas.restore()
    pen.stroke(anatomy.torso, INK, OUTLINE * 1.2)
    canvas.restore()
    canvas.save()
    canvas.clipPath(anatomy.torso, doAntiAlias=True)
    edge = [(left, top), (left, bottom)] if bottom >= box.bottom() else [(left, bottom), (right, bottom)]
    pen.stroke(line(edge), INK, OUTLINE)
    canvas.restore()


def _buttons(pen: Pen, anatomy: Anatomy, colour: RGB) -> None:
    x, y = anatomy.chest
    x = x if anatomy.jacket[3] > -0.02 or anatomy.neck[0][1] != anatomy.neck[1][1] else anatomy.neck[0][0] + 0.17
    for dy in (-0.05, 0.07):
        pen.dot(x, y + dy + 0.03, 0.032, colour)


def _collar(pen: Pen, anatomy: Anatomy, colour: RGB) -> None:
    (x0, y0), (x1, y1) = anatomy.neck
    pen.limb([(x0, y0), ((x0 + x1) / 2 + 0.02, (y0 + y1) / 2 + 0.045), (x1, y1)], 0.115, colour)


def _scarf(pen: Pen, anatomy: Anatomy) -> None:
    (x0, y0), (x1, y1) = anatomy.neck
    dx, dy = x1 - x0, y1 - y0
    length = math.hypot(dx, dy)
    ux, uy = dx / length, dy / length
    nx, ny = -uy, ux
    hang: Point = (x0 + dx * 0.62, y0 + dy * 0.62)
    half = 0.075
    tail = polygon(
        [
            (hang[0] - half, hang[1]),
            (hang[0] + half, hang[1]),
            (hang[0] + half + 0.02, hang[1] + 0.34),
            (hang[0] - half + 0.02, hang[1] + 0.34),
        ]
    )
    pen.fill(tail, RAINBOW[0])
    for i, colour in enumerate(RAINBOW[1:]):
        y = hang[1] + 0.1 + i * 0.048
        pen.fill(
            polygon(
                [
                    (hang[0] - half, y),
                    (hang[0] + half + 0.01, y),
                    (hang[0] + half + 0.02, y + 0.05),
                    (hang[0] - half + 0.01, y + 0.05),
                ]
            ),
            colour,
        )
    pen.stroke(tail, INK, OUTLINE)
    wide = 0.1
    ends = [(x0 - ux * 0.03, y0 - uy * 0.03), (x1 + ux * 0.03, y1 + uy * 0.03)]
    band = polygon(
        [
            (ends[0][0] - nx * wide, ends[0][1] - ny * wide),
            (ends[1][0] - nx * wide, ends[1][1] - ny * wide),
            (ends[1][0] + nx * wide, ends[1][1] + ny * wide),
            (ends[0][0] + nx * wide, ends[0][1] + ny * wide),
        ]
    )
    step = (length + 0.06) / 6
    for i, colour in enumerate(RAINBOW):
        ax, ay = ends[0][0] + ux * step * i, ends[0][1] + uy * step * i
        bx, by = ax + ux * step * 1.04, ay + uy * step * 1.04
        pen.fill(
            polygon(
                [
                    (ax - nx * wide, ay - ny * wide),
                    (bx - nx * wide, by - ny * wide),
                    (bx + nx * wide, by + ny * wide),
                    (ax + nx * wide, ay + ny * wide),
                ]
            ),
            colour,
        )
    pen.stroke(band, INK, OUTLINE)


def _brim(pen: Pen, x: float, y: float, half: float, colour: RGB, height: float = 0.05) -> None:
    pen.shape(ellipse(x, y, half, height), colour, volume=False)


def _red_hat(pen: Pen, anatomy: Anatomy) -> None:
    (x, y), w = anatomy.crown, anatomy.hat
    crown = blob(
        [(x - w * 0.72, y), (x - w * 0.66, y - 0.2), (x, y - 0.27), (x + w * 0.66, y - 0.2), (x + w * 0.72, y)]
    )
    pen.shape(crown, RED)
    pen.stroke(line([(x - w * 0.62, y - 0.06), (x + w * 0.62, y - 0.06)]), (110, 5, 20), 0.06)
    _brim(pen, x, y + 0.01, w * 1.25, RED, 0.055)


def _santa_hat(pen: Pen, anatomy: Anatomy) -> None:
    (x, y), w = anatomy.crown, anatomy.hat
    cone = blob(
        [
            (x - w * 0.85, y),
            (x - w * 0.6, y - 0.2),
            (x - w * 0.1, y - 0.33),
            (x + w * 0.75, y - 0.22),
            (x + w * 1.05, y - 0.1),
            (x + w * 0.7, y - 0.13),
            (x + w * 0.85, y),
        ]
    )
    pen.shape(cone, RED)
    pen.limb([(x - w * 0.8, y + 0.01), (x, y - 0.02), (x + w * 0.8, y + 0.01)], 0.15, (252, 252, 255))
    pen.shape(ellipse(x + w * 1.1, y - 0.08, 0.085), (252, 252, 255), volume=False)


def _top_hat(pen: Pen, anatomy: Anatomy) -> None:
    (x, y), w = anatomy.crown, anatomy.hat
    pen.shape(
        polygon([(x - w * 0.62, y), (x - w * 0.7, y - 0.33), (x + w * 0.7, y - 0.33), (x + w * 0.62, y)]), (48, 44, 56)
    )
    pen.stroke(line([(x - w * 0.55, y - 0.07), (x + w * 0.55, y - 0.07)]), (200, 30, 50), 0.07)
    _brim(pen, x, y, w * 1.15, (48, 44, 56), 0.045)
    ex, ey, er = anatomy.eyes[1]
    pen.stroke(line([(ex + er * 1.2, ey + er), (ex + er * 1.5, ey + 0.2)]), GOLD, 0.028)
    pen.stroke(ellipse(ex, ey, er + 0.04), INK, 0.075)
    pen.stroke(ellipse(ex, ey, er + 0.04), GOLD, 0.045)


def _toque(pen: Pen, anatomy: Anatomy) -> None:
    (x, y), w = anatomy.crown, anatomy.hat
    puff = blob(
        [
            (x - w * 0.6, y - 0.1),
            (x - w * 1.05, y - 0.2),
            (x - w * 0.75, y - 0.35),
            (x - w * 0.25, y - 0.34),
            (x + 0.0, y - 0.4),
            (x + w * 0.3, y - 0.34),
            (x + w * 0.8, y - 0.35),
            (x + w * 1.05, y - 0.2),
            (x + w * 0.6, y - 0.1),
        ]
    )
    pen.shape(puff, WHITE, volume=False)
    pen.stroke(line([(x - w * 0.3, y - 0.14), (x - w * 0.33, y - 0.25)]), (190, 195, 210), 0.03)
    pen.stroke(line([(x + w * 0.3, y - 0.14), (x + w * 0.33, y - 0.25)]), (190, 195, 210), 0.03)
    pen.shape(rounded(x - w * 0.66, y - 0.12, x + w * 0.66, y + 0.03, 0.03), WHITE, volume=False)


def _helmet(pen: Pen, anatomy: Anatomy) -> None:
    (x, y), w = anatomy.crown, anatomy.hat
    dome = blob([(x - w * 0.95, y), (x - w * 0.8, y - 0.18), (x, y - 0.27), (x + w * 0.8, y - 0.18), (x + w * 0.95, y)])
    pen.shape(dome, (225, 30, 30))
    pen.stroke(line([(x, y - 0.25), (x, y - 0.1)]), (150, 10, 15), 0.05)
    pen.shape(
        polygon(
            [(x - 0.085, y - 0.17), (x + 0.085, y - 0.17), (x + 0.07, y - 0.03), (x, y + 0.02), (x - 0.07, y - 0.03)]
        ),
        GOLD,
        volume=False,
    )
    pen.limb(
        [(x - w * 1.25, y + 0.05), (x - w * 0.6, y), (x + w * 0.6, y), (x + w * 1.25, y + 0.05)], 0.09, (225, 30, 30)
    )
    pen.fill(
        polygon([(x - 0.06, y - 0.15), (x + 0.06, y - 0.15), (x + 0.05, y - 0.03), (x, y), (x - 0.05, y - 0.03)]), GOLD
    )


def _police_cap(pen: Pen, anatomy: Anatomy) -> None:
    (x, y), w = anatomy.crown, anatomy.hat
    top = blob(
        [
            (x - w * 0.75, y - 0.06),
            (x - w * 1.15, y - 0.17),
            (x - w * 0.5, y - 0.26),
            (x, y - 0.29),
            (x + w * 0.5, y - 0.26),
            (x + w * 1.15, y - 0.17),
            (x + w * 0.75, y - 0.06),
        ]
    )
    pen.shape(top, NAVY)
    pen.limb([(x - w * 0.7, y - 0.04), (x + w * 0.7, y - 0.04)], 0.11, (90, 150, 240))
    pen.shape(
        blob([(x - w * 0.8, y), (x, y - 0.02), (x + w * 0.8, y), (x + w * 0.5, y + 0.07), (x - w * 0.5, y + 0.07)]),
        (20, 20, 30),
        volume=False,
    )
    pen.shape(star(x, y - 0.14, 0.1), GOLD, outline=0, volume=False)


def _glasses(pen: Pen, anatomy: Anatomy) -> None:
    (ax, ay, _), (bx, by, _) = anatomy.eyes
    middle, gap = (ax + bx) / 2, (bx - ax) / 2
    r = max(0.085, min(0.13, gap * 0.92))
    reach = max(gap, r * 1.02)
    y = (ay + by) / 2
    pen.limb([(middle - reach - r, y), (anatomy.head[0] - anatomy.head_radius[0] * 0.95, y - 0.03)], 0.07, PINK)
    for x in (middle - reach, middle + reach):
        pen.stroke(ellipse(x, y, r), INK, 0.095)
        pen.stroke(ellipse(x, y, r), PINK, 0.065)
        pen.fill(ellipse(x, y, r - 0.02), (255, 190, 225), 90)


def _wizard_hat(pen: Pen, anatomy: Anatomy) -> None:
    (x, y), w = anatomy.crown, anatomy.hat
    cone = blob(
        [
            (x - w * 0.72, y),
            (x - w * 0.4, y - 0.2),
            (x + w * 0.05, y - 0.42),
            (x + w * 0.12, y - 0.42),
            (x + w * 0.42, y - 0.2),
            (x + w * 0.72, y),
        ]
    )
    pen.shape(cone, PURPLE)
    pen.fill(star(x - 0.03, y - 0.14, 0.075), GOLD)
    pen.fill(star(x + 0.06, y - 0.27, 0.05), GOLD)
    _brim(pen, x, y + 0.01, w * 1.3, PURPLE, 0.055)
