import pytest

from bdkit.miniworld import captions
from bdkit.miniworld.colours import name_of
from bdkit.miniworld.scenes import CHANGES, CONTEXTS, OUTFITS, STUDIO, sample_scene
from bdkit.miniworld.subjects import CLASSES, generator, sample_subject


def scenes(count):
    rng = generator("captions")
    for i in range(count):
        noun = CLASSES[i % len(CLASSES)]
        outfit = OUTFITS[i % 10] if noun in ("dog", "cat") and i % 2 else None
        change = CHANGES[i % 5] if outfit is None and i % 3 == 0 else None
        yield sample_scene(sample_subject(noun, f"c{i}"), rng, outfit=outfit, change=change)


def test_every_word_is_in_the_vocabulary():
    rng = generator("words")
    known = set(captions.VOCABULARY)
    assert list(captions.VOCABULARY) == sorted(known)
    assert set(captions.RARE_TOKENS) <= known
    for scene in scenes(3000):
        text = captions.caption(scene, rng, detail=True).lower().replace(",", " , ")
        assert set(text.split()) <= known


def test_templates_have_one_slot_and_dreambenchs_wording_often():
    rng = generator("templates")
    usual, total = 0, 0
    for scene in scenes(1500):
        template = captions.caption_template(scene, rng)
        assert template.count("{}") == 1
        usual += template.startswith(captions.dreambench_template(scene))
        total += 1
    assert usual / total >= 0.4


def test_captions_name_outfit_change_and_usually_the_context():
    rng = generator("names")
    named, special = 0, 0
    for scene in scenes(1500):
        text = captions.caption(scene, rng)
        assert scene.subject.class_noun in text
        if scene.change:
            assert f"{scene.change} {scene.subject.class_noun}" in text
        if scene.outfit:
            key = {"black top hat and monocle": "top hat", "police outfit": "police"}.get(scene.outfit)
            key = key or scene.outfit.replace(" outfit", "").split(" and ")[0]
            assert key in text
        if (scene.outfit or scene.change) and scene.context != STUDIO:
            special += 1
            named += len(text.split()) > len(captions.dreambench_template(scene).split()) + 1
    assert named / special > 0.6


@pytest.mark.parametrize("context", CONTEXTS)
def test_context_captions_vary_and_stay_true(context):
    rng = generator("vary", context)
    scene = sample_scene(sample_subject("bowl", "vary"), rng, context=context)
    texts = {captions.caption(scene, rng) for _ in range(60)}
    assert f"a bowl {context}" in texts
    assert len(texts) >= 8
    assert all(text != "a bowl" for text in texts)


def test_descriptions_and_colours_have_names() -> None:
    scene = sample_scene(sample_subject("dog", "words"), generator("d"))
    text = captions.describe(scene, generator("d"))
    subject = scene.subject
    if subject.pattern != "plain":
        assert name_of(subject.colours[1]) in text
    assert name_of(subject.colours[0]) in text
    assert name_of(subject.colours[2]) in text
    assert any(text.endswith(words) for words in captions.part_words(scene))
    assert all(name_of(rgb) == name for name, rgb in captions.NAMES.items())
    assert (name_of((250, 20, 30)), name_of((20, 60, 240))) == ("red", "blue")
