import colorsys
import hashlib
from dataclasses import replace

import numpy as np
import pytest

from bdkit.miniworld.render import render
from bdkit.miniworld.scenes import CHANGES, CONTEXTS, OUTFITS, STUDIO, Light, Pose, sample_scene
from bdkit.miniworld.subjects import CLASSES, generator, sample_subject

STILL = Pose(x=0.0, y=0.0, rotation=0.0, scale=1.0, flip=False, bend=0.0)
PLAIN = Light(brightness=1.0, warmth=0.0)


def studio(subject, seed=1, **wishes):
    scene = sample_scene(subject, generator("render test", seed), context=STUDIO, **wishes)
    return replace(scene, pose=STILL, light=PLAIN, seed=seed)


def subject_pixels(rendering):
    return rendering.image[rendering.alpha > 250].astype(float)


def correlation(a, b):
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.mark.parametrize("noun", CLASSES)
def test_subject_is_big_and_inside_the_image(noun):
    rng = generator("size", noun)
    heights, widths = [], []
    for i in range(25):
        rendering = render(sample_scene(sample_subject(noun, f"size {i}"), rng))
        assert rendering.image.shape == (64, 64, 3)
        assert rendering.image.dtype == rendering.alpha.dtype == np.uint8
        mask = rendering.alpha > 128
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        heights.append(np.ptp(rows) + 1)
        widths.append(np.ptp(columns) + 1)
        assert mask.sum() > 300
        assert not mask[0].any()
        assert not mask[:, 0].any()
        assert not mask[:, -1].any()
    assert (np.mean(widths) > 0.7 * 64) if noun in ("glasses", "sneaker") else (np.mean(heights) > 0.5 * 64)


def test_same_scene_same_pixels_and_no_two_scenes_alike() -> None:
    scene = sample_scene(sample_subject("toy", "same"), generator("same"))
    first, second = render(scene), render(scene)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.alpha, second.alpha)
    assert not np.array_equal(first.image, render(replace(scene, seed=scene.seed + 1)).image)
    rng = generator("alike")
    scenes = [sample_scene(sample_subject(noun, "alike"), rng) for noun in CLASSES for _ in range(6)]
    assert len({hashlib.sha256(render(scene).image).digest() for scene in scenes}) == len(scenes)


@pytest.mark.parametrize("context", CONTEXTS[:3])
def test_alpha_does_not_depend_on_the_background(context):
    """The mask is the subject alone: neither background nor shadow is in it, and what it covers is the subject."""
    subject = sample_subject("backpack", "alpha")
    base = studio(subject)
    other = render(replace(base, seed=99))
    assert np.array_equal(render(base).alpha, other.alpha)
    inside = render(base).alpha == 255
    assert np.array_equal(render(base).image[inside], other.image[inside])
    moved = replace(base, context=context)
    assert float(render(moved).alpha.sum()) == pytest.approx(float(render(base).alpha.sum()), rel=0.06)


def test_larger_images_show_the_same():
    scene = studio(sample_subject("clock", "large"))
    small, large = render(scene).alpha, render(scene, 256).alpha
    assert large.shape == (256, 256)
    shrunk = large.reshape(64, 4, 64, 4).mean((1, 3))
    assert correlation(small, shrunk) > 0.99


@pytest.mark.parametrize("noun", ["dog", "cat"])
@pytest.mark.parametrize("outfit", OUTFITS)
def test_outfits_are_plain_to_see_and_leave_the_animal(noun, outfit):
    subject = replace(sample_subject(noun, "dressed"), colours=((90, 190, 190), (200, 120, 60), (150, 150, 60)))
    bare = render(studio(subject))
    dressed = render(studio(subject, outfit=outfit))
    wanted = {
        "red hat": (222, 22, 36),
        "santa hat": (222, 22, 36),
        "rainbow scarf": (50, 185, 70),
        "black top hat and monocle": (255, 205, 40),
        "chef outfit": (252, 252, 254),
        "firefighter outfit": (225, 30, 30),
        "police outfit": (28, 42, 110),
        "pink glasses": (255, 70, 165),
        "yellow shirt": (255, 224, 30),
        "purple wizard outfit": (118, 38, 190),
    }[outfit]

    def count(rendering):
        return int((np.abs(subject_pixels(rendering) - wanted).max(1) < 45).sum())

    assert count(dressed) > count(bare) + 12
    main = np.array(subject.colours[0])
    assert (np.abs(subject_pixels(dressed) - main).max(1) < 60).sum() > 60


@pytest.mark.parametrize("noun", CLASSES)
@pytest.mark.parametrize(("change", "hue"), [("red", 0.0), ("purple", 0.77)])
def test_red_and_purple_move_the_colours(noun, change, hue):
    subject = replace(sample_subject(noun, "hue"), colours=((40, 200, 60), (250, 240, 90), (60, 120, 230)))
    pixels = subject_pixels(render(studio(subject, change=change))) / 255
    hsv = np.array([colorsys.rgb_to_hsv(*p) for p in pixels])
    coloured = hsv[(hsv[:, 1] > 0.35) & (hsv[:, 2] > 0.3)]
    off = np.abs((coloured[:, 0] - hue + 0.5) % 1 - 0.5)
    assert len(coloured) > 100
    assert (off < 0.07).mean() > 0.7


@pytest.mark.parametrize("noun", CLASSES)
def test_shiny_wet_and_cube(noun):
    subject = replace(sample_subject(noun, "change"), colours=((150, 60, 30), (60, 130, 40), (90, 30, 110)))
    plain = render(studio(subject))
    shiny, wet = render(studio(subject, change="shiny")), render(studio(subject, change="wet"))
    assert np.array_equal(plain.alpha, shiny.alpha)
    assert np.array_equal(plain.alpha, wet.alpha)
    assert (subject_pixels(shiny).min(1) > 170).sum() > (subject_pixels(plain).min(1) > 170).sum() + 25

    def blueness(rendering):
        pixels = subject_pixels(rendering)
        return (pixels[:, 2] - pixels[:, 0]).mean()

    assert blueness(wet) > blueness(plain) + 15
    cube = render(studio(subject, change="cube shaped"))
    assert (cube.alpha > 128).sum() > 1000
    assert correlation(cube.alpha.astype(float), plain.alpha.astype(float)) < 0.95


@pytest.mark.parametrize("noun", CLASSES)
def test_individuals_differ_and_a_change_is_seen(noun):
    """Two images of one subject are nearer than two subjects of the class."""
    scenes = [studio(sample_subject(noun, f"who {i}")) for i in range(6)]
    images = [np.where(r.alpha[..., None] > 128, r.image, 128).astype(float) for r in map(render, scenes)]
    turned = replace(scenes[0], pose=replace(STILL, rotation=4.0, scale=0.96))
    again = render(turned)
    again_image = np.where(again.alpha[..., None] > 128, again.image, 128).astype(float)
    same = np.abs(again_image - images[0]).mean()
    others = [np.abs(images[i] - images[j]).mean() for i in range(6) for j in range(i)]
    assert same < np.mean(others)
    assert min(others) > 3


def test_every_context_outfit_and_change_renders_for_every_class():
    rng = generator("all")
    for i, noun in enumerate(CLASSES):
        subject = sample_subject(noun, "all")
        for change in (None, *CHANGES):
            scene = sample_scene(subject, rng, context=(*CONTEXTS, STUDIO)[i], change=change)
            assert render(scene, 32).image.std() > 5
