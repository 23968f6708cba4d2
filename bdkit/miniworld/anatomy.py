"""What an outfit needs to know about the animal that wears it."""

from dataclasses import dataclass

import skia

from bdkit.miniworld.pen import Box, Point


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """Anchors in subject coordinates.

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
