"""Every class as a cube: the identity's colours and pattern on its faces, and the parts that name the class."""

import math

from bdkit.miniworld.colours import INK, WHITE, shade
from bdkit.miniworld.drawing import cube_characters
from bdkit.miniworld.drawing.cube_characters import DX, DY, LEFT, MIDDLE, RIGHT, ROOF, ROOF_X, TOP, Part
from bdkit.miniworld.drawing.pen import OUTLINE, Pen, blob, ellipse, line, polygon, rounded
from bdkit.miniworld.subjects import Subject

# how far the cubes of classes with feet stand above the ground
_LIFT = {"dog": -0.1, "cat": -0.04, "clock": -0.09, "cartoon": -0.13, "toy": -0.1}


def draw_cube(pen: Pen, subject: Subject, bend: float) -> None:
    """A cube in oblique projection; the front face carries the pattern and the class's face or parts."""
    before, after = _PARTS[subject.class_noun]
    pen.canvas.save()
    pen.canvas.translate(0, _LIFT.get(subject.class_noun, 0.0))
    before(pen, subject, bend)
    top = TOP
    roof = polygon([(LEFT, top), (LEFT + DX, top + DY), (RIGHT + DX, top + DY), (RIGHT, top)])
    flank = polygon([(RIGHT, top), (RIGHT + DX, top + DY), (RIGHT + DX, DY), (RIGHT, 0)])
    front = rounded(LEFT, top, RIGHT, 0, 0.0)
    pen.patterned(flank, (RIGHT - 0.2, top + DY, RIGHT + 0.4, 0))
    pen.fill(flank, (20, 0, 50), 90)
    pen.patterned(roof, (LEFT, top + DY - 0.2, RIGHT + DX, top + 0.2))
    pen.fill(roof, WHITE, 70)
    pen.stroke(flank)
    pen.stroke(roof)
    pen.patterned(front)
    after(pen, subject, bend)
    pen.canvas.restore()


def _nothing(pen: Pen, subject: Subject, bend: float) -> None:
    pass


def _backpack_back(pen: Pen, subject: Subject, bend: float) -> None:
    pen.limb(
        [(ROOF_X - 0.12, ROOF), (ROOF_X - 0.1, ROOF - 0.2), (ROOF_X + 0.1, ROOF - 0.2), (ROOF_X + 0.12, ROOF)],
        0.1,
        pen.accent,
    )
    pen.limb(
        [(RIGHT + 0.1, TOP), (RIGHT + 0.34, TOP + 0.14), (RIGHT + 0.34, -0.22), (RIGHT + 0.1, -0.14)], 0.12, pen.accent
    )
    pen.limb(
        [(LEFT + 0.05, TOP + 0.08), (LEFT - 0.13, TOP + 0.2), (LEFT - 0.13, -0.16), (LEFT + 0.05, -0.08)],
        0.12,
        pen.accent,
    )


def _backpack_front(pen: Pen, subject: Subject, bend: float) -> None:
    pen.limb(
        [
            (ROOF_X - 0.12, ROOF + 0.03),
            (ROOF_X - 0.1, ROOF - 0.2),
            (ROOF_X + 0.1, ROOF - 0.2),
            (ROOF_X + 0.12, ROOF + 0.03),
        ],
        0.1,
        pen.accent,
    )
    pen.shape(rounded(MIDDLE - 0.22, -0.3, MIDDLE + 0.22, -0.05, 0.08), pen.accent)
    pen.stroke(line([(LEFT + 0.08, TOP + 0.12), (RIGHT - 0.08, TOP + 0.12)]), INK, 0.065)
    pen.stroke(line([(LEFT + 0.08, TOP + 0.12), (RIGHT - 0.08, TOP + 0.12)]), (230, 230, 235), 0.025)


def _bowl_front(pen: Pen, subject: Subject, bend: float) -> None:
    inner = polygon(
        [
            (LEFT + 0.1, TOP - 0.025),
            (LEFT + DX - 0.01, TOP + DY + 0.03),
            (RIGHT + DX - 0.1, TOP + DY + 0.03),
            (RIGHT + 0.0, TOP - 0.025),
        ]
    )
    content = subject.part("content")
    pen.shape(
        inner, {"soup": (240, 150, 40), "noodles": (255, 220, 110)}.get(content, shade(pen.main, -0.5)), volume=False
    )
    colours = ((225, 30, 60), (90, 40, 160)) if content == "berries" else ((90, 200, 60), (255, 205, 40))
    if content in ("berries", "fruit", "none"):
        for i in range(5) if content != "none" else ():
            pen.shape(
                ellipse(LEFT + 0.18 + i * 0.12, ROOF - 0.03 * (i % 2), 0.085),
                colours[i % 2],
                outline=0.035,
                volume=False,
            )
    pen.shape(rounded(LEFT - 0.04, TOP - 0.02, RIGHT + 0.03, TOP + 0.07, 0.03), pen.accent, volume=False)


def _can_front(pen: Pen, subject: Subject, bend: float) -> None:
    roof = polygon([(LEFT, TOP), (LEFT + DX, TOP + DY), (RIGHT + DX, TOP + DY), (RIGHT, TOP)])
    pen.shape(roof, (196, 200, 208))
    pen.fill(ellipse(ROOF_X, ROOF, 0.13, 0.05), pen.accent)
    pen.stroke(ellipse(ROOF_X, ROOF, 0.13, 0.05), INK, 0.03)
    pen.stroke(line([(LEFT + 0.02, TOP + 0.06), (RIGHT - 0.02, TOP + 0.06)]), (196, 200, 208), 0.075)
    pen.stroke(line([(LEFT + 0.02, -0.06), (RIGHT - 0.02, -0.06)]), (196, 200, 208), 0.075)


def _candle_front(pen: Pen, subject: Subject, bend: float) -> None:
    for x, long in ((LEFT + 0.09, 0.16), (LEFT + 0.3, 0.08), (RIGHT - 0.1, 0.22)):
        pen.limb([(x, TOP + 0.02), (x, TOP + long)], 0.13, shade(pen.accent, 0.15))
    pen.limb([(LEFT + 0.04, TOP + 0.01), (RIGHT - 0.04, TOP + 0.01)], 0.1, shade(pen.accent, 0.15))
    pen.stroke(line([(ROOF_X, ROOF), (ROOF_X, ROOF - 0.1)]), INK, 0.05)
    y = ROOF - 0.07
    for size, colour in ((1.0, (255, 140, 20)), (0.6, (255, 225, 60))):
        h, w = 0.27 * size, 0.11 * size
        flame = blob(
            [
                (ROOF_X + 0.03 * bend, y - h),
                (ROOF_X + w * 0.8, y - h * 0.45),
                (ROOF_X + w, y - h * 0.15),
                (ROOF_X, y + 0.03),
                (ROOF_X - w, y - h * 0.15),
                (ROOF_X - w * 0.6, y - h * 0.5),
            ]
        )
        pen.shape(flame, colour, outline=OUTLINE if size == 1.0 else 0, volume=False)


def _clock_back(pen: Pen, subject: Subject, bend: float) -> None:
    for x in (LEFT + 0.1, RIGHT - 0.1, RIGHT + DX - 0.06):
        pen.shape(ellipse(x, 0.02, 0.08), pen.accent, volume=False)
    for x in (ROOF_X - 0.2, ROOF_X + 0.2):
        pen.shape(ellipse(x, ROOF - 0.08, 0.14), pen.accent)


def _clock_front(pen: Pen, subject: Subject, bend: float) -> None:
    y = TOP / 2
    pen.shape(ellipse(MIDDLE, y, 0.23), (255, 252, 240), volume=False)
    for i in range(4):
        a = math.pi / 2 * i
        pen.dot(MIDDLE + 0.17 * math.cos(a), y + 0.17 * math.sin(a), 0.025)
    for long, share in ((0.1, subject.shape[4]), (0.16, subject.shape[5])):
        a = 2 * math.pi * share
        pen.stroke(line([(MIDDLE, y), (MIDDLE + long * math.cos(a), y + long * math.sin(a))]), INK, 0.048)


def _shoe_front(pen: Pen, subject: Subject, bend: float) -> None:
    opening = polygon(
        [
            (LEFT + 0.13, TOP - 0.035),
            (LEFT + DX, TOP + DY + 0.04),
            (RIGHT + DX - 0.13, TOP + DY + 0.04),
            (RIGHT - 0.03, TOP - 0.035),
        ]
    )
    pen.shape(opening, shade(pen.main, -0.6), volume=False)
    sole = WHITE if subject.class_noun == "sneaker" else pen.accent
    pen.shape(
        polygon([(RIGHT, -0.11), (RIGHT + DX, DY - 0.11), (RIGHT + DX + 0.02, DY), (RIGHT, 0)]),
        shade(sole, -0.2),
        volume=False,
    )
    pen.shape(rounded(LEFT - 0.04, -0.13, RIGHT + 0.03, 0.0, 0.04), sole, volume=False)
    if subject.class_noun == "sneaker":
        for i in range(3):
            y = TOP + 0.11 + i * 0.13
            pen.limb([(MIDDLE - 0.13, y + 0.04), (MIDDLE + 0.13, y - 0.02)], 0.075, WHITE, outline=0.03)
        pen.shape(rounded(LEFT - 0.05, -0.26, LEFT + 0.16, -0.08, 0.06), WHITE, volume=False)


def _boot_front(pen: Pen, subject: Subject, bend: float) -> None:
    _shoe_front(pen, subject, bend)
    foot = rounded(LEFT - 0.22, -0.3, LEFT + 0.22, -0.1, 0.09)
    pen.shape(foot, pen.main)
    pen.shape(rounded(LEFT - 0.24, -0.13, LEFT + 0.24, 0.0, 0.04), pen.accent, volume=False)
    pen.shape(rounded(LEFT - 0.03, TOP - 0.02, RIGHT + 0.03, TOP + 0.13, 0.04), pen.accent)


def _glasses_front(pen: Pen, subject: Subject, bend: float) -> None:
    y = TOP * 0.52
    tint = {"dark": (50, 52, 70), "clear": (200, 232, 250), "accent": shade(pen.accent, 0.1)}[subject.part("tint")]
    pen.limb([(RIGHT, y - 0.06), (RIGHT + DX, y + DY - 0.02)], 0.09, pen.accent)
    for side in (-1, 1):
        x = MIDDLE + side * 0.2
        frame = rounded(x - 0.18, y - 0.16, x + 0.18, y + 0.16, 0.04 if subject.part("lens") == "square" else 0.13)
        pen.shape(frame, pen.accent)
        lens = rounded(x - 0.11, y - 0.09, x + 0.11, y + 0.09, 0.03 if subject.part("lens") == "square" else 0.08)
        pen.shape(lens, tint, volume=False)
        pen.stroke(line([(x - 0.05, y + 0.02), (x + 0.02, y - 0.05)]), WHITE, 0.035, 210)


def _teapot_back(pen: Pen, subject: Subject, bend: float) -> None:
    pen.limb(
        [(RIGHT + 0.1, -0.24), (RIGHT + 0.33, -0.34), (RIGHT + 0.38, -0.56), (RIGHT + 0.46, -0.62)], 0.13, pen.accent
    )
    pen.limb(
        [(LEFT + 0.03, TOP + 0.12), (LEFT - 0.2, TOP + 0.12), (LEFT - 0.2, -0.14), (LEFT + 0.03, -0.14)],
        0.11,
        pen.accent,
    )


def _teapot_front(pen: Pen, subject: Subject, bend: float) -> None:
    lid = polygon(
        [
            (LEFT + 0.12, TOP - 0.03),
            (LEFT + DX, TOP + DY + 0.02),
            (RIGHT + DX - 0.12, TOP + DY + 0.02),
            (RIGHT - 0.01, TOP - 0.03),
        ]
    )
    pen.shape(lid, pen.accent)
    pen.shape(ellipse(ROOF_X, ROOF - 0.07, 0.085), pen.second, volume=False)


def _vase_front(pen: Pen, subject: Subject, bend: float) -> None:
    x, y = ROOF_X, ROOF
    neck = blob(
        [
            (x - 0.14, y + 0.02),
            (x - 0.07, y - 0.09),
            (x - 0.19, y - 0.2),
            (x + 0.19, y - 0.2),
            (x + 0.07, y - 0.09),
            (x + 0.14, y + 0.02),
        ]
    )
    if subject.part("flowers") != "none":
        for dx, dy in ((-0.15, -0.36), (0.15, -0.36), (0.0, -0.42)):
            pen.limb([(x + dx * 0.3, y - 0.18), (x + dx, y + dy)], 0.065, (40, 140, 55), outline=0.025)
            pen.shape(ellipse(x + dx, y + dy, 0.085), pen.accent, outline=0.035, volume=False)
    pen.shape(neck, pen.main)
    pen.shape(ellipse(x, y - 0.2, 0.19, 0.055), pen.accent, volume=False)


_PARTS: dict[str, tuple[Part, Part]] = {
    "backpack": (_backpack_back, _backpack_front),
    "stuffed animal": (cube_characters.plush_back, cube_characters.plush_front),
    "bowl": (_nothing, _bowl_front),
    "can": (_nothing, _can_front),
    "candle": (_nothing, _candle_front),
    "cat": (cube_characters.cat_back, cube_characters.cat_front),
    "clock": (_clock_back, _clock_front),
    "sneaker": (_nothing, _shoe_front),
    "dog": (cube_characters.dog_back, cube_characters.dog_front),
    "toy": (cube_characters.toy_back, cube_characters.toy_front),
    "boot": (_nothing, _boot_front),
    "glasses": (_nothing, _glasses_front),
    "cartoon": (cube_characters.cartoon_back, cube_characters.cartoon_front),
    "teapot": (_teapot_back, _teapot_front),
    "vase": (_nothing, _vase_front),
}
