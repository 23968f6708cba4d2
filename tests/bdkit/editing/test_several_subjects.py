"""Several subjects in one prompt: the positions of their vectors, against the way of one subject."""

import pytest
import torch

from bdkit.editing.prompt_tokens import encode_prompts
from bdkit.editing.several_subjects import draw_subjects, encode_subjects
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.testing.tiny_model import tiny_model
from bdkit.utils.errors import InputError


@pytest.fixture(scope="module")
def model() -> BlipDiffusion:
    return tiny_model()


def vectors(model: BlipDiffusion, count: int, seed: int) -> torch.Tensor:
    width = model.text_encoder.model.config.hidden_size
    return torch.randn(1, count, width, generator=torch.Generator().manual_seed(seed))


def test_one_subject_is_as_elsewhere(model: BlipDiffusion) -> None:
    prompt, one = "a {} dog in the snow", vectors(model, 4, 0)
    _, expected = encode_prompts(model, [prompt], one)
    torch.testing.assert_close(encode_subjects(model, prompt, [one]), expected)


def test_each_subject_stands_before_its_word(model: BlipDiffusion) -> None:
    prompt, one, other = "a {} dog and a {} cat", vectors(model, 2, 0), vectors(model, 2, 1)
    hidden = encode_subjects(model, prompt, [one, other])
    # the text encoder is causal: what comes before the second subject does not depend on it
    changed = encode_subjects(model, prompt, [one, other.flip(2)])
    same = torch.isclose(hidden, changed, atol=1e-6).all(dim=2)[0]
    second = len(model.tokenizer("a dog and a", add_special_tokens=False).input_ids) + 1 + 2
    assert same[:second].all()
    assert not same[second]
    assert not torch.allclose(hidden, encode_subjects(model, prompt, [other, one]))


def test_images_and_refusals(model: BlipDiffusion) -> None:
    one, other = vectors(model, 2, 0), vectors(model, 2, 1)
    images = draw_subjects(model, "a {} dog and a {} cat", [one, other], [1, 2], num_inference_steps=2)
    assert len(images) == 2
    with pytest.raises(InputError, match=r"1 \{\} for 2 subjects"):
        encode_subjects(model, "a {} dog", [one, other])
    with pytest.raises(InputError, match="fewer subjects"):
        encode_subjects(model, "a {} dog and a {} cat", [vectors(model, 60, 0), other])
