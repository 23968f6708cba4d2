"""The dog (standing, seen from its side) and the cat (sitting, seen from the front)."""

from bdkit.miniworld import outfits
from bdkit.miniworld.colours import INK, shade
from bdkit.miniworld.drawing.patterns import EMBLEMS
from bdkit.miniworld.drawing.pen import Pen, blob, ellipse, lerp, line, polygon
from bdkit.miniworld.outfits import Anatomy
from bdkit.miniworld.subjects import Subject

PINK = (255, 140, 160)


def draw_dog(pen: Pen, subject: Subject, bend: float, outfit: str | None) -> None:
    """A dog looking to the right. bend in -1..1 moves its legs and tail."""
    s = subject.shape
    leg, length, thick = lerp(0.17, 0.31, s[0]), lerp(0.6, 0.84, s[1]), lerp(0.29, 0.4, s[2])
    r, snout = lerp(0.19, 0.24, s[3]), lerp(0.1, 0.2, s[4])
    back, front = -length / 2 - 0.06, length / 2 - 0.06
    belly, top = -leg - 0.0, -leg - thick
    head = (front + lerp(0.0, 0.08, s[6]), top - r * lerp(0.35, 0.75, s[7]))
    _dog_tail(pen, subject, (back + 0.05, top + 0.09), bend)
    paw = pen.second if subject.part("socks") == "socks" else None
    far, near = shade(pen.main, -0.3), pen.main
    for x, swing, colour in (
        (back + 0.2, -0.05 * bend, far),
        (front - 0.05, 0.05 * bend, far),
        (back + 0.1, 0.06 * bend, near),
        (front - 0.15, -0.06 * bend, near),
    ):
        pen.limb([(x, belly - 0.12), (x + swing, -0.07)], 0.15, colour)
        pen.shape(ellipse(x + swing + 0.025, -0.055, 0.085, 0.055), paw or colour, volume=False)
    neck_low = (front - 0.1, top + 0.17)
    pen.limb([neck_low, (head[0] - 0.02, head[1] + 0.05)], 0.25, pen.main)
    tuck = lerp(0.0, 0.08, s[8])
    torso = blob(
        [
            (back, top + thick * 0.45),
            (back + 0.06, top + 0.04),
            (0.0 - 0.06, top + 0.015),
            (front - 0.08, top),
            (front + 0.03, top + thick * 0.4),
            (front - 0.05, belly),
            (-0.06, belly - tuck),
            (back + 0.06, belly),
        ]
    )
    pen.patterned(torso, (back, top, front, belly))
    eyes = ((head[0] + 0.015, head[1] - 0.03, 0.056), (head[0] + 0.145, head[1] - 0.04, 0.05))
    anatomy = Anatomy(
        head=head,
        head_radius=(r, r),
        crown=(head[0] - 0.01, head[1] - r * 0.78),
        hat=r * 1.0,
        eyes=eyes,
        neck=((front - 0.24, top + 0.06), (front + 0.1, top + 0.25)),
        torso=torso,
        jacket=(lerp(back, front, 0.36), top - 0.1, front + 0.1, belly + 0.04),
        chest=(front - 0.12, top + thick * 0.55),
    )
    outfits.wear_on_body(pen, anatomy, outfit)
    if subject.part("collar") != "none" and outfit is None:
        pen.limb([(front - 0.21, top - 0.0), (front + 0.08, top + 0.2)], 0.12, pen.accent)
        if subject.part("collar") == "tag":
            pen.shape(ellipse(front + 0.04, top + 0.27, 0.06), (255, 214, 50), volume=False)
    _dog_head(pen, subject, head, r, snout, eyes)
    outfits.wear_on_head(pen, anatomy, outfit)


def _dog_tail(pen: Pen, subject: Subject, root: tuple[float, float], bend: float) -> None:
    x, y = root
    long = lerp(0.75, 1.15, subject.shape[9])
    kind, wag = subject.part("tail"), 0.05 * bend
    if kind == "curled":
        pen.limb(
            [(x, y), (x - 0.15, y - 0.08), (x - 0.17 * long + wag, y - 0.26 * long), (x - 0.03 + wag, y - 0.26 * long)],
            0.11,
            pen.main,
        )
    elif kind == "straight":
        pen.limb([(x, y), (x - 0.12 * long, y - 0.12 * long), (x - 0.22 * long + wag, y - 0.3 * long)], 0.1, pen.main)
    elif kind == "bushy":
        tail = blob(
            [
                (x, y + 0.04),
                (x - 0.16 * long, y + 0.02),
                (x - 0.3 * long + wag, y - 0.2 * long),
                (x - 0.24 * long + wag, y - 0.34 * long),
                (x - 0.09 * long, y - 0.2 * long),
            ]
        )
        pen.shape(tail, pen.accent)
    else:
        pen.limb([(x, y), (x - 0.1 + wag * 0.4, y - 0.09 * long)], 0.13, pen.accent)


def _dog_head(
    pen: Pen,
    subject: Subject,
    head: tuple[float, float],
    r: float,
    snout: float,
    eyes: tuple[tuple[float, float, float], tuple[float, float, float]],
) -> None:
    x, y = head
    kind, long = subject.part("ears"), lerp(0.85, 1.25, subject.shape[5])
    if kind == "pointed":
        pen.shape(
            polygon([(x + 0.02, y - r * 0.6), (x + 0.14, y - r * 0.6), (x + 0.11, y - r * (0.85 + 0.55 * long))]),
            shade(pen.accent, -0.25),
            volume=False,
        )
    end = x + r * 0.72 + snout
    skull = blob(
        [
            (x - r, y + 0.02),
            (x - r * 0.65, y - r * 0.78),
            (x + 0.02, y - r),
            (x + r * 0.75, y - r * 0.6),
            (x + r * 0.95, y + 0.0),
            (end, y + 0.04),
            (end + 0.02, y + 0.14),
            (end - 0.07, y + r * 0.86),
            (x + r * 0.3, y + r * 0.98),
            (x - r * 0.65, y + r * 0.8),
        ]
    )
    pen.shape(skull, pen.main)
    if subject.part("muzzle") == "light":
        muzzle = blob(
            [
                (x + r * 0.7, y + 0.07),
                (end - 0.03, y + 0.05),
                (end, y + 0.14),
                (end - 0.08, y + r * 0.82),
                (x + r * 0.35, y + r * 0.82),
            ]
        )
        pen.fill(muzzle, pen.second)
    if subject.part("eye") == "patch":
        pen.fill(ellipse(eyes[0][0] - 0.01, eyes[0][1], 0.105, 0.115), pen.second)
    pen.shape(ellipse(end - 0.005, y + 0.055, 0.062, 0.052), INK, outline=0, volume=False)
    pen.stroke(line([(end - 0.03, y + 0.16), (x + r * 0.75, y + 0.17)]), INK, 0.03)
    for ex, ey, er in eyes:
        pen.eye(ex, ey, er)
    if kind == "floppy":
        ear = blob(
            [
                (x - r * 0.5, y - r * 0.85),
                (x - r * 0.2, y - r * 0.4),
                (x - r * 0.32, y + r * 0.85 * long),
                (x - r * 0.85, y + r * 1.1 * long),
                (x - r * 1.25, y + r * 0.6),
                (x - r * 0.95, y - r * 0.4),
            ]
        )
    elif kind == "pointed":
        ear = polygon(
            [(x - r * 0.95, y - r * 0.35), (x - r * 0.15, y - r * 0.85), (x - r * 0.75, y - r * (0.95 + 0.6 * long))]
        )
    elif kind == "folded":
        ear = polygon([(x - r * 0.9, y - r * 0.75), (x - r * 0.1, y - r * 0.95), (x - r * 0.75, y + r * 0.35 * long)])
    else:
        ear = ellipse(x - r * 0.72, y - r * 0.72, 0.125 * long)
    pen.shape(ear, pen.accent)


def draw_cat(pen: Pen, subject: Subject, bend: float, outfit: str | None) -> None:
    """A cat that sits and looks at us. bend in -1..1 moves its tail and head."""
    s = subject.shape
    wide, high = lerp(0.24, 0.34, s[0]), lerp(0.44, 0.54, s[1])
    rx, ry = lerp(0.25, 0.32, s[2]), lerp(0.2, 0.24, s[3])
    x, y = 0.03 * bend, -high - ry * 0.5
    _cat_tail(pen, subject, wide, bend)
    torso = blob(
        [
            (-0.12, -high),
            (0.12, -high),
            (wide * 0.86, -high * 0.5),
            (wide, -0.12),
            (wide * 0.66, 0.0),
            (-wide * 0.66, 0.0),
            (-wide, -0.12),
            (-wide * 0.86, -high * 0.5),
        ]
    )
    pen.patterned(torso, (-wide, -high, wide, 0.0))
    if subject.part("chest") == "bib" and subject.pattern not in EMBLEMS:
        pen.fill(
            blob(
                [
                    (-0.1, -high + 0.05),
                    (0.1, -high + 0.05),
                    (0.085, -high * 0.52),
                    (0, -high * 0.36),
                    (-0.085, -high * 0.52),
                ]
            ),
            pen.accent,
        )
    for side in (-1, 1):
        pen.stroke(line([(side * 0.035, -high * 0.3), (side * 0.04, -0.06)]), INK, 0.03)
        pen.shape(ellipse(side * 0.12, -0.045, 0.095, 0.055), pen.accent, volume=False)
    eye = lerp(0.055, 0.075, s[6])
    apart = rx * lerp(0.4, 0.5, s[7])
    eyes = ((x - apart, y - 0.03, eye), (x + apart, y - 0.03, eye))
    anatomy = Anatomy(
        head=(x, y),
        head_radius=(rx, ry),
        crown=(x, y - ry * 0.82),
        hat=rx * 0.86,
        eyes=eyes,
        neck=((x * 0.5 - 0.19, -high + 0.13), (x * 0.5 + 0.19, -high + 0.13)),
        torso=torso,
        jacket=(-wide - 0.05, -high - 0.05, wide + 0.05, -high * 0.22),
        chest=(wide * 0.42, -high * 0.62),
    )
    outfits.wear_on_body(pen, anatomy, outfit)
    if subject.part("collar") != "none" and outfit is None:
        pen.limb([(-0.16, -high + 0.07), (0.0, -high + 0.115), (0.16, -high + 0.07)], 0.11, pen.second)
        if subject.part("collar") == "bell":
            pen.shape(ellipse(0, -high + 0.15, 0.06), (255, 214, 50), volume=False)
    _cat_head(pen, subject, anatomy)
    outfits.wear_on_head(pen, anatomy, outfit)


def _cat_tail(pen: Pen, subject: Subject, wide: float, bend: float) -> None:
    s = subject.shape
    out, up = wide + lerp(0.12, 0.2, s[8]), lerp(0.3, 0.6, s[9])
    kind = subject.part("tail")
    width = 0.17 if kind == "fluffy" else 0.105
    points = [(wide * 0.5, -0.07), (out - 0.02, -0.08), (out + 0.05, -up * 0.55), (out - 0.02 + 0.06 * bend, -up)]
    pen.limb(points, width, pen.accent if kind == "fluffy" else pen.main)
    if kind == "tipped":
        pen.limb([points[-1], (out + 0.02, -up * 0.78)], width, pen.accent)


def _cat_head(pen: Pen, subject: Subject, anatomy: Anatomy) -> None:
    (x, y), (rx, ry) = anatomy.head, anatomy.head_radius
    tall = lerp(0.13, 0.22, subject.shape[4])
    kind = subject.part("ears")
    for side in (-1, 1):
        if kind == "pointed":
            ear = [(side * rx * 0.95, -ry * 0.3), (side * rx * 0.2, -ry * 0.8), (side * rx * 0.85, -ry * 0.75 - tall)]
        elif kind == "wide":
            ear = [(side * rx * 0.98, -ry * 0.1), (side * rx * 0.15, -ry * 0.85), (side * rx * 1.15, -ry * 0.5 - tall)]
        else:
            ear = [
                (side * rx * 0.95, -ry * 0.3),
                (side * rx * 0.25, -ry * 0.85),
                (side * rx * 0.62, -ry * 0.75 - tall * 0.6),
                (side * rx * 1.1, -ry * 0.72),
            ]
        points = [(x + ex, y + ey) for ex, ey in ear]
        pen.shape(polygon(points), pen.main, volume=False)
        cx, cy = sum(p[0] for p in points) / len(points), sum(p[1] for p in points) / len(points)
        pen.fill(polygon([(cx + (px - cx) * 0.45, cy + (py - cy) * 0.45) for px, py in points]), pen.accent)
    skull = blob(
        [
            (x, y - ry),
            (x + rx * 0.72, y - ry * 0.74),
            (x + rx, y + 0.02),
            (x + rx * 0.66, y + ry * 0.82),
            (x, y + ry),
            (x - rx * 0.66, y + ry * 0.82),
            (x - rx, y + 0.02),
            (x - rx * 0.72, y - ry * 0.74),
        ]
    )
    pen.shape(skull, pen.main)
    mask = subject.part("mask")
    if mask == "muzzle":
        pen.fill(ellipse(x, y + ry * 0.5, rx * 0.45, ry * 0.42), pen.second)
    elif mask == "stripes":
        for dx in (-0.09, 0.0, 0.09):
            pen.stroke(
                line([(x + dx, y - ry * 0.88), (x + dx * 0.8, y - ry * (0.5 if dx else 0.38))]), pen.second, 0.05
            )
    iris = ((255, 226, 60), (150, 235, 90), (110, 205, 255), (255, 255, 255))[int(subject.shape[5] * 3.999)]
    for ex, ey, er in anatomy.eyes:
        pen.eye(ex, ey, er, iris, look=0.0)
        if subject.part("eyes") == "sleepy":
            pen.stroke(line([(ex - er - 0.015, ey - er * 0.45), (ex + er + 0.015, ey - er * 0.45)]), INK, 0.045)
    pen.fill(polygon([(x - 0.045, y + ry * 0.28), (x + 0.045, y + ry * 0.28), (x, y + ry * 0.5)]), INK)
    pen.fill(polygon([(x - 0.025, y + ry * 0.31), (x + 0.025, y + ry * 0.31), (x, y + ry * 0.43)]), PINK)
    pen.stroke(line([(x - 0.085, y + ry * 0.58), (x - 0.04, y + ry * 0.68), (x, y + ry * 0.5)]), INK, 0.025)
    pen.stroke(line([(x + 0.085, y + ry * 0.58), (x + 0.04, y + ry * 0.68), (x, y + ry * 0.5)]), INK, 0.025)
    for side in (-1, 1):
        for dy in (0.3, 0.55):
            pen.stroke(
                line([(x + side * rx * 0.55, y + ry * dy), (x + side * rx * 1.2, y + ry * (dy * 1.5 - 0.2))]), INK, 0.02
            )
