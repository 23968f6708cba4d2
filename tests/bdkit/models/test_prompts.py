"""Prompts of a public checkpoint: templates, repetition, truncation."""

import csv
import warnings
from typing import Any

import pytest
import torch
from public_calls import PROMPTS, latents, photo

from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.prompts import PROMPT_TEMPLATES
from bdkit.testing.tiny_checkpoints import public_tiny_model
from bdkit.testing.tiny_model import tiny_model
from bdkit.utils.errors import InputError


@pytest.fixture(scope="module")
def model() -> BlipDiffusion:
    return public_tiny_model()


def ids(model: BlipDiffusion, prompt: str, **extra: Any) -> tuple[list[int], list[int]]:
    row, mask = model.tokenize([prompt], ["dog"], with_subject=True, **extra)
    return row[0].tolist(), mask[0].nonzero().flatten().tolist()


def text(model: BlipDiffusion, prompt: str, **extra: Any) -> str:
    row, places = ids(model, prompt, **extra)
    kept = [k for place, k in enumerate(row) if place not in places]
    decoded: str = model.tokenizer.decode(kept, skip_special_tokens=True)
    return decoded.strip()


def test_the_templates_and_their_numbers_of_repetitions(model: BlipDiffusion) -> None:
    assert set(PROMPT_TEMPLATES) == {"place", "public", "paper"}
    assert text(model, "in the snow") == text(model, "a {} in the snow") == "a dog in the snow"
    assert ids(model, "a red {} in the snow")[1] == list(range(2, 18))
    assert text(model, "a red {} in the snow") == "a red dog in the snow"
    assert ids(model, "a red {} in the snow", template="place")[1] == list(range(3, 19))
    paper, places = ids(model, "a red {} in the snow", template="paper")
    assert text(model, "a red {} in the snow", template="paper") == "a red dog in the snow , the dog is"
    assert places == list(range(11, 27))
    assert paper[27] == model.tokenizer.eos_token_id
    with pytest.raises(InputError, match="unknown prompt template 'other'; use place, public, paper"):
        latents(model, "in the snow", photo(), "dog", template="other")
    paper = latents(model, "in the snow", photo(), "dog", template="paper")
    assert torch.equal(paper, latents(model, "in the snow", photo(), "dog", template="paper", prompt_reps=1))
    assert not torch.equal(paper, latents(model, "in the snow", photo(), "dog"))
    assert torch.equal(
        latents(model, "in the snow", photo(), "dog"),
        latents(model, "a {} in the snow", photo(), "dog", template="public", prompt_reps=20),
    )


def test_all_prompts_of_the_benchmark_work(model: BlipDiffusion) -> None:
    with PROMPTS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    texts = {value.replace("{} {}", "{}") for row in rows for value in row.values() if value and "{}" in value}
    assert len(texts) >= 25
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for prompt in texts:
            for template in PROMPT_TEMPLATES:
                assert len(ids(model, prompt, template=template, prompt_reps=20)[1]) == 16


def test_long_prompts_are_cut_with_one_warning_that_says_what_and_before_the_tail(model: BlipDiffusion) -> None:
    long = "in the snow " * 40 + "vase"
    call = {"num_inference_steps": 1, "negative_prompt": "low quality " * 50 + "city"}
    with pytest.warns(UserWarning, match="the prompt is longer than 59 tokens") as caught:
        latents(model, long, photo(), "dog", **call)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "the negative prompt is longer than 75 tokens" in message
    assert message.count("this is cut off") == 2
    assert "snow vase" in message
    assert "quality city" in message
    with pytest.warns(UserWarning, match="this is cut off"):
        row, places = ids(model, "in the snow " * 40, template="paper")
    assert places == list(range(60, 76))
    (dog,) = model.tokenizer("dog", add_special_tokens=False).input_ids
    assert row[58] == dog  # ", the dog is", then the vectors
    assert row[76] == model.tokenizer.eos_token_id


def test_lists_of_negative_prompts(model: BlipDiffusion) -> None:
    both = latents(model, "in the snow", photo(), "dog", seeds=[1, 2], negative_prompt=["low quality", "a red vase"])
    alone = latents(model, "in the snow", photo(), "dog", seeds=[2], negative_prompt="a red vase")
    assert torch.allclose(both[1:], alone, atol=1e-4)
    with pytest.raises(InputError, match="2 negative prompts for 3 images"):
        latents(model, "in the snow", photo(), "dog", seeds=[1, 2, 3], negative_prompt=["a", "b"])


def test_letters_that_a_tokenizer_does_not_know_are_warned_of() -> None:
    model = tiny_model()
    with pytest.warns(
        UserWarning, match=r"tokenizer does not know; they mean nothing to it: 'é'; the negative .*'ü'"
    ) as caught:
        model("a café in the snow", negative_prompt="über", num_inference_steps=1)
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="does not know the class word 'собака'"):
        model.encode_subject(photo(), "собака")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model("a red {} (zebra)", target_subject="dog", num_inference_steps=1)
        model("a red {0} {1}", target_subject="sks dog", num_inference_steps=1)


def test_the_two_places_of_a_benchmarks_template_are_one() -> None:
    model = tiny_model()
    expected = model.tokenize(["a red {} on a rug"], ["sks dog"])[0]
    for prompt in ("a red {0} {1} on a rug", "a red {} {} on a rug"):
        assert torch.equal(model.tokenize([prompt], ["sks dog"])[0], expected)
    for prompt in ("a {0} dog", "a {1}", "a {subject}", "a { dog", "a } dog", "a {0} {1} {}", "{} and {}", "{{}}"):
        with pytest.raises(InputError, match=r"write|use one"):
            model.tokenize([prompt], ["dog"])
    for empty in ("", " "):
        with pytest.raises(InputError, match="the class word is empty"):
            model("a {}", target_subject=empty)
        with pytest.raises(InputError, match="the class word is empty"):
            model.encode_subject(photo(), empty)
