"""Every class as a cube: the identity's colours and pattern on its faces, and the parts that name the class."""

import math
from collections.abc import Callable

import skia

from .colours import INK, WHITE, shade
from .pen import OUTLINE, Pen, blob, ellipse, line, polygon, rounded
from .subjects import Subject

SIDE = 0.64
LEFT, RIGHT = -0.42, -0.42 + SIDE
DX, DY = 0.2, -0.17
MIDDLE = (LEFT + RIGHT) / 2


def draw_cube(pen: Pen, subject: Subject, bend: float) -> None:
    """A cube in oblique projection; the front face carries the pattern and the class's face or parts."""
    before, after = _PARTS[subject.class_noun]
    pen.canvas.save()
    pen.canvas.translate(0, _LIFT.get(subject.class_noun, 0.0))
    before(pen, subject, bend)
    top = -SIDE
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


Part = Callable[[Pen, Subject, float], None]
_LIFT = {"dog": -0.1, "cat": -0.04, "clock": -0.09, "cartoon": -0.13, "toy": -0.1}
TOP = -SIDE
ROOF = TOP + DY / 2
ROOF_X = MIDDLE + DX / 2


def _nothing(pen: Pen, subject: Subject, bend: float) -> None:
    pass


def _dog_back(pen: Pen, subject: Subject, bend: float) -> None:
    for x in (LEFT + 0.1, RIGHT - 0.1, RIGHT + DX - 0.08):
        pen.limb([(x, -0.04), (x, 0.04)], 0.16, pen.main)
    pen.limb([(LEFT + 0.03, -0.3), (LEFT - 0.12, -0.4), (LEFT - 0.16 + 0.05 * bend, -0.55)], 0.11, pen.main)


def _dog_front(pen: Pen, subject: Subject, bend: float) -> None:
    for side in (-1, 1):
        x = MIDDLE + side * 0.31
        pointed = subject.part("ears") == "pointed"
        ear = polygon([(x - 0.1, TOP + 0.08), (x + 0.1, TOP + 0.08), (x + side * 0.02, TOP - 0.2)]) if pointed else blob([(x - side * 0.06, TOP - 0.06), (x + side * 0.08, TOP + 0.0), (x + side * 0.1, TOP + 0.3), (x - side * 0.03, TOP + 0.32)])
        pen.shape(ear, pen.accent)
        pen.eye(MIDDLE + side * 0.14, TOP + 0.2, 0.065)
    pen.shape(ellipse(MIDDLE, TOP + 0.42, 0.17, 0.13), pen.second if subject.part("muzzle") == "light" else pen.main)
    pen.fill(ellipse(MIDDLE, TOP + 0.35, 0.075, 0.055), INK)
    pen.stroke(line([(MIDDLE, TOP + 0.36), (MIDDLE, TOP + 0.46)]), INK, 0.03)


def _cat_back(pen: Pen, subject: Subject, bend: float) -> None:
    pen.limb([(RIGHT + 0.1, -0.1), (RIGHT + 0.36, -0.12), (RIGHT + 0.38, -0.34), (RIGHT + 0.33 + 0.05 * bend, -0.5)], 0.11, pen.main)
    for side in (-1, 1):
        x = MIDDLE + side * 0.21
        pen.shape(polygon([(x - 0.12, TOP + 0.05), (x + 0.12, TOP + 0.05), (x + side * 0.06, TOP - 0.22)]), pen.main, volume=False)
        pen.fill(polygon([(x - 0.05, TOP), (x + 0.06, TOP), (x + side * 0.035, TOP - 0.13)]), pen.accent)


def _cat_front(pen: Pen, subject: Subject, bend: float) -> None:
    for side in (-1, 1):
        x = MIDDLE + side * 0.21
        pen.fill(polygon([(x - 0.12, TOP + 0.03), (x + 0.12, TOP + 0.03), (x + side * 0.06, TOP - 0.22)]), pen.main)
        pen.fill(polygon([(x - 0.05, TOP), (x + 0.06, TOP), (x + side * 0.035, TOP - 0.13)]), pen.accent)
        pen.stroke(line([(x - 0.12, TOP + 0.02), (x + side * 0.06, TOP - 0.22)]))
        pen.stroke(line([(x + 0.12, TOP + 0.02), (x + side * 0.06, TOP - 0.22)]))
        iris = ((255, 226, 60), (150, 235, 90), (110, 205, 255), WHITE)[int(subject.shape[5] * 3.999)]
        pen.eye(MIDDLE + side * 0.15, TOP + 0.22, 0.07, iris, look=0.0)
        for dy in (0.38, 0.46):
            pen.stroke(line([(MIDDLE + side * 0.14, TOP + dy), (MIDDLE + side * 0.36, TOP + dy * 1.2 - 0.1)]), INK, 0.024)
        pen.shape(ellipse(MIDDLE + side * 0.16, -0.02, 0.1, 0.055), pen.accent, volume=False)
    pen.fill(polygon([(MIDDLE - 0.055, TOP + 0.34), (MIDDLE + 0.055, TOP + 0.34), (MIDDLE, TOP + 0.41)]), (255, 120, 150))
    pen.stroke(line([(MIDDLE - 0.08, TOP + 0.47), (MIDDLE, TOP + 0.42), (MIDDLE + 0.08, TOP + 0.47)]), INK, 0.03)


def _backpack_back(pen: Pen, subject: Subject, bend: float) -> None:
    pen.limb([(ROOF_X - 0.12, ROOF), (ROOF_X - 0.1, ROOF - 0.2), (ROOF_X + 0.1, ROOF - 0.2), (ROOF_X + 0.12, ROOF)], 0.1, pen.accent)
    pen.limb([(RIGHT + 0.1, TOP), (RIGHT + 0.34, TOP + 0.14), (RIGHT + 0.34, -0.22), (RIGHT + 0.1, -0.14)], 0.12, pen.accent)
    pen.limb([(LEFT + 0.05, TOP + 0.08), (LEFT - 0.13, TOP + 0.2), (LEFT - 0.13, -0.16), (LEFT + 0.05, -0.08)], 0.12, pen.accent)


def _backpack_front(pen: Pen, subject: Subject, bend: float) -> None:
    pen.limb([(ROOF_X - 0.12, ROOF + 0.03), (ROOF_X - 0.1, ROOF - 0.2), (ROOF_X + 0.1, ROOF - 0.2), (ROOF_X + 0.12, ROOF + 0.03)], 0.1, pen.accent)
    pen.shape(rounded(MIDDLE - 0.22, -0.3, MIDDLE + 0.22, -0.05, 0.08), pen.accent)
    pen.stroke(line([(LEFT + 0.08, TOP + 0.12), (RIGHT - 0.08, TOP + 0.12)]), INK, 0.065)
    pen.stroke(line([(LEFT + 0.08, TOP + 0.12), (RIGHT - 0.08, TOP + 0.12)]), (230, 230, 235), 0.025)


def _plush_back(pen: Pen, subject: Subject, bend: float) -> None:
    for side in (-1, 1):
        x = MIDDLE + side * 0.25 + 0.04
        pen.shape(ellipse(x, TOP - 0.08, 0.14, 0.2 if subject.part("ears") == "long" else 0.14), pen.main)
        pen.dot(x, TOP - 0.08, 0.065, pen.accent)
    pen.limb([(LEFT + 0.02, -0.28), (LEFT - 0.12, -0.24 - 0.05 * bend)], 0.18, pen.accent)
    pen.limb([(RIGHT + 0.1, -0.32), (RIGHT + 0.3, -0.3 + 0.05 * bend)], 0.18, pen.accent)


def _plush_front(pen: Pen, subject: Subject, bend: float) -> None:
    for side in (-1, 1):
        x = MIDDLE + side * 0.25 + 0.04
        pen.shape(ellipse(x, TOP - 0.07, 0.12, 0.17 if subject.part("ears") == "long" else 0.12), pen.main, volume=False)
        pen.dot(x, TOP - 0.07, 0.06, pen.accent)
        pen.dot(MIDDLE + side * 0.15, TOP + 0.17, 0.055)
        pen.dot(MIDDLE + side * 0.15 - 0.015, TOP + 0.15, 0.02, WHITE)
        pen.shape(ellipse(MIDDLE + side * 0.22, -0.08, 0.12), pen.accent, volume=False)
    pen.shape(ellipse(MIDDLE, TOP + 0.3, 0.15, 0.11), pen.accent, outline=0.03, volume=False)
    pen.fill(ellipse(MIDDLE, TOP + 0.255, 0.06, 0.042), INK)
    pen.stroke(line([(MIDDLE - 0.06, TOP + 0.34), (MIDDLE, TOP + 0.32), (MIDDLE + 0.06, TOP + 0.34)]), INK, 0.026)


def _bowl_front(pen: Pen, subject: Subject, bend: float) -> None:
    inner = polygon([(LEFT + 0.1, TOP - 0.025), (LEFT + DX - 0.01, TOP + DY + 0.03), (RIGHT + DX - 0.1, TOP + DY + 0.03), (RIGHT + 0.0, TOP - 0.025)])
    content = subject.part("content")
    pen.shape(inner, {"soup": (240, 150, 40), "noodles": (255, 220, 110)}.get(content, shade(pen.main, -0.5)), volume=False)
    colours = ((225, 30, 60), (90, 40, 160)) if content == "berries" else ((90, 200, 60), (255, 205, 40))
    if content in ("berries", "fruit", "none"):
        for i in range(5) if content != "none" else ():
            pen.shape(ellipse(LEFT + 0.18 + i * 0.12, ROOF - 0.03 * (i % 2), 0.085), colours[i % 2], outline=0.035, volume=False)
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
        flame = blob([(ROOF_X + 0.03 * bend, y - h), (ROOF_X + w * 0.8, y - h * 0.45), (ROOF_X + w, y - h * 0.15), (ROOF_X, y + 0.03), (ROOF_X - w, y - h * 0.15), (ROOF_X - w * 0.6, y - h * 0.5)])
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
    opening = polygon([(LEFT + 0.13, TOP - 0.035), (LEFT + DX, TOP + DY + 0.04), (RIGHT + DX - 0.13, TOP + DY + 0.04), (RIGHT - 0.03, TOP - 0.035)])
    pen.shape(opening, shade(pen.main, -0.6), volume=False)
    sole = WHITE if subject.class_noun == "sneaker" else pen.accent
    pen.shape(polygon([(RIGHT, -0.11), (RIGHT + DX, DY - 0.11), (RIGHT + DX + 0.02, DY), (RIGHT, 0)]), shade(sole, -0.2), volume=False)
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


def _cartoon_back(pen: Pen, subject: Subject, bend: float) -> None:
    for x in (LEFT + 0.16, RIGHT - 0.05):
        pen.stroke(line([(x, -0.02), (x, 0.08)]), INK, 0.075)
        pen.shape(ellipse(x + 0.02, 0.09, 0.13, 0.06), pen.accent, volume=False)
    for points in ([(LEFT, -0.3), (LEFT - 0.13, -0.26), (LEFT - 0.16, -0.46)], [(RIGHT + 0.15, -0.36), (RIGHT + 0.32, -0.32), (RIGHT + 0.36, -0.5)]):
        pen.stroke(line(points), INK, 0.07)
        pen.shape(ellipse(*points[-1], 0.085), WHITE, volume=False)


def _cartoon_front(pen: Pen, subject: Subject, bend: float) -> None:
    count = {"one": 1, "two": 2, "three": 3}[subject.part("eyes")]
    r = {1: 0.16, 2: 0.12, 3: 0.09}[count]
    for i in range(count):
        pen.eye(MIDDLE + (i - (count - 1) / 2) * r * 1.95, TOP + 0.22, r)
    pen.stroke(line([(MIDDLE - 0.17, -0.18), (MIDDLE, -0.1), (MIDDLE + 0.17, -0.18)]), INK, 0.055)
    for side in (-1, 1):
        x = ROOF_X + side * 0.22
        pen.shape(polygon([(x - 0.09, ROOF + 0.01), (x + 0.09, ROOF + 0.01), (x + side * 0.06, ROOF - 0.2)]), pen.accent, volume=False)


def _toy_back(pen: Pen, subject: Subject, bend: float) -> None:
    pen.limb([(RIGHT + 0.1, -0.36), (RIGHT + 0.32, -0.36)], 0.065, (150, 150, 160))
    for dy in (-0.075, 0.075):
        pen.shape(ellipse(RIGHT + 0.36, -0.36 + dy, 0.06, 0.075), (235, 190, 60), outline=0.035, volume=False)
    for x in (LEFT + 0.12, RIGHT - 0.1, RIGHT + DX - 0.04):
        pen.shape(ellipse(x, 0.0, 0.1), (70, 68, 80), volume=False)
    pen.limb([(ROOF_X, ROOF), (ROOF_X, ROOF - 0.18)], 0.055, (120, 120, 130), outline=0.025)


def _toy_front(pen: Pen, subject: Subject, bend: float) -> None:
    pen.limb([(ROOF_X, ROOF), (ROOF_X, ROOF - 0.16)], 0.06, (120, 120, 130), outline=0.03)
    pen.shape(ellipse(ROOF_X, ROOF - 0.18, 0.07), pen.second, outline=0.035, volume=False)
    count = {"one": 1, "two": 2, "three": 3}[subject.part("eyes")]
    eye = {1: 0.11, 2: 0.085, 3: 0.07}[count]
    for i in range(count):
        pen.eye(MIDDLE + (i - (count - 1) / 2) * 0.2, TOP + 0.2, eye, (255, 240, 120) if subject.shape[6] < 0.5 else (150, 240, 255), look=0.0)
    pen.fill(rounded(MIDDLE - 0.19, -0.2, MIDDLE + 0.19, -0.08, 0.01), INK)
    for i in (-1, 0, 1):
        pen.fill(rounded(MIDDLE + i * 0.115 - 0.04, -0.175, MIDDLE + i * 0.115 + 0.04, -0.105, 0.0), WHITE)


def _teapot_back(pen: Pen, subject: Subject, bend: float) -> None:
    pen.limb([(RIGHT + 0.1, -0.24), (RIGHT + 0.33, -0.34), (RIGHT + 0.38, -0.56), (RIGHT + 0.46, -0.62)], 0.13, pen.accent)
    pen.limb([(LEFT + 0.03, TOP + 0.12), (LEFT - 0.2, TOP + 0.12), (LEFT - 0.2, -0.14), (LEFT + 0.03, -0.14)], 0.11, pen.accent)


def _teapot_front(pen: Pen, subject: Subject, bend: float) -> None:
    lid = polygon([(LEFT + 0.12, TOP - 0.03), (LEFT + DX, TOP + DY + 0.02), (RIGHT + DX - 0.12, TOP + DY + 0.02), (RIGHT - 0.01, TOP - 0.03)])
    pen.shape(lid, pen.accent)
    pen.shape(ellipse(ROOF_X, ROOF - 0.07, 0.085), pen.second, volume=False)


def _vase_front(pen: Pen, subject: Subject, bend: float) -> None:
    y = ROOF
    pen.shape(polygon([(ROOF_X - 0.13, y), (ROOF_X - 0.1, y - 0.1), (ROOF_X - 0.19, y - 0.17), (ROOF_X + 0.19, y - 0.17), (ROOF_X + 0.1, y - 0.1), (ROOF_X + 0.13, y)]), pen.main)
    pen.shape(ellipse(ROOF_X, y - 0.17, 0.19, 0.05), pen.accent, volume=False)


_PARTS: dict[str, tuple[Part, Part]] = {
    "backpack": (_backpack_back, _backpack_front),
    "stuffed animal": (_plush_back, _plush_front),
    "bowl": (_nothing, _bowl_front),
    "can": (_nothing, _can_front),
    "candle": (_nothing, _candle_front),
    "cat": (_cat_back, _cat_front),
    "clock": (_clock_back, _clock_front),
    "sneaker": (_nothing, _shoe_front),
    "dog": (_dog_back, _dog_front),
    "toy": (_toy_back, _toy_front),
    "boot": (_nothing, _boot_front),
    "glasses": (_nothing, _glasses_front),
    "cartoon": (_cartoon_back, _cartoon_front),
    "teapot": (_teapot_back, _teapot_front),
    "vase": (_nothing, _vase_front),
}
