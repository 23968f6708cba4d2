import re
from dataclasses import fields

import pytest
from eval_helpers import texture
from timm.data import create_transform
from torchvision import transforms

from bdkit.cli import main
from bdkit.utils.errors import InputError
from dreambench.registry import load_suite
from eval.score import protocols
from eval.score.encoders import to_batch


@pytest.mark.parametrize("size", [(400, 300), (300, 431), (224, 224), (100, 37), (512, 512)])
def test_squashed_and_timms_own_pixels_are_the_published_ones(size: tuple[int, int]) -> None:
    image = texture(*size)
    normalise = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    squash = transforms.Compose([transforms.Resize((224, 224)), transforms.ToTensor(), normalise])
    assert (to_batch([image], protocols.PROTOCOLS["dino-squash"].dino)[0] == squash(image)).all()
    timms = create_transform(224, interpolation="bicubic", crop_pct=0.9)
    assert (to_batch([image], protocols.PROTOCOLS["dino-248"].dino)[0] == timms(image)).all()


def test_names_are_keys_and_each_variant_differs_as_it_says() -> None:
    assert all(name == protocol.name for name, protocol in protocols.PROTOCOLS.items())
    assert all(
        set(protocols.settings(p)) == {f.name for f in fields(protocols.ScoringProtocol)} - {"name", "summary"}
        for p in protocols.PROTOCOLS.values()
    )
    changed = {
        name: set(protocols.differences(protocol)) for name, protocol in protocols.PROTOCOLS.items() if name != "mini"
    }
    assert changed == {
        "dreambench": set(), "dino-s8": {"dino_model"}, "dino-squash": {"dino"}, "dino-248": {"dino"},
        "one-reference": {"references"}, "random-reference": {"references"}, "text-with-token": {"clip_t_text"},
        "text-background": {"clip_t_text"}, "text-rewritten": {"clip_t_text"}, "clip-t-x100": {"clip_t_scale"},
        "clip-score": {"clip_t_scale", "clip_t_clamped"}, "six-samples": {"samples_per_prompt"},
        "no-background": {"background"}, "dreambench++": {"dino_model", "references"},
    }  # fmt: skip


def test_texts_of_every_prompt() -> None:
    suite = load_suite("dreambench")
    dog = next(subject for subject in suite.subjects if subject.name == "dog")
    jungle, hat, red = (suite.prompts(dog)[index] for index in (0, 10, 20))
    texts = {
        "dreambench": ("a dog in the jungle", "a dog wearing a red hat", "a red dog"),
        "text-with-token": ("a sks dog in the jungle", "a sks dog wearing a red hat", "a red sks dog"),
        "text-background": ("in the jungle", "wearing a red hat", "red"),
        "text-rewritten": ("a dog in the jungle", "a dog wearing a red hat", "a dog, red"),
    }
    for name, expected in texts.items():
        assert tuple(protocols.PROTOCOLS[name].text(prompt, "dog") for prompt in (jungle, hat, red)) == expected
    assert protocols.rewritten("a cube shaped {} {}") == "a {} {}, cube shaped"
    for protocol in protocols.PROTOCOLS.values():
        for subject in suite.subjects:
            for prompt in suite.prompts(subject):
                text = protocol.text(prompt, subject.class_noun)
                assert re.fullmatch(r"\w.*\S", text)
                assert "{" not in text


def test_only_six_samples_changes_the_suite_and_a_table_is_of_one_protocol() -> None:
    suite = load_suite("dreambench")
    assert protocols.find_protocol("dreambench").apply_to(suite) == suite
    assert protocols.find_protocol("six-samples").apply_to(suite).n_images == 30 * 25 * 6
    with pytest.raises(InputError, match=r"unknown protocol 'x'; known: dreambench, .*mini"):
        protocols.find_protocol("x")
    protocols.check_one_protocol({"one": ["dreambench", "dreambench"], "two": ["dreambench"]})
    with pytest.raises(InputError, match=r"never mixes protocols.*'dino-s8' in two, 'dreambench' in one"):
        protocols.check_one_protocol({"one": ["dreambench"], "two": ["dino-s8"]})


def test_the_command_prints_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["protocols"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n{name}: " in f"\n{text}" for name in protocols.PROTOCOLS)
    assert "dino: squashed to 224 x 224, bilinear (not short side to 256, bicubic, centre crop 224)" in text
    assert main(["protocols", "clip-score"]) == 0
    assert "clip t scale: 2.5" in capsys.readouterr().out
    assert main(["protocols", "clipscore"]) == 2
