import re
from collections import Counter

import pytest

from bdkit.miniworld import scenes
from bdkit.miniworld.captions import dreambench_template
from bdkit.miniworld.subjects import CLASSES, generator, sample_subject
from bdkit.miniworld.truth import truth

# DreamBench's prompts as published, without "a TOKEN CLASS"
SHARED = (
    "in the jungle, in the snow, on the beach, on a cobblestone street, on top of pink fabric, "
    "on top of a wooden floor, with a city in the background, with a mountain in the background, "
    "with a blue house in the background, on top of a purple rug in a forest"
)
OBJECT = (
    "with a wheat field in the background, with a tree and autumn leaves in the background, "
    "with the Eiffel Tower in the background, floating on top of water, floating in an ocean of milk, "
    "on top of green grass with sunflowers around it, on top of a mirror, "
    "on top of the sidewalk in a crowded street, on top of a dirt road, on top of a white rug"
)
LIVE = (
    "wearing a red hat, wearing a santa hat, wearing a rainbow scarf, wearing a black top hat and a monocle, "
    "in a chef outfit, in a firefighter outfit, in a police outfit, wearing pink glasses, wearing a yellow shirt, "
    "in a purple wizard outfit"
)
CONTEXT_PROMPTS = [f"a {{}} {{}} {words}" for words in f"{SHARED}, {OBJECT}".split(", ")]
OUTFIT_PROMPTS = [f"a {{}} {{}} {words}" for words in LIVE.split(", ")]
CHANGE_PROMPTS = [f"a {word} {{}} {{}}" for word in ("red", "purple", "shiny", "wet", "cube shaped")]


@pytest.mark.parametrize("template", [*CONTEXT_PROMPTS, *OUTFIT_PROMPTS, *CHANGE_PROMPTS])
def test_every_dreambench_prompt_gives_what_it_asks_for(template):
    subject = sample_subject("dog", "prompts", "test")
    scene = scenes.scene_for_prompt(subject, template, 7)
    assert scene == scenes.scene_for_prompt(subject, template, 7)
    assert scene != scenes.scene_for_prompt(subject, template, 8)
    assert dreambench_template(scene).replace("{}", "{} {}") == template


def test_object_prompts_are_the_contexts_in_order_and_others_are_refused():
    with pytest.raises(ValueError, match="not a DreamBench prompt"):
        scenes.scene_for_prompt(sample_subject("can", "x"), "a {} {} on the moon", 0)
    vase = sample_subject("vase", "order")
    for i, template in enumerate(CONTEXT_PROMPTS):
        scene = scenes.scene_for_prompt(vase, template, i)
        assert (scene.context, truth(scene)["context_index"]) == (scenes.CONTEXTS[i], i)
    for i, template in enumerate(CHANGE_PROMPTS):
        assert truth(scenes.scene_for_prompt(vase, template, i))["change_index"] == i + 1
    cat = sample_subject("cat", "order")
    for i, template in enumerate(OUTFIT_PROMPTS):
        assert truth(scenes.scene_for_prompt(cat, template, i))["outfit_index"] == i + 1


def test_random_contexts_cover_all_and_studio_has_its_share():
    rng = generator("contexts")
    subject = sample_subject("can", "contexts")
    counts = Counter(scenes.sample_scene(subject, rng).context for _ in range(3000))
    assert set(counts) == {*scenes.CONTEXTS, scenes.STUDIO}
    assert counts[scenes.STUDIO] / 3000 == pytest.approx(scenes.STUDIO_SHARE, abs=0.03)


def test_pose_and_light_stay_in_their_ranges_and_fill_them():
    rng = generator("poses")
    subject = sample_subject("bowl", "poses")
    drawn = [scenes.sample_scene(subject, rng) for _ in range(500)]
    rotations = [s.pose.rotation for s in drawn]
    scales = [s.pose.scale for s in drawn]
    assert -12 <= min(rotations) < -6
    assert 6 < max(rotations) <= 12
    assert 0.85 <= min(scales) < 0.87
    assert 1.08 < max(scales) <= 1.1
    assert 0.4 < sum(s.pose.flip for s in drawn) / 500 < 0.6
    assert all(0.9 < s.light.brightness < 1.08 and abs(s.light.warmth) <= 1 for s in drawn)
    assert len({s.seed for s in drawn}) == 500


@pytest.mark.parametrize(
    ("noun", "wish"),
    [
        ("can", {"context": "on the moon"}),
        ("dog", {"outfit": "green hat"}),
        ("can", {"change": "blue"}),
        ("can", {"outfit": "red hat"}),
    ],
)
def test_impossible_wishes_are_refused(noun, wish):
    with pytest.raises(ValueError, match=re.escape(next(iter(wish)))):
        scenes.sample_scene(sample_subject(noun, "x"), generator("x"), **wish)


def test_truth_names_the_subject_and_not_the_scene():
    rng = generator("truth")
    labels = {noun: [truth(scenes.sample_scene(sample_subject(noun, "t"), rng)) for _ in range(4)] for noun in CLASSES}
    for i, noun in enumerate(CLASSES):
        assert {label["class_index"] for label in labels[noun]} == {i}
        assert len({label["identity"] for label in labels[noun]}) == 1
        assert all(label["outfit_index"] == label["change_index"] == 0 for label in labels[noun])
    assert len({label["identity"] for row in labels.values() for label in row}) == len(CLASSES)
    assert len(scenes.OUTFITS) == 10
    assert len(scenes.CHANGES) == 5
