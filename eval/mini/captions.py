"""What the mini CLIP reads: captions that describe an individual down to its shades, pattern and parts.

The model's own captions name three colours and one part. A CLIP that reads no more cannot tell two individuals of a
class apart, so these say all that the mini world has words for.
"""

import numpy as np

from bdkit.miniworld.captions import caption, caption_template, look_words, part_words
from bdkit.miniworld.colours import NAMES, RGB, name_of, to_oklab
from bdkit.miniworld.scenes import Scene

SHADES = ("dark", "light")
# lighter or darker by that much (OKLab) than the colour that a word names
SHADE_STEP = 0.06
# how often the description stands without the scene's place, outfit and article
ALONE_SHARE = 0.5


def captions_of(scene: Scene, rng: np.random.Generator, count: int) -> list[str]:
    """A plain caption, and `count` that describe the individual: with the scene, or with the class noun alone."""
    texts = [caption(scene, rng)]
    for _ in range(count):
        noun = scene.subject.class_noun
        alone = rng.random() < ALONE_SHARE
        words = noun if alone else caption_template(scene, rng).format(noun)
        texts.append(f"{words}, {describe_individual(scene, rng)}")
    return texts


def describe_individual(scene: Scene, rng: np.random.Generator) -> str:
    """Shades, pattern and all parts in random order: "dark red with blue dots and yellow parts, floppy ears"."""
    parts = part_words(scene)
    return ", ".join([look_words(scene, shade_words), *(parts[i] for i in rng.permutation(len(parts)))])


def shade_words(colour: RGB) -> str:
    """The nearest colour word, with "dark" or "light" where the colour is plainly darker or lighter than it."""
    name = name_of(colour)
    step = to_oklab(colour)[0] - to_oklab(NAMES[name])[0]
    return name if abs(step) < SHADE_STEP else f"{SHADES[int(step > 0)]} {name}"
