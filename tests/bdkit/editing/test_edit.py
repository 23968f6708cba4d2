"""Edits of tiny models: masks, presets, sources, refusals, and that the next generation is as in a fresh process."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from bdkit.editing import PRESETS, Edit, EditConfig, LocalBlend, edit, edit_batch, invert
from bdkit.editing.edit import edited_word
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.testing.full_size import random_model
from bdkit.testing.tiny_model import tiny_model
from bdkit.utils.errors import InputError

SOURCE, TARGET, PLAIN = "a {cat} on the beach", "a {} dog on the beach", "a dog on the beach"
FEW = {"num_inference_steps": 4, "guidance_scale": 4.0}


@pytest.fixture(scope="module")
def model() -> BlipDiffusion:
    return tiny_model()


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def subject() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def left_half() -> Image.Image:
    mask = np.zeros((32, 32), np.uint8)
    mask[:, :16] = 255
    return Image.fromarray(mask)


def same(one: Image.Image, other: Image.Image) -> bool:
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))


def test_a_generated_source_is_the_models_own_image(model: BlipDiffusion, subject: Image.Image) -> None:
    result = edit(model, None, SOURCE, TARGET, subject, seed=3, **FEW)
    own = model("a cat on the beach", seeds=[3], **FEW)[0]
    assert np.abs(np.asarray(result.source, int) - np.asarray(own, int)).max() <= 1
    assert not same(result.image, result.source)
    assert result.mask is not None
    assert result.mask.size == result.image.size == (32, 32)
    assert result.strip(subject).size == (4 * 34 - 2, 32)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_real_source(model: BlipDiffusion, photo: Image.Image, subject: Image.Image, preset: str) -> None:
    result = edit(model, photo, SOURCE, TARGET, subject, preset=preset, **FEW)
    assert result.source.size == result.image.size == (32, 32)
    assert result.inversion is not None
    assert result.inversion.method == PRESETS[preset].inversion
    assert same(result.image, edit(model, photo, SOURCE, TARGET, subject, preset=preset, **FEW).image)


def test_outside_the_users_mask_every_pixel_is_the_sources(model: BlipDiffusion, photo: Image.Image) -> None:
    result = edit(model, photo, SOURCE, PLAIN, mask=left_half(), **FEW)
    assert result.mask is not None
    assert same(result.mask, left_half())
    changed = np.asarray(result.image) != np.asarray(result.source)
    assert not changed[:, 22:].any()
    assert changed[:, :16].any()


def test_outside_the_outlines_every_pixel_is_the_sources(model: BlipDiffusion, photo: Image.Image) -> None:
    result = edit(model, photo, SOURCE, PLAIN, preset="fixed", **FEW)
    assert result.mask is not None
    near = np.asarray(result.mask.filter(ImageFilter.MaxFilter(9))) > 0
    assert near.any()
    assert not (np.asarray(result.image) != np.asarray(result.source))[~near].any()
    with pytest.raises(InputError, match="paste"):
        EditConfig(paste=False)


@pytest.mark.parametrize("real", [True, False])
def test_half_precision(photo: Image.Image, subject: Image.Image, real: bool) -> None:
    whole, half = tiny_model(), tiny_model().to(torch.bfloat16)
    source = photo if real else None
    images = [edit(m, source, SOURCE, TARGET, subject, mask="none", seed=1, **FEW).image for m in (whole, half)]
    difference = np.abs(np.asarray(images[0], float) - np.asarray(images[1], float))
    assert 0 < difference.mean() < 4  # of 255; bfloat16 keeps 8 bits


def test_an_empty_mask_changes_nothing(model: BlipDiffusion, photo: Image.Image) -> None:
    empty = Image.new("L", (32, 32))
    assert same(*(lambda r: (r.image, r.source))(edit(model, photo, SOURCE, PLAIN, mask=empty, **FEW)))


def test_without_a_mask_nothing_is_pasted(model: BlipDiffusion) -> None:
    result = edit(model, None, SOURCE, PLAIN, mask="none", **FEW)
    assert result.mask is None


def test_words_that_differ_are_found_and_braces_go_first() -> None:
    request = Edit(source_prompt="a cat, on the beach", target_prompt="a dog, on the beach")
    assert request.words() == (["cat"], ["dog"])
    request = Edit(source_prompt="a cat on the {beach}", target_prompt="a cat on the wet beach")
    assert request.words() == (["beach"], ["wet"])
    request = Edit(source_prompt="a {dress} in snow", target_prompt="a {} dress in snow")  # try-on
    assert request.words() == (["dress"], ["dress"])
    request = Edit(source_prompt="a {stuffed animal} in snow", target_prompt="a {} dog in snow")
    assert request.words() == (["stuffed animal"], ["dog"])
    request = Edit(source_prompt="a {stuffed animal} in snow", target_prompt="a {} stuffed animal in snow")
    assert request.words() == (["stuffed animal"], ["stuffed animal"])
    assert Edit(source_prompt="a cat", target_prompt="a cat").words() == ([], [])


def test_the_word_can_be_marked_by_an_argument(model: BlipDiffusion) -> None:
    marked = edit(model, None, SOURCE, PLAIN, **FEW)
    named = edit(model, None, "a cat on the beach", PLAIN, edited_word="cat", **FEW)
    assert same(marked.image, named.image)


def test_lavis_inverts_on_a_letter_and_aligns_without_the_subject(
    model: BlipDiffusion, photo: Image.Image, subject: Image.Image
) -> None:
    settings = {"guidance_scale": 4.0, "source_guidance_scale": 1.0, "reconstruct": False}
    inversion = edit(model, photo, SOURCE, TARGET, subject, preset="lavis", **FEW).inversion
    theirs = invert(model, photo.crop((4, 0, 36, 32)), "a c on the beach", "ddim", 4, **settings)
    assert inversion is not None
    assert torch.allclose(inversion.latents, theirs.latents, atol=1e-4)
    lavis = PRESETS["lavis"]
    assert (lavis.original, lavis.first_letter, lavis.threshold, lavis.self_replace_steps) == (True, True, 0.3, 0.4)


def test_a_batch_equals_its_edits(model: BlipDiffusion, photo: Image.Image, subject: Image.Image) -> None:
    embeddings = [model.mean_subjects([subject], noun) for noun in ("dog", "toy")]
    targets = [TARGET, "a {} toy on the beach"]
    requests = [
        Edit(source=photo, source_prompt=SOURCE, target_prompt=target, subject_embeddings=vectors)
        for target, vectors in zip(targets, embeddings, strict=True)
    ]
    config = EditConfig(**FEW)
    for one, request in zip(edit_batch(model, requests, config), requests, strict=True):
        alone = edit_batch(model, [request], config)[0]
        assert np.abs(np.asarray(one.image, int) - np.asarray(alone.image, int)).mean() < 1


def test_a_cached_subject_is_taken(subject: Image.Image) -> None:
    tuned = tiny_model()
    tuned.subject_embeddings, tuned.subject_class = tuned.mean_subjects([subject], "dog"), "dog"
    result = edit(tuned, None, SOURCE, TARGET, **FEW)
    assert same(result.image, edit(tiny_model(), None, SOURCE, TARGET, subject, **FEW).image)


def test_reweighting_needs_no_other_words(model: BlipDiffusion) -> None:
    prompt = "a cat on the beach"
    result = edit(model, None, prompt, prompt, equalizer={"beach": 4.0}, **FEW)
    assert not same(result.image, result.source)


def test_the_subject_itself_can_be_the_region(model: BlipDiffusion, subject: Image.Image) -> None:
    from bdkit.editing import prompt_to_prompt

    prompts = ["a cat on the beach", TARGET]
    blend = LocalBlend(words=[("cat",), ("{}",)], smooth=True)
    vectors = model.mean_subjects([subject], "dog")
    images = prompt_to_prompt(model, prompts, local_blend=blend, subject_embeddings=vectors, **FEW)
    assert len(images) == 2
    with pytest.raises(InputError, match=r"'\{\}' is not in"):
        prompt_to_prompt(model, ["a cat", "a dog"], local_blend=blend, **FEW)


REFUSED = [
    ({"source_prompt": "a {cat} on the {beach}"}, "needs one word in braces"),
    ({"source_prompt": "a {} on the beach"}, "are empty"),
    ({"target_prompt": "a {} dog"}, "no subject was given"),
    ({"edited_word": "dog", "source_prompt": "a cat"}, "'dog' is not in 'a cat'"),
    ({"preset": "best"}, "unknown preset 'best'"),
    ({"mask": "magic"}, "mask 'magic' is not known"),
    ({"inversion": None, "mode": "swap"}, "mode 'swap' is not known"),
    ({"subject_images": Image.new("RGB", (32, 32))}, "needs a {} right before"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_refusals(model: BlipDiffusion, arguments: dict[str, Any], message: str) -> None:
    given = {"source_prompt": SOURCE, "target_prompt": PLAIN, **FEW, **arguments}
    with pytest.raises(InputError) as caught:
        edit(model, None, given.pop("source_prompt"), given.pop("target_prompt"), **given)
    assert message in str(caught.value)


def test_kinds_of_sources_are_not_mixed(model: BlipDiffusion, photo: Image.Image) -> None:
    requests = [Edit(source=image, source_prompt=SOURCE, target_prompt=PLAIN) for image in (photo, None)]
    with pytest.raises(InputError, match="only real sources"):
        edit_batch(model, requests, EditConfig(**FEW))
    assert edited_word("a cat") is None


FRESH = """
import sys, torch
from bdkit.testing.{module} import {maker}
torch.manual_seed(0)
model = {call}
torch.save(model("a cat", seeds=[5], num_inference_steps=3, output_type="latent"), sys.argv[1])
"""


@pytest.mark.parametrize(
    ("module", "maker", "call"),
    [
        ("tiny_model", "tiny_model", "tiny_model()"),
        ("full_size", "random_model", "random_model(__import__('bdkit.models.configs', fromlist=['TINY']).TINY)"),
    ],
)
def test_after_an_edit_the_next_generation_is_that_of_a_fresh_process(
    module: str, maker: str, call: str, tmp_path: Path
) -> None:
    script = FRESH.format(module=module, maker=maker, call=call)
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "fresh.pt")], check=True)
    fresh: Tensor = torch.load(tmp_path / "fresh.pt")
    if maker == "tiny_model":
        used = tiny_model()
    else:
        from bdkit.models.configs import TINY

        torch.manual_seed(0)
        used = random_model(TINY)
    side = used.resolution
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (side, side, 3), dtype=np.uint8))
    edit(used, None, "a {cat}", "a {} dog", image, num_inference_steps=2)
    edit(used, image, "a {cat}", "a {} dog", image, num_inference_steps=2)
    with pytest.raises(InputError):
        edit(used, image, "a {cat}", "a dog", mode="replaced", num_inference_steps=2)
    assert torch.equal(used("a cat", seeds=[5], num_inference_steps=3, output_type="latent"), fresh)
