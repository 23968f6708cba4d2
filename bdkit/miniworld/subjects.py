"""Who a subject is: its shape, colours, pattern and parts, and which split of the identity space it belongs to."""

import hashlib
from dataclasses import dataclass

import numpy as np

from bdkit.miniworld.colours import RGB, random_palette
from bdkit.miniworld.drawing.patterns import PATTERNS

CLASSES: tuple[str, ...] = (
    "backpack",
    "stuffed animal",
    "bowl",
    "can",
    "candle",
    "cat",
    "clock",
    "sneaker",
    "dog",
    "toy",
    "boot",
    "glasses",
    "cartoon",
    "teapot",
    "vase",
)
LIVE_CLASSES = frozenset({"dog", "cat"})

SPLITS = ("train", "evaluators", "dev", "test")
_SPLIT_ENDS = (0.70, 0.84, 0.92, 1.0)

N_SHAPE = 10
N_PATTERN_SHAPE = 4

# class -> the parts that an individual chooses, and the choices for each
PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "backpack": {
        "pocket": ("round", "square", "double", "none"),
        "handle": ("loop", "wide"),
        "sides": ("straps", "pouches"),
        "flap": ("none", "flap", "zipper"),
    },
    "stuffed animal": {
        "ears": ("round", "long", "pointed", "floppy"),
        "belly": ("plain", "patch", "bow"),
        "muzzle": ("wide", "small"),
        "pads": ("plain", "pads"),
    },
    "bowl": {
        "content": ("none", "berries", "noodles", "soup", "fruit"),
        "foot": ("low", "high", "none"),
        "rim": ("plain", "thick"),
    },
    "can": {
        "bands": ("none", "both", "top"),
        "top": ("tab", "open", "straw"),
    },
    "candle": {
        "holder": ("none", "dish", "stick", "glass"),
        "wax": ("drips", "flat"),
        "top": ("round", "slanted"),
    },
    "cat": {
        "ears": ("pointed", "wide", "folded"),
        "tail": ("thin", "fluffy", "tipped"),
        "chest": ("plain", "bib"),
        "collar": ("none", "band", "bell"),
        "mask": ("none", "muzzle", "stripes"),
        "eyes": ("round", "sleepy"),
    },
    "clock": {
        "case": ("round", "square", "octagon", "house"),
        "top": ("bells", "handle", "none"),
        "feet": ("legs", "balls", "stand"),
        "marks": ("four", "twelve", "none"),
    },
    "sneaker": {
        "toe": ("cap", "plain"),
        "side": ("none", "stripe", "circle", "wave"),
        "heel": ("tab", "plain"),
        "laces": ("white", "accent", "strap"),
    },
    "dog": {
        "ears": ("floppy", "pointed", "folded", "round"),
        "tail": ("curled", "straight", "bushy", "stub"),
        "collar": ("none", "band", "tag"),
        "socks": ("none", "socks"),
        "muzzle": ("plain", "light"),
        "eye": ("plain", "patch"),
    },
    "toy": {
        "body": ("box", "round", "trapezoid"),
        "base": ("legs", "wheels", "tracks"),
        "eyes": ("one", "two", "three"),
        "antenna": ("one", "two", "bulb", "propeller"),
        "arms": ("claws", "balls", "none"),
    },
    "boot": {
        "cuff": ("none", "fur", "fold"),
        "heel": ("flat", "block", "high"),
        "front": ("none", "laces", "buckle", "zipper"),
        "toe": ("round", "cap", "pointed"),
    },
    "glasses": {
        "lens": ("round", "square", "cat-eye", "heart", "hexagon"),
        "bridge": ("arch", "bar"),
        "tint": ("dark", "clear", "accent"),
    },
    "cartoon": {
        "eyes": ("one", "two", "three"),
        "head": ("horns", "hair", "leaf", "antennae"),
        "mouth": ("smile", "teeth", "tongue"),
        "body": ("egg", "square", "drop"),
        "arms": ("up", "down", "hips"),
    },
    "teapot": {
        "handle": ("ear", "square", "top"),
        "spout": ("curved", "straight", "short"),
        "knob": ("ball", "tall", "flat"),
        "foot": ("none", "ring", "feet"),
    },
    "vase": {
        "handles": ("none", "two", "one"),
        "flowers": ("none", "daisies", "tulips", "twigs"),
        "rim": ("flared", "straight", "wavy"),
    },
}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One individual. Words cannot pin it down; two images of it can.

    class_noun: one of CLASSES. shape: N_SHAPE numbers in 0..1 (what each means depends on the class).
    colours: main, second (the pattern's) and accent, RGB in 0..255, plainly different from each other.
    pattern: a key of patterns.PATTERNS. pattern_shape: size, phase, share, variant, each 0..1.
    parts: the choice for each part in PARTS[class_noun], in that order.
    """

    class_noun: str
    shape: tuple[float, ...]
    colours: tuple[RGB, RGB, RGB]
    pattern: str
    pattern_shape: tuple[float, ...]
    parts: tuple[str, ...]

    def part(self, name: str) -> str:
        """The choice made for a part, such as part("ears") -> "floppy"."""
        return self.parts[list(PARTS[self.class_noun]).index(name)]


def seed_of(*words: object) -> int:
    """A 64-bit seed from strings and numbers, the same on every machine."""
    text = "\x1f".join(str(word) for word in words)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def generator(*words: object) -> np.random.Generator:
    """A PCG64 generator seeded by `seed_of`."""
    return np.random.Generator(np.random.PCG64(seed_of(*words)))


def split_of(subject: Subject) -> str:
    """The split that owns this identity: "train" (70%), "evaluators" (14%), "dev" (8%) or "test" (8%).

    A hash of the coarsely quantised identity decides, so no identity can be in two splits, and subjects that are
    nearly equal mostly share one.
    """
    cell = (
        subject.class_noun,
        subject.pattern,
        subject.parts,
        tuple(tuple(c // 32 for c in colour) for colour in subject.colours),
        tuple(min(3, int(4 * v)) for v in subject.shape),
        tuple(min(3, int(4 * v)) for v in subject.pattern_shape),
    )
    share = seed_of("split", *cell) / 2**64
    return next(split for split, end in zip(SPLITS, _SPLIT_ENDS, strict=True) if share < end)


def sample_subject(class_noun: str, key: str, split: str = "train") -> Subject:
    """The subject of a class that `key` names within a split; the same on every machine.

    Raises ValueError for a class or split that does not exist.
    """
    if class_noun not in PARTS:
        raise ValueError(f"unknown class {class_noun!r}: use one of {', '.join(CLASSES)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    rng = generator("subject", class_noun, key, split)
    while True:
        subject = _draw(class_noun, rng)
        if split_of(subject) == split:
            return subject


_PATTERN_NAMES = tuple(PATTERNS)
_PATTERN_ENDS = np.cumsum(list(PATTERNS.values())) / sum(PATTERNS.values())


def _draw(class_noun: str, rng: np.random.Generator) -> Subject:
    colours = random_palette(rng)
    pattern = _PATTERN_NAMES[int(np.searchsorted(_PATTERN_ENDS, rng.random(), side="right"))]
    return Subject(
        class_noun=class_noun,
        shape=tuple(float(v) for v in rng.random(N_SHAPE).round(4)),
        colours=colours,
        pattern=pattern,
        pattern_shape=tuple(float(v) for v in rng.random(N_PATTERN_SHAPE).round(4)),
        parts=tuple(choices[int(rng.integers(len(choices)))] for choices in PARTS[class_noun].values()),
    )
