"""Renderings of development individuals, on which the evaluators are chosen and measured.

They are the individuals of `mini-dev` and of further suites drawn as it is. No evaluator is trained on that split of
the mini world, and nothing generated is among the images.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from bdkit.miniworld.colours import RGB, distance, from_oklch, to_oklab
from bdkit.miniworld.render import render
from bdkit.miniworld.scenes import sample_scene
from bdkit.miniworld.subjects import CLASSES, PARTS, Subject, generator, sample_subject
from dreambench.registry import load_suite
from dreambench.suites import Prompt
from eval.generate.references import draw_ground_truth, draw_references, individual

# shares of the way from a subject to another individual of its class
STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)
# mean OKLab distance of two strangers' colours; a distance of two colours counts up to it
STRANGERS_COLOURS = 0.45


@dataclass(frozen=True, kw_only=True)
class IndividualsConfig:
    """How many images.

    suites: mini-dev is the first; subjects: of each suite, None for all 30
    lookalikes: images of each individual on the way to a stranger
    prompted: subjects of the first suite whose prompts are drawn, one image each
    """

    suites: int = 4
    subjects: int | None = None
    lookalikes: int = 3
    prompted: int = 30


@dataclass(frozen=True, kw_only=True)
class Individuals:
    """The images and what is true of them.

    references: n images as a suite's; subject, class_index: (n,) integers
    lookalikes: m images of individuals between a subject and another of its class
    of: (m,) that subject; likeness: (m,) 1 (the same) to 0, `1 - identity_distance`
    step: (m,) which of STEPS
    prompted: the right answers to prompts; texts: for each the right prompt first, then the suite's others that its
        image cannot obey as well; kinds: what each of the right prompts asks for (context, outfit or property)
    """

    references: list[Image.Image]
    subject: npt.NDArray[np.int64]
    class_index: npt.NDArray[np.int64]
    lookalikes: list[Image.Image]
    of: npt.NDArray[np.int64]
    likeness: npt.NDArray[np.float64]
    step: npt.NDArray[np.int64]
    prompted: list[Image.Image]
    texts: list[tuple[str, ...]]
    kinds: list[str]


def draw_individuals(config: IndividualsConfig) -> Individuals:
    """Draws them; the same on every machine."""
    references: list[Image.Image] = []
    lookalikes: list[Image.Image] = []
    prompted: list[Image.Image] = []
    texts: list[tuple[str, ...]] = []
    kinds: list[str] = []
    subject, class_index, of, likeness, step = [], [], [], [], []
    number = 0
    for seed in range(config.suites):
        suite = replace(load_suite("mini-dev"), seed=seed).limited(config.subjects)
        for row in suite.subjects:
            drawn = draw_references(suite, row)
            references += drawn
            subject += [number] * len(drawn)
            class_index += [CLASSES.index(row.class_noun)] * len(drawn)
            shown = individual(suite, row)
            stranger = sample_subject(row.class_noun, f"lookalike {seed}/{row.name}", "dev")
            for index, share in enumerate(STEPS):
                lookalike = between(shown, stranger, share)
                rng = generator("lookalike", seed, row.name, share)
                for _ in range(config.lookalikes):
                    lookalikes.append(Image.fromarray(render(sample_scene(lookalike, rng)).image))
                    of.append(number)
                    likeness.append(1 - identity_distance(shown, lookalike))
                    step.append(index)
            if number < config.prompted and seed == 0:
                prompts = suite.prompts(row)
                for prompt in prompts:
                    prompted.append(draw_ground_truth(suite, row, prompt.template, prompt.index))
                    texts.append(_choices(prompt, prompts, row.class_noun))
                    kinds.append(prompt.kind)
            number += 1
    return Individuals(
        references=references,
        subject=np.array(subject),
        class_index=np.array(class_index),
        lookalikes=lookalikes,
        of=np.array(of),
        likeness=np.array(likeness),
        step=np.array(step),
        prompted=prompted,
        texts=texts,
        kinds=kinds,
    )


def _choices(prompt: Prompt, prompts: tuple[Prompt, ...], noun: str) -> tuple[str, ...]:
    """The prompt's text, then those of the others; for an outfit or a change without the places: it is in one too."""
    others = [other for other in prompts if other != prompt and (prompt.kind == "context" or other.kind != "context")]
    return tuple(each.text(noun) for each in (prompt, *others))


def identity_distance(first: Subject, second: Subject) -> float:
    """How different two subjects are, 0 (the same) to 1: the mean of four equal parts, colours (OKLab), pattern, choice
    of parts, and shape. Subjects of different classes are 1 apart.
    """
    if first.class_noun != second.class_noun:
        return 1.0
    pairs = zip(first.colours, second.colours, strict=True)
    colours = sum(min(1.0, distance(a, b) / STRANGERS_COLOURS) for a, b in pairs) / 3
    pattern = 1.0 if first.pattern != second.pattern else _mean_gap(first.pattern_shape, second.pattern_shape)
    parts = sum(a != b for a, b in zip(first.parts, second.parts, strict=True)) / len(first.parts)
    return (colours + pattern + parts + _mean_gap(first.shape, second.shape)) / 4


def between(subject: Subject, other: Subject, share: float) -> Subject:
    """The individual `share` of the way from one subject to another of its class: numbers and colours (in OKLab) move
    evenly; pattern and parts change over one after the other, in an order that the two subjects decide.

    Raises ValueError for two classes.
    """
    if subject.class_noun != other.class_noun:
        raise ValueError(f"nothing is between a {subject.class_noun} and a {other.class_noun}")
    order = generator("between", subject, other).permutation(len(PARTS[subject.class_noun]) + 1)
    turned = (order + 0.5) / len(order) < share
    parts = zip(subject.parts, other.parts, turned[1:], strict=True)
    return replace(
        subject,
        shape=blend(subject.shape, other.shape, share),
        colours=blend_colours(subject, other, share),
        pattern=other.pattern if turned[0] else subject.pattern,
        pattern_shape=blend(subject.pattern_shape, other.pattern_shape, share),
        parts=tuple(new if turn else old for old, new, turn in parts),
    )


def _mean_gap(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """Three times the mean difference, at most 1: two strangers' numbers in 0..1 are a third apart."""
    return min(1.0, 3 * float(np.mean(np.abs(np.subtract(first, second)))))


def blend(first: tuple[float, ...], second: tuple[float, ...], share: float) -> tuple[float, ...]:
    """(1 - share) of each of the first numbers and share of the second."""
    return tuple((1 - share) * a + share * b for a, b in zip(first, second, strict=True))


def blend_colours(first: Subject, second: Subject, share: float) -> tuple[RGB, RGB, RGB]:
    """`share` of the way from one subject's colours to the other's, in OKLab."""
    mixed = []
    for one, other in zip(first.colours, second.colours, strict=True):
        lightness, a, b = blend(to_oklab(one), to_oklab(other), share)
        mixed.append(one if share == 0 else from_oklch(lightness, math.hypot(a, b), math.degrees(math.atan2(b, a))))
    main, pattern, accent = mixed
    return main, pattern, accent
