"""What people would write under a scene, in DreamBench's words and in others."""

from collections.abc import Callable

import numpy as np

from bdkit.miniworld.changes import CHANGES
from bdkit.miniworld.colours import NAMES, RGB, name_of
from bdkit.miniworld.contexts import CONTEXTS, STUDIO
from bdkit.miniworld.drawing.patterns import PATTERNS
from bdkit.miniworld.outfits import OUTFITS
from bdkit.miniworld.scenes import OUTFIT_WORDS, Scene
from bdkit.miniworld.subjects import CLASSES, PARTS

# how often a caption uses exactly DreamBench's wording
DREAMBENCH_SHARE = 0.5
# how often a caption of an outfit or a change also says where the subject is
CONTEXT_SHARE = 0.7
# the rare tokens that DreamBooth and Textual Inversion may put before a class noun
RARE_TOKENS: tuple[str, ...] = ("sks", "zwx", "*")

_OTHER_CONTEXTS: dict[str, tuple[str, ...]] = {
    "in the jungle": ("in a jungle", "among jungle leaves"),
    "in the snow": ("standing in snow", "on a snowy day"),
    "on the beach": ("on a sandy beach", "at the beach"),
    "on a cobblestone street": ("on cobblestones", "on a street of cobblestones"),
    "on top of pink fabric": ("on pink fabric", "lying on a pink fabric"),
    "on top of a wooden floor": ("on a wooden floor", "on wooden planks"),
    "with a city in the background": ("in front of a city", "with city buildings behind it"),
    "with a mountain in the background": ("in front of a mountain", "with mountains behind it"),
    "with a blue house in the background": ("in front of a blue house", "with a blue house behind it"),
    "on top of a purple rug in a forest": ("on a purple rug in a forest", "on a purple rug among trees"),
    "with a wheat field in the background": ("in front of a wheat field", "in a field of wheat"),
    "with a tree and autumn leaves in the background": ("in front of an autumn tree", "with autumn leaves behind it"),
    "with the Eiffel Tower in the background": ("in front of the Eiffel Tower", "with the Eiffel Tower behind it"),
    "floating on top of water": ("floating on water", "in the water"),
    "floating in an ocean of milk": ("floating in milk", "in an ocean of milk"),
    "on top of green grass with sunflowers around it": ("on green grass with sunflowers", "among sunflowers"),
    "on top of a mirror": ("on a mirror", "standing on a mirror"),
    "on top of the sidewalk in a crowded street": ("on a sidewalk in a crowded street", "in a crowded street"),
    "on top of a dirt road": ("on a dirt road", "standing on a dirt road"),
    "on top of a white rug": ("on a white rug", "lying on a white rug"),
    STUDIO: ("on a plain background", "in a studio"),
}
_OTHER_OUTFITS: dict[str, tuple[str, ...]] = {
    "red hat": ("with a red hat", "in a red hat"),
    "santa hat": ("with a santa hat", "in a santa hat"),
    "rainbow scarf": ("with a rainbow scarf", "in a rainbow scarf"),
    "black top hat and monocle": ("with a black top hat and a monocle", "in a top hat with a monocle"),
    "chef outfit": ("dressed as a chef", "wearing a chef outfit"),
    "firefighter outfit": ("dressed as a firefighter", "wearing a firefighter outfit"),
    "police outfit": ("dressed as a police officer", "wearing a police outfit"),
    "pink glasses": ("with pink glasses", "in pink glasses"),
    "yellow shirt": ("in a yellow shirt", "with a yellow shirt"),
    "purple wizard outfit": ("dressed as a purple wizard", "wearing a purple wizard outfit"),
}
_OPENINGS = ("a photo of a", "a picture of a", "an image of a", "a", "one", "the", "this is a")
# main colour {0} and second colour {1} in a pattern
_PATTERN_WORDS: dict[str, str] = {
    "plain": "plain {0}",
    "horizontal stripes": "{0} and {1} horizontally striped",
    "vertical stripes": "{0} and {1} vertically striped",
    "diagonal stripes": "{0} and {1} diagonally striped",
    "dots": "{0} with {1} dots",
    "checks": "{0} and {1} checked",
    "zigzag": "{0} and {1} zigzag",
    "patches": "{0} with {1} patches",
    "halves": "half {0} and half {1}",
    "band": "{0} with a {1} band",
    "star": "{0} with a {1} star",
    "heart": "{0} with a {1} heart",
    "diamond": "{0} with a {1} diamond",
    "rings": "{0} with {1} rings",
    "grid": "{0} with a {1} grid",
}


def dreambench_template(scene: Scene) -> str:
    """DreamBench's wording with one {}, such as "a {} in the jungle"; a plain studio image is "a {}"."""
    if scene.change is not None:
        return f"a {scene.change} {{}}"
    if scene.outfit is not None:
        return f"a {{}} {OUTFIT_WORDS[scene.outfit]}"
    return "a {}" if scene.context == STUDIO else f"a {{}} {scene.context}"


def caption_template(scene: Scene, rng: np.random.Generator) -> str:
    """A caption with one {} where the class noun (or the subject prompt and the class noun) goes.

    DREAMBENCH_SHARE of them are DreamBench's own words (with the context after an outfit or a change most of the time).
    """
    shares = rng.random(6)
    usual = bool(shares[0] < DREAMBENCH_SHARE)
    special = scene.change is not None or scene.outfit is not None
    if usual:
        words = dreambench_template(scene)
        if special and scene.context != STUDIO and shares[1] < CONTEXT_SHARE:
            words = f"{words} {scene.context}"
        return words
    words = _OPENINGS[int(shares[2] * len(_OPENINGS))]
    words = f"{words} {scene.change} {{}}" if scene.change else f"{words} {{}}"
    if scene.outfit is not None:
        wordings = (OUTFIT_WORDS[scene.outfit], *_OTHER_OUTFITS[scene.outfit])
        words = f"{words} {wordings[int(shares[3] * len(wordings))]}"
    if scene.context != STUDIO:
        says = not special or shares[1] < CONTEXT_SHARE
        wordings = (scene.context, *_OTHER_CONTEXTS[scene.context])
    else:
        says = bool(shares[1] < 0.3)
        wordings = _OTHER_CONTEXTS[STUDIO]
    return f"{words} {wordings[int(shares[4] * len(wordings))]}" if says else words


def caption(scene: Scene, rng: np.random.Generator, detail: bool = False) -> str:
    """A caption with the class noun in it; `detail` also names colours, pattern and a part."""
    template = caption_template(scene, rng)
    noun = scene.subject.class_noun
    if not detail:
        return template.format(noun)
    return f"{template.format(noun)}, {describe(scene, rng)}"


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """Colours, pattern and one part in words, such as "red with blue dots and yellow parts, floppy ears"."""
    parts = part_words(scene)
    return f"{look_words(scene, name_of)}, {parts[int(rng.random() * len(parts))]}"


def look_words(scene: Scene, colour_words: Callable[[RGB], str]) -> str:
    """Colours and pattern in words; where a change paints the subject over, its colours are not named."""
    subject = scene.subject
    if scene.change in ("red", "purple"):
        return f"all {scene.change}, {subject.pattern}"
    main, second, accent = (colour_words(colour) for colour in subject.colours)
    return f"{_PATTERN_WORDS[subject.pattern].format(main, second)} and {accent} parts"


def part_words(scene: Scene) -> list[str]:
    """The subject's part choices in words, such as "floppy ears", "no collar"."""
    names = PARTS[scene.subject.class_noun]
    return [
        f"no {name}" if choice == "none" else name if choice == name else f"{choice} {name}"
        for name, choice in zip(names, scene.subject.parts, strict=True)
    ]


def _vocabulary() -> tuple[str, ...]:
    texts: list[str] = [*CLASSES, *CONTEXTS, *OUTFITS, *CHANGES, *PATTERNS, *NAMES, *_OPENINGS, *RARE_TOKENS]
    texts += OUTFIT_WORDS.values()
    texts += [wording for wordings in (*_OTHER_CONTEXTS.values(), *_OTHER_OUTFITS.values()) for wording in wordings]
    texts += [words.replace("{0}", "").replace("{1}", "") for words in _PATTERN_WORDS.values()]
    texts += [word for parts in PARTS.values() for name, choices in parts.items() for word in (name, *choices)]
    texts += ["a", "no", "all", "and", "parts", ","]
    return tuple(sorted({word for text in texts for word in text.lower().split()}))


# every word (lower case) that a caption or a DreamBench prompt can hold
VOCABULARY: tuple[str, ...] = _vocabulary()
