"""What an image shows, as data. Renderer, captions and ground truth are three functions of a Scene."""

from dataclasses import dataclass

import numpy as np

from bdkit.miniworld.changes import CHANGES
from bdkit.miniworld.contexts import CONTEXTS, STUDIO
from bdkit.miniworld.outfits import OUTFITS
from bdkit.miniworld.subjects import LIVE_CLASSES, Subject, generator

__all__ = ["CHANGES", "CONTEXTS", "OUTFITS", "STUDIO", "Light", "Pose", "Scene", "sample_scene", "scene_for_prompt"]

# the share of scenes in a random context that are plain studio images
STUDIO_SHARE = 0.12

# DreamBench's wording of each outfit and change: what stands after, or before, the class noun
OUTFIT_WORDS: dict[str, str] = {
    "red hat": "wearing a red hat",
    "santa hat": "wearing a santa hat",
    "rainbow scarf": "wearing a rainbow scarf",
    "black top hat and monocle": "wearing a black top hat and a monocle",
    "chef outfit": "in a chef outfit",
    "firefighter outfit": "in a firefighter outfit",
    "police outfit": "in a police outfit",
    "pink glasses": "wearing pink glasses",
    "yellow shirt": "wearing a yellow shirt",
    "purple wizard outfit": "in a purple wizard outfit",
}


@dataclass(frozen=True, kw_only=True)
class Pose:
    """x: offset of the subject's middle from the image's, y: of its feet from the ground, in image widths;
    rotation in degrees; scale (1 = usual); flip mirrors it; bend in -1..1 moves legs, tail or arms."""

    x: float
    y: float
    rotation: float
    scale: float
    flip: bool
    bend: float


@dataclass(frozen=True, kw_only=True)
class Light:
    """brightness multiplies all colours (about 0.9..1.08); warmth in -1..1 shifts from blue to orange."""

    brightness: float
    warmth: float


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An image as data. context: one of CONTEXTS or STUDIO; outfit: one of OUTFITS (live classes only) or None;
    change: one of CHANGES or None; seed decides the background's details."""

    subject: Subject
    context: str
    outfit: str | None
    change: str | None
    pose: Pose
    light: Light
    seed: int


def sample_scene(
    subject: Subject,
    rng: np.random.Generator,
    context: str | None = None,
    outfit: str | None = None,
    change: str | None = None,
) -> Scene:
    """A scene with a random pose and light. context None: one of CONTEXTS or, now and then, STUDIO.

    Raises ValueError for a context, outfit or change that does not exist, or an outfit on an object.
    """
    draws = rng.random(11)
    if context is None:
        context = STUDIO if draws[0] < STUDIO_SHARE else CONTEXTS[int(draws[1] * len(CONTEXTS))]
    _check("context", context, (*CONTEXTS, STUDIO))
    if outfit is not None:
        _check("outfit", outfit, OUTFITS)
        if subject.class_noun not in LIVE_CLASSES:
            raise ValueError(
                f"a {subject.class_noun} cannot wear an outfit: only {', '.join(sorted(LIVE_CLASSES))} can"
            )
    if change is not None:
        _check("change", change, CHANGES)
    return Scene(
        subject=subject,
        context=context,
        outfit=outfit,
        change=change,
        pose=Pose(
            x=float(0.09 * (draws[2] - 0.5)),
            y=float(0.05 * (draws[3] - 0.6)),
            rotation=float(24 * (draws[4] - 0.5) * draws[5] ** 0.5),
            scale=float(0.85 + 0.25 * draws[6]),
            flip=bool(draws[7] < 0.5),
            bend=float(2 * draws[8] - 1),
        ),
        light=Light(brightness=float(0.91 + 0.16 * draws[9]), warmth=float(2 * draws[10] - 1)),
        seed=int(rng.integers(2**62)),
    )


def _check(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}: use one of {', '.join(known)}")


def _prompt_parts() -> dict[str, tuple[str | None, str | None, str | None]]:
    parts: dict[str, tuple[str | None, str | None, str | None]] = {}
    for context in CONTEXTS:
        parts[f"a {{}} {{}} {context}"] = (context, None, None)
    for outfit in OUTFITS:
        parts[f"a {{}} {{}} {OUTFIT_WORDS[outfit]}"] = (None, outfit, None)
    for change in CHANGES:
        parts[f"a {change} {{}} {{}}"] = (None, None, change)
    return parts


PROMPT_PARTS = _prompt_parts()


def scene_for_prompt(subject: Subject, template: str, seed: int) -> Scene:
    """The scene that a DreamBench prompt template ("a {} {} in the jungle") asks for.

    Outfits and changes get a random context, which may be the studio.

    Raises ValueError for a template that is not one of DreamBench's.
    """
    if template not in PROMPT_PARTS:
        raise ValueError(f"not a DreamBench prompt template: {template!r} (for example: 'a {{}} {{}} in the jungle')")
    context, outfit, change = PROMPT_PARTS[template]
    rng = generator("prompt scene", subject, template, seed)
    return sample_scene(subject, rng, context=context, outfit=outfit, change=change)
