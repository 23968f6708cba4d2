"""Images of the mini world whose true identity and true prompt-following are known, undamaged and damaged in graded
strengths.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import skia
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from bdkit.miniworld.colours import RGB, from_oklch, to_oklab
from bdkit.miniworld.contexts import CONTEXTS, STUDIO, draw_context, draw_foreground
from bdkit.miniworld.drawing.patterns import PATTERNS
from bdkit.miniworld.render import render
from bdkit.miniworld.scenes import PROMPT_PARTS, Scene, sample_scene, scene_for_prompt
from bdkit.miniworld.subjects import CLASSES, Subject, generator, sample_subject
from eval.mini.individuals import between, blend, blend_colours, identity_distance
from eval.score.edit_metrics import FloatArray, PixelArray

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
BLUR_PIXELS = 3.0


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An image and the truth about it.

    image: (H, W, 3) uint8; alpha: (H, W) in 0..1, where the subject is
    identity: 1 for the subject itself, 0 for another individual altogether
    place: 1 where the prompt's place (outfit, change) is there, else 0, or between in a cross-fade
    noun: the same of the prompt's noun
    """

    image: PixelArray
    alpha: FloatArray
    identity: float
    place: float
    noun: float = 1.0

    @property
    def prompt(self) -> float:
        """How far the prompt is followed: its noun and its place."""
        return self.place * self.noun


@dataclass(frozen=True, kw_only=True)
class Case:
    """One undamaged image and what it can be damaged with.

    scene: the subject as its prompt asks for; stranger: another individual of the class; alien: one of another class
    reference: the scene of the reference that is copied from, not a studio image; wrong_context: neither the prompt's
    nor any reference's
    """

    scene: Scene
    stranger: Subject
    alien: Subject
    reference: Scene
    wrong_context: str


def crossfade(image: PixelArray, other: PixelArray, share: FloatArray | float) -> PixelArray:
    """(1 - share) of the (H, W, 3) uint8 image and share of the other; a share in 0..1 for each pixel, (H, W), or one
    for all.
    """
    weights = np.asarray(share, dtype=np.float64)
    weights = weights[..., None] if weights.ndim else weights
    return np.rint(image * (1 - weights) + other * weights).astype(np.uint8)


def blur(image: PixelArray, sigma: float) -> PixelArray:
    """The (H, W, 3) uint8 image under a Gaussian of `sigma` pixels, 0 or more; the edges are mirrored."""
    smooth = gaussian_filter(image.astype(np.float64), (sigma, sigma, 0), mode="reflect")
    return np.rint(smooth).astype(np.uint8)


def obeys(scene: Scene, template: str) -> bool:
    """Whether a scene has the context, the outfit or the change that a prompt template asks for."""
    context, outfit, change = PROMPT_PARTS[template]
    if context is not None:
        return scene.context == context
    return scene.outfit == outfit if outfit is not None else scene.change == change


def reference_scenes(subject: Subject, count: int, seed: int) -> list[Scene]:
    """The subject as it is, once in the studio, else in different contexts."""
    rng = generator("validity references", subject, seed)
    contexts = [STUDIO, *(CONTEXTS[i] for i in rng.permutation(len(CONTEXTS))[: count - 1])]
    return [sample_scene(subject, rng, context=context) for context in contexts]


def make_case(subject: Subject, template: str, references: list[Scene], key: str) -> Case:
    """What the image of `template` can be damaged with, drawn from `key`."""
    rng = generator("validity case", subject, template, key)
    used = {scene.context for scene in references} | {PROMPT_PARTS[template][0]}
    elsewhere = [scene for scene in references if scene.context not in (STUDIO, PROMPT_PARTS[template][0])]
    free = [context for context in CONTEXTS if context not in used]
    others = [noun for noun in CLASSES if noun != subject.class_noun]
    return Case(
        scene=scene_for_prompt(subject, template, int(rng.integers(2**31))),
        stranger=sample_subject(subject.class_noun, f"stranger {key}", "test"),
        alien=sample_subject(others[int(rng.integers(len(others)))], f"alien {key}", "test"),
        reference=elsewhere[int(rng.integers(len(elsewhere)))],
        wrong_context=free[int(rng.integers(len(free)))],
    )


def show(scene: Scene, identity: float = 1.0, place: float = 1.0, noun: float = 1.0) -> Shown:
    """A scene as it is."""
    drawn = render(scene)
    return Shown(image=drawn.image, alpha=drawn.alpha / 255, identity=identity, place=place, noun=noun)


def background(scene: Scene) -> PixelArray:
    """A scene without its subject and its shadow, (H, W, 3)."""
    rng = generator("background", scene.seed)
    size = render(scene).image.shape[0]
    pixels: NDArray[np.uint8] = np.zeros((size, size, 4), np.uint8)
    canvas = skia.Surface(pixels).getCanvas()
    canvas.scale(size, size)
    draw_context(canvas, scene.context, rng, scene.light.brightness)
    draw_foreground(canvas, scene.context, rng, scene.light.brightness)
    return np.ascontiguousarray(pixels[..., :3])


def _individual(case: Case, strength: float) -> Shown:
    return _other_subject(case, between(case.scene.subject, case.stranger, strength))


def _colour(case: Case, strength: float) -> Shown:
    subject = case.scene.subject
    colours = tuple(_turn_hue(colour, 180 * strength) for colour in subject.colours)
    return _other_subject(case, replace(subject, colours=colours))  # type: ignore[arg-type]


def _pattern(case: Case, strength: float) -> Shown:
    subject = case.scene.subject
    names = [name for name in PATTERNS if name not in (subject.pattern, "plain")]
    wrong = replace(subject, pattern=names[int(generator("wrong pattern", subject).integers(len(names)))])
    whole, other = show(case.scene), _other_subject(case, wrong)
    image = crossfade(whole.image, other.image, strength)
    return replace(whole, image=image, identity=1 - strength * identity_distance(subject, wrong))


def _wrong_class(case: Case, strength: float) -> Shown:
    subject, alien = case.scene.subject, case.alien
    share = (strength - STRENGTHS[0]) / (1 - STRENGTHS[0])
    looks = alien if share > 0.5 else subject
    mixed = replace(
        alien,
        colours=blend_colours(subject, alien, share),
        pattern=looks.pattern,
        pattern_shape=blend(subject.pattern_shape, alien.pattern_shape, share),
    )
    return show(replace(case.scene, subject=mixed, outfit=None), identity=0.0, noun=0.0)


def _copied_background(case: Case, strength: float) -> Shown:
    return _behind(show(case.scene), background(case.reference), strength)


def _wrong_place(case: Case, strength: float) -> Shown:
    return _behind(show(case.scene), background(replace(case.scene, context=case.wrong_context)), strength)


def _lookalike(case: Case, strength: float) -> Shown:
    return _behind(_individual(case, strength), background(case.reference), 1.0)


def _missing(case: Case, strength: float) -> Shown:
    whole = show(case.scene)
    image = crossfade(whole.image, background(case.scene), strength)
    left = 1 - strength
    return replace(whole, image=image, alpha=whole.alpha * left, identity=left, noun=left)


def _copy(case: Case, strength: float) -> Shown:
    """Step by step nearer to the reference: its place, its background and light, its pose, itself."""
    scene, reference = replace(case.scene, context=case.reference.context), case.reference
    if strength >= STRENGTHS[1]:
        scene = replace(scene, seed=reference.seed, light=reference.light)
    if strength >= STRENGTHS[2]:
        old, new = scene.pose, reference.pose
        x, y, rotation, scale, bend = (
            (getattr(old, name) + getattr(new, name)) / 2 for name in ("x", "y", "rotation", "scale", "bend")
        )
        pose = replace(new, x=x, y=y, rotation=rotation, scale=scale, bend=bend)
        scene = replace(scene, pose=pose)
    return show(reference if strength == 1 else scene, place=0.0)


def _blurred(case: Case, strength: float) -> Shown:
    whole = show(case.scene)
    return replace(whole, image=blur(whole.image, BLUR_PIXELS * strength))


# name -> the image of a case at a strength above 0 and up to 1
DAMAGES: dict[str, Callable[[Case, float], Shown]] = {
    "another individual": _individual,
    "colour shift": _colour,
    "wrong pattern": _pattern,
    "wrong class": _wrong_class,
    "subject missing": _missing,
    "wrong place": _wrong_place,
    "background copied": _copied_background,
    "lookalike on copied background": _lookalike,
    "reference copied": _copy,
    "blur": _blurred,
}


def _other_subject(case: Case, subject: Subject) -> Shown:
    scene = replace(case.scene, subject=subject)
    return show(scene, identity=1 - identity_distance(case.scene.subject, subject))


def _behind(whole: Shown, place: PixelArray, share: float) -> Shown:
    """The image with `share` of another background, cut in along the subject's alpha."""
    image = crossfade(whole.image, place, share * (1 - whole.alpha))
    return replace(whole, image=image, place=1 - share)


def _turn_hue(colour: RGB, degrees: float) -> RGB:
    lightness, a, b = to_oklab(colour)
    return from_oklch(lightness, math.hypot(a, b), math.degrees(math.atan2(b, a)) + degrees)
