"""Colours of the mini world: OKLab arithmetic, palettes of clearly different colours, and names for captions.

Colours are RGB tuples of ints in 0..255. Distances and lightness are those of OKLab (lightness 0..1).
"""

import colorsys
import math
from functools import lru_cache

import numpy as np

RGB = tuple[int, int, int]

INK: RGB = (30, 24, 38)
WHITE: RGB = (255, 255, 255)

# hue in degrees of OKLCh that the property changes move to
CHANGE_HUES = {"red": 27.0, "purple": 308.0}

NAMES: dict[str, RGB] = {
    "red": (225, 30, 40),
    "orange": (250, 135, 20),
    "yellow": (250, 220, 40),
    "lime": (165, 230, 40),
    "green": (35, 160, 60),
    "teal": (20, 140, 140),
    "cyan": (50, 215, 230),
    "blue": (35, 85, 225),
    "navy": (25, 35, 115),
    "purple": (130, 45, 195),
    "magenta": (225, 40, 190),
    "pink": (255, 150, 195),
    "brown": (130, 80, 40),
    "beige": (225, 200, 160),
    "white": (248, 248, 248),
    "gray": (145, 145, 150),
    "black": (45, 42, 50),
}


def to_oklab(rgb: RGB) -> tuple[float, float, float]:
    """OKLab (lightness 0..1, a, b) of an sRGB colour."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in rgb)]
    r, g, b = linear
    l_ = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
    m_ = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
    s_ = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
    return (
        0.2104542553 * l_ + 0.7936177850 * m_ - 0.0040720468 * s_,
        1.9779984951 * l_ - 2.4285922050 * m_ + 0.4505937099 * s_,
        0.0259040371 * l_ + 0.7827717662 * m_ - 0.8086757660 * s_,
    )


def from_oklch(lightness: float, chroma: float, hue: float) -> RGB:
    """sRGB of an OKLCh colour (hue in degrees); chroma is reduced until the colour fits the gamut."""
    angle = math.radians(hue)
    while True:
        rgb = _to_linear(lightness, chroma * math.cos(angle), chroma * math.sin(angle))
        if chroma < 0.005 or all(-0.002 <= v <= 1.002 for v in rgb):
            break
        chroma *= 0.95
    encoded = [12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055 for v in (max(x, 0.0) for x in rgb)]
    r, g, b = (min(255, max(0, round(255 * v))) for v in encoded)
    return r, g, b


def _to_linear(lightness: float, a: float, b: float) -> tuple[float, float, float]:
    l_ = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    m_ = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    s_ = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * l_ - 3.3077115913 * m_ + 0.2309699292 * s_,
        -1.2684380046 * l_ + 2.6097574011 * m_ - 0.3413193965 * s_,
        -0.0041960863 * l_ - 0.7034186147 * m_ + 1.7076147010 * s_,
    )


def distance(first: RGB, second: RGB) -> float:
    """OKLab distance; about 0.2 is plainly different, black to white is 1."""
    return math.dist(to_oklab(first), to_oklab(second))


# HSV hues (degrees) that look about equally far apart
_EVEN_HUES = (0, 25, 46, 62, 92, 130, 172, 195, 218, 245, 278, 312, 360)


def random_colour(rng: np.random.Generator) -> RGB:
    """One colour: mostly vivid, some pastel, dark and neutral."""
    kind, hue, first, second = (float(v) for v in rng.random(4))
    if kind < 0.62:
        r, g, b = colorsys.hsv_to_rgb(
            float(np.interp(12 * hue, range(13), _EVEN_HUES)) / 360, 0.72 + 0.28 * first, 0.76 + 0.24 * second
        )
        return round(255 * r), round(255 * g), round(255 * b)
    if kind < 0.74:
        return from_oklch(0.8 + 0.12 * first, 0.07 + 0.05 * second, 360 * hue)
    if kind < 0.86:
        return from_oklch(0.38 + 0.1 * first, 0.12 + 0.1 * second, 360 * hue)
    return from_oklch(0.36 + 0.62 * first, 0.03 * second, 360 * hue)


def random_palette(rng: np.random.Generator) -> tuple[RGB, RGB, RGB]:
    """Main, second, accent: the second (the pattern's) differs plainly from the main one, the accent from both."""
    main = random_colour(rng)
    second = random_colour(rng)
    while distance(main, second) < 0.27:
        second = random_colour(rng)
    accent = random_colour(rng)
    while min(distance(main, accent), distance(second, accent)) < 0.18:
        accent = random_colour(rng)
    return main, second, accent


@lru_cache(maxsize=4096)
def shift_to_hue(colours: tuple[RGB, RGB, RGB], hue: float) -> tuple[RGB, ...]:
    """Move main, second and accent to shades of one hue (OKLCh degrees), keeping their order from dark to light.

    The main colour becomes the hue at its strongest; the others move far enough for the pattern to stay plain.
    """
    main, second, accent = (to_oklab(c)[0] for c in colours)
    lighter = second > main
    base = 0.5 if lighter else 0.6
    pattern = 0.74 if lighter else 0.38
    if (accent > main) != lighter:
        part = 0.36 if lighter else 0.77
    elif (accent > second) == lighter:
        part = 0.84 if lighter else 0.29
    else:
        part = (base + pattern) / 2
    return tuple(from_oklch(v, 0.22 if v < 0.7 else 0.13, hue) for v in (base, pattern, part))


@lru_cache(maxsize=65536)
def shade(colour: RGB, amount: float) -> RGB:
    """Darker (amount < 0) or lighter (amount > 0) version, amount in -1..1."""
    goal = 255 if amount > 0 else 0
    share = abs(amount)
    r, g, b = (round(c + (goal - c) * share) for c in colour)
    return r, g, b


@lru_cache(maxsize=65536)
def name_of(colour: RGB) -> str:
    """The nearest name in NAMES."""
    return min(NAMES, key=lambda name: distance(NAMES[name], colour))
