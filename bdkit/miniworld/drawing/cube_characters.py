"""Dog, cat, stuffed animal, cartoon and toy as cubes: what stands behind the cube and what is on its front."""

from collections.abc import Callable

from bdkit.miniworld.colours import INK, WHITE
from bdkit.miniworld.drawing.pen import Pen, blob, ellipse, line, polygon, rounded
from bdkit.miniworld.subjects import Subject

# draws what is behind, or in front of, the cube: (pen, subject, bend)
Part = Callable[[Pen, Subject, float], None]

SIDE = 0.64
LEFT, RIGHT = -0.42, -0.42 + SIDE
# from the front face's corners to the back face's
DX, DY = 0.2, -0.17
TOP = -SIDE
MIDDLE = (LEFT + RIGHT) / 2
# the middle of the top face
ROOF_X, ROOF = MIDDLE + DX / 2, TOP + DY / 2


def dog_back(pen: Pen, subject: Subject, bend: float) -> None:
    """Legs and tail."""
    for x in (LEFT + 0.1, RIGHT - 0.1, RIGHT + DX - 0.08):
        pen.limb([(x, -0.04), (x, 0.04)], 0.16, pen.main)
    pen.limb([(LEFT + 0.03, -0.3), (LEFT - 0.12, -0.4), (LEFT - 0.16 + 0.05 * bend, -0.55)], 0.11, pen.main)


def dog_front(pen: Pen, subject: Subject, bend: float) -> None:
    """Ears, eyes and muzzle."""
    for side in (-1, 1):
        x = MIDDLE + side * 0.31
        pointed = subject.part("ears") == "pointed"
        ear = (
            polygon([(x - 0.1, TOP + 0.08), (x + 0.1, TOP + 0.08), (x + side * 0.02, TOP - 0.2)])
            if pointed
            else blob(
                [
                    (x - side * 0.06, TOP - 0.06),
                    (x + side * 0.08, TOP + 0.0),
                    (x + side * 0.1, TOP + 0.3),
                    (x - side * 0.03, TOP + 0.32),
                ]
            )
        )
        pen.shape(ear, pen.accent)
        pen.eye(MIDDLE + side * 0.14, TOP + 0.2, 0.065)
    pen.shape(ellipse(MIDDLE, TOP + 0.42, 0.17, 0.13), pen.second if subject.part("muzzle") == "light" else pen.main)
    pen.fill(ellipse(MIDDLE, TOP + 0.35, 0.075, 0.055), INK)
    pen.stroke(line([(MIDDLE, TOP + 0.36), (MIDDLE, TOP + 0.46)]), INK, 0.03)


def cat_back(pen: Pen, subject: Subject, bend: float) -> None:
    """Tail and ears."""
    pen.limb(
        [(RIGHT + 0.1, -0.1), (RIGHT + 0.36, -0.12), (RIGHT + 0.38, -0.34), (RIGHT + 0.33 + 0.05 * bend, -0.5)],
        0.11,
        pen.main,
    )
    for side in (-1, 1):
        x = MIDDLE + side * 0.21
        pen.shape(
            polygon([(x - 0.12, TOP + 0.05), (x + 0.12, TOP + 0.05), (x + side * 0.06, TOP - 0.22)]),
            pen.main,
            volume=False,
        )
        pen.fill(polygon([(x - 0.05, TOP), (x + 0.06, TOP), (x + side * 0.035, TOP - 0.13)]), pen.accent)


def cat_front(pen: Pen, subject: Subject, bend: float) -> None:
    """Ears, eyes, whiskers and paws."""
    for side in (-1, 1):
        x = MIDDLE + side * 0.21
        pen.fill(polygon([(x - 0.12, TOP + 0.03), (x + 0.12, TOP + 0.03), (x + side * 0.06, TOP - 0.22)]), pen.main)
        pen.fill(polygon([(x - 0.05, TOP), (x + 0.06, TOP), (x + side * 0.035, TOP - 0.13)]), pen.accent)
        pen.stroke(line([(x - 0.12, TOP + 0.02), (x + side * 0.06, TOP - 0.22)]))
        pen.stroke(line([(x + 0.12, TOP + 0.02), (x + side * 0.06, TOP - 0.22)]))
        iris = ((255, 226, 60), (150, 235, 90), (110, 205, 255), WHITE)[int(subject.shape[5] * 3.999)]
        pen.eye(MIDDLE + side * 0.15, TOP + 0.22, 0.07, iris, look=0.0)
        for dy in (0.38, 0.46):
            pen.stroke(
                line([(MIDDLE + side * 0.14, TOP + dy), (MIDDLE + side * 0.36, TOP + dy * 1.2 - 0.1)]), INK, 0.024
            )
        pen.shape(ellipse(MIDDLE + side * 0.16, -0.02, 0.1, 0.055), pen.accent, volume=False)
    pen.fill(
        polygon([(MIDDLE - 0.055, TOP + 0.34), (MIDDLE + 0.055, TOP + 0.34), (MIDDLE, TOP + 0.41)]), (255, 120, 150)
    )
    pen.stroke(line([(MIDDLE - 0.08, TOP + 0.47), (MIDDLE, TOP + 0.42), (MIDDLE + 0.08, TOP + 0.47)]), INK, 0.03)


def plush_back(pen: Pen, subject: Subject, bend: float) -> None:
    """Ears and arms."""
    for side in (-1, 1):
        x = MIDDLE + side * 0.25 + 0.04
        pen.shape(ellipse(x, TOP - 0.08, 0.14, 0.2 if subject.part("ears") == "long" else 0.14), pen.main)
        pen.dot(x, TOP - 0.08, 0.065, pen.accent)
    pen.limb([(LEFT + 0.02, -0.28), (LEFT - 0.12, -0.24 - 0.05 * bend)], 0.18, pen.accent)
    pen.limb([(RIGHT + 0.1, -0.32), (RIGHT + 0.3, -0.3 + 0.05 * bend)], 0.18, pen.accent)


def plush_front(pen: Pen, subject: Subject, bend: float) -> None:
    """Ears, face and soles."""
    for side in (-1, 1):
        x = MIDDLE + side * 0.25 + 0.04
        pen.shape(
            ellipse(x, TOP - 0.07, 0.12, 0.17 if subject.part("ears") == "long" else 0.12), pen.main, volume=False
        )
        pen.dot(x, TOP - 0.07, 0.06, pen.accent)
        pen.dot(MIDDLE + side * 0.15, TOP + 0.17, 0.055)
        pen.dot(MIDDLE + side * 0.15 - 0.015, TOP + 0.15, 0.02, WHITE)
        pen.shape(ellipse(MIDDLE + side * 0.22, -0.08, 0.12), pen.accent, volume=False)
    pen.shape(ellipse(MIDDLE, TOP + 0.3, 0.15, 0.11), pen.accent, outline=0.03, volume=False)
    pen.fill(ellipse(MIDDLE, TOP + 0.255, 0.06, 0.042), INK)
    pen.stroke(line([(MIDDLE - 0.06, TOP + 0.34), (MIDDLE, TOP + 0.32), (MIDDLE + 0.06, TOP + 0.34)]), INK, 0.026)


def cartoon_back(pen: Pen, subject: Subject, bend: float) -> None:
    """Legs, shoes and arms."""
    for x in (LEFT + 0.16, RIGHT - 0.05):
        pen.stroke(line([(x, -0.02), (x, 0.08)]), INK, 0.075)
        pen.shape(ellipse(x + 0.02, 0.09, 0.13, 0.06), pen.accent, volume=False)
    for points in (
        [(LEFT, -0.3), (LEFT - 0.13, -0.26), (LEFT - 0.16, -0.46)],
        [(RIGHT + 0.15, -0.36), (RIGHT + 0.32, -0.32), (RIGHT + 0.36, -0.5)],
    ):
        pen.stroke(line(points), INK, 0.07)
        pen.shape(ellipse(*points[-1], 0.085), WHITE, volume=False)


def cartoon_front(pen: Pen, subject: Subject, bend: float) -> None:
    """Eyes, mouth and horns."""
    count = {"one": 1, "two": 2, "three": 3}[subject.part("eyes")]
    r = {1: 0.16, 2: 0.12, 3: 0.09}[count]
    for i in range(count):
        pen.eye(MIDDLE + (i - (count - 1) / 2) * r * 1.95, TOP + 0.22, r)
    pen.stroke(line([(MIDDLE - 0.17, -0.18), (MIDDLE, -0.1), (MIDDLE + 0.17, -0.18)]), INK, 0.055)
    for side in (-1, 1):
        x = ROOF_X + side * 0.22
        pen.shape(
            polygon([(x - 0.09, ROOF + 0.01), (x + 0.09, ROOF + 0.01), (x + side * 0.06, ROOF - 0.2)]),
            pen.accent,
            volume=False,
        )


def toy_back(pen: Pen, subject: Subject, bend: float) -> None:
    """Key, wheels and antenna."""
    pen.limb([(RIGHT + 0.1, -0.36), (RIGHT + 0.32, -0.36)], 0.065, (150, 150, 160))
    for dy in (-0.075, 0.075):
        pen.shape(ellipse(RIGHT + 0.36, -0.36 + dy, 0.06, 0.075), (235, 190, 60), outline=0.035, volume=False)
    for x in (LEFT + 0.12, RIGHT - 0.1, RIGHT + DX - 0.04):
        pen.shape(ellipse(x, 0.0, 0.1), (70, 68, 80), volume=False)
    pen.limb([(ROOF_X, ROOF), (ROOF_X, ROOF - 0.18)], 0.055, (120, 120, 130), outline=0.025)


def toy_front(pen: Pen, subject: Subject, bend: float) -> None:
    """Antenna, eyes and teeth."""
    pen.limb([(ROOF_X, ROOF), (ROOF_X, ROOF - 0.16)], 0.06, (120, 120, 130), outline=0.03)
    pen.shape(ellipse(ROOF_X, ROOF - 0.18, 0.07), pen.second, outline=0.035, volume=False)
    count = {"one": 1, "two": 2, "three": 3}[subject.part("eyes")]
    eye = {1: 0.11, 2: 0.085, 3: 0.07}[count]
    for i in range(count):
        pen.eye(
            MIDDLE + (i - (count - 1) / 2) * 0.2,
            TOP + 0.2,
            eye,
            (255, 240, 120) if subject.shape[6] < 0.5 else (150, 240, 255),
            look=0.0,
        )
    pen.fill(rounded(MIDDLE - 0.19, -0.2, MIDDLE + 0.19, -0.08, 0.01), INK)
    for i in (-1, 0, 1):
        pen.fill(rounded(MIDDLE + i * 0.115 - 0.04, -0.175, MIDDLE + i * 0.115 + 0.04, -0.105, 0.0), WHITE)
