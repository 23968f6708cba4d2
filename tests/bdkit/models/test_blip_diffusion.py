"""The assembly: what an image depends on, how prompts are read, what is refused."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler
from PIL import Image

from bdkit.losses import NOISE_SCHEDULE
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.latent_diffusion import decode_latents
from bdkit.models.prompts import split_prompt
from bdkit.sampling import initial_noise
from bdkit.testing.tiny_model import tiny_model
from bdkit.utils.errors import InputError


@pytest.fixture(scope="module")
def references() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(3)]


def latents(model: BlipDiffusion, prompt: str | Sequence[str] = "a {} on the beach", *args: Any, **extra: Any) -> Any:
    settings = {"target_subject": "dog", "num_inference_steps": 2, "output_type": "latent"} | extra
    if args:
        settings.pop("target_subject") if "target_subject" not in extra else None
    return model(prompt, *args, **settings)


def test_an_image_depends_on_its_seed_and_noise_alone(model: BlipDiffusion, references: list[Image.Image]) -> None:
    batch = latents(model, "a {} on the beach", references, "dog", seeds=[4, 5, 6, 7])
    for k, seed in enumerate([4, 5, 6, 7]):
        alone = latents(model, "a {} on the beach", references, "dog", seeds=[seed])
        assert torch.allclose(alone[0], batch[k], atol=1e-4)
    assert torch.equal(latents(model, "a {} on the beach", references, "dog", seeds=[4, 5, 6, 7]), batch)
    assert (batch[0] - batch[1]).abs().max() > 0.1
    torch.manual_seed(99)
    assert torch.equal(latents(model, seeds=[1]), latents(model, seeds=[1]))
    noise, _ = initial_noise([8, 9], (4, 8, 8))
    given = latents(model, latents=noise)
    assert torch.equal(given, latents(model, seeds=[8, 9]))
    assert (given - latents(model, latents=noise.flip(0))).abs().max() > 0.1
    batch = latents(model, ["a {} on the beach", "a red {}"], target_subject=["dog", "vase"], seeds=[5, 6])
    assert torch.allclose(latents(model, "a red {}", target_subject="vase", seeds=[6])[0], batch[1], atol=1e-4)


def test_ancestral_sampling_is_exact_in_seeds_and_batch(model: BlipDiffusion) -> None:
    extra = {"scheduler": EulerAncestralDiscreteScheduler(**NOISE_SCHEDULE)}
    batch = latents(model, seeds=[4, 5, 6], **extra)
    assert torch.allclose(latents(model, seeds=[5], **extra)[0], batch[1], atol=1e-4)
    assert not torch.allclose(batch, latents(model, seeds=[4, 5, 6]), atol=1e-2)


def test_vectors_of_several_references_are_averaged(model: BlipDiffusion, references: list[Image.Image]) -> None:
    vectors = model.encode_subject(references, "dog")
    assert vectors.shape == (3, 4, 32)
    assert torch.allclose(model.encode_subject(references[1], "dog"), vectors[1:2], atol=1e-6)
    words = model.encode_subject(references[:2], ["dog", "cat"])
    assert torch.allclose(words[0], vectors[0], atol=1e-6)
    assert not torch.allclose(words[1], vectors[1], atol=1e-5)
    from_images = latents(model, "a {} on the beach", references, "dog", seeds=[0])
    from_vectors = latents(model, seeds=[0], subject_embeddings=vectors.mean(0, keepdim=True))
    assert torch.allclose(from_images, from_vectors, atol=1e-5)
    assert not torch.equal(from_images, latents(model, seeds=[0]))
    with pytest.raises(InputError, match="3 images but 2 category words"):
        model.encode_subject(references, ["dog", "cat"])


def test_the_cached_subject_is_used_and_given_vectors_win(references: list[Image.Image]) -> None:
    model = tiny_model()
    given = model.encode_subject(references[0], "vase")
    expected = latents(model, seeds=[0], target_subject="vase", subject_embeddings=given)
    model.subject_embeddings, model.subject_class = given, "vase"
    assert torch.equal(latents(model, seeds=[0], target_subject=None), expected)
    other = model.encode_subject(references[1], "vase")
    assert not torch.equal(latents(model, seeds=[0], target_subject=None, subject_embeddings=other), expected)


def ids(model: BlipDiffusion, prompt: str, noun: str | None = "dog", **extra: Any) -> list[int]:
    rows, _ = model.tokenize([prompt], [noun] if noun else None, with_subject=extra.pop("with_subject", False), **extra)
    return rows[0].tolist()


def words(model: BlipDiffusion, *args: Any, **extra: Any) -> str:
    return model.tokenizer.decode(ids(model, *args, **extra), skip_special_tokens=True).strip()


def test_where_the_subject_goes(model: BlipDiffusion) -> None:
    assert words(model, "a red {} in the snow") == "a red dog in the snow"
    assert (words(model, "in the snow"), words(model, "")) == ("a dog in the snow", "a dog")
    assert words(model, "a red vase", None) == "a red vase"
    assert split_prompt("a red {} in the snow", "dog") == ("a red", "dog in the snow")
    assert split_prompt("{} on top", "dog") == ("", "dog on top")
    row, mask = model.tokenize(["a red {} in the snow"], ["dog"], with_subject=True)
    places = mask[0].nonzero().flatten().tolist()
    assert places == [3, 4, 5, 6]
    (dog,) = model.tokenizer("dog", add_special_tokens=False).input_ids
    assert int(row[0, 7]) == dog
    with pytest.raises(InputError, match=r"'a \{\} and a \{\}' has 2 places for a subject; use one"):
        model("a {} and a {}", target_subject="dog")
    with pytest.raises(InputError, match="has a place for a subject, but no subject was given"):
        model("a {} in the snow")


def test_repeating_the_prompt(model: BlipDiffusion) -> None:
    assert words(model, "a red {}", prompt_reps=3) == "a red dog , a red dog , a red dog"
    once, twice = latents(model, "a red {}", seeds=[0]), latents(model, "a red {}", seeds=[0], prompt_reps=2)
    assert not torch.equal(once, twice)
    with pytest.raises(InputError, match="prompt_reps is 0; use at least 1"):
        model("a red {}", target_subject="dog", prompt_reps=0)


def test_a_long_prompt_is_cut_with_one_warning_that_names_what_is_lost(model: BlipDiffusion) -> None:
    long = "a {} in the snow on the grass on the rug on the floor in the city of the house"  # 20 words for 18 places
    call = {"target_subject": "dog", "num_inference_steps": 1, "guidance_scale": 1.0}
    with pytest.warns(UserWarning, match="longer than 18 tokens; this is cut off: 'the house ?'$") as caught:
        model([long, long, "a {}"], **call)
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="longer than 14 tokens; this is cut off: 'in the city of the house ?'$"):
        model.tokenize([long], ["dog"], with_subject=True, prompt_reps=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # repetitions that do not fit are nobody's loss
        model.tokenize(["a {} in the snow"], ["dog"], with_subject=True, prompt_reps=20)


def test_output_types(model: BlipDiffusion) -> None:
    call = {"target_subject": "dog", "num_inference_steps": 1, "seeds": [0, 1]}
    images, arrays = model("a {}", **call), model("a {}", **call, output_type="np")
    assert [p.size for p in images] == [(32, 32)] * 2
    assert images[0].mode == "RGB"
    assert (arrays.shape, arrays.dtype) == ((2, 32, 32, 3), np.float32)
    assert np.array_equal(np.asarray(images[1]), (arrays[1] * 255).round().astype(np.uint8))
    with torch.no_grad():
        decoded = decode_latents(model.vae, model("a {}", **call, output_type="latent"))
    assert np.abs(decoded.permute(0, 2, 3, 1).numpy() / 2 + 0.5 - arrays).max() <= 0.51 / 255
    assert model("a {}", **call, width=48, height=16)[0].size == (48, 16)


def test_the_negative_prompt_counts_only_under_guidance(model: BlipDiffusion) -> None:
    without, red = (latents(model, seeds=[0], negative_prompt=text) for text in ("", "a red house"))
    assert not torch.equal(without, red)
    assert torch.equal(latents(model, seeds=[0]), without)
    unguided = [latents(model, seeds=[0], guidance_scale=1.0, negative_prompt=text) for text in ("", "a red house")]
    assert torch.equal(*unguided)


def test_a_second_call_is_not_corrupted_by_the_first(model: BlipDiffusion, references: list[Image.Image]) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first = latents(model, seeds=[0])
    latents(
        model, "a {} on the beach", references, "cat", seeds=[3, 4], prompt_reps=2, height=16, num_inference_steps=4
    )
    with pytest.raises(InputError):
        model("a {}", references, "cat", subject_embeddings=torch.zeros(3, 4, 32), seeds=[0, 1])
    assert torch.equal(latents(model, seeds=[0]), first)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.subject_embeddings is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": ["a {}", "a red {}"], "seeds": [1, 2, 3]}, "2 prompts, 3 seeds and 3 target subjects do not fit"),
        ({"prompt": ["a {}", "a red {}"], "seeds": [1]}, "2 prompts, 1 seeds"),
        ({"target_subject": ["dog", "cat"], "seeds": [1, 2, 3]}, "3 prompts, 3 seeds and 2 target subjects"),
        ({"seeds": []}, "0 seeds"),
        ({"prompt": []}, "0 prompts"),
        ({"latents": torch.zeros(2, 4, 8, 8), "seeds": [1, 2, 3]}, "2 initial latents for 3 images"),
        (
            {"subject_embeddings": torch.zeros(2, 4, 32), "seeds": [1, 2, 3]},
            "2 subjects for 3 prompts; give 1 or as many",
        ),
        ({"height": 30}, "height 30 and width 32 must be multiples of 4"),
        ({"width": 33}, "height 32 and width 33 must be multiples of 4"),
        ({"width": 0}, "height 32 and width 0 must be multiples of 4"),
        ({"height": -4}, "height -4 and width 32 must be multiples of 4"),
        ({"output_type": "jpeg"}, "'jpeg' is not known; use 'pil', 'np', 'pt' or 'latent'"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"reference_images": Image.new("RGB", (8, 8))}, "reference images need source_subject"),
        ({"reference_images": [], "source_subject": "dog"}, "no subject image was given"),
        (
            {"subject_embeddings": torch.zeros(1, 4, 32), "target_subject": None},
            "need the class noun that follows them",
        ),
    ],
)
def test_wrong_input_is_one_line(model: BlipDiffusion, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        model(**({"prompt": "a {}", "target_subject": "dog"} | settings))
    assert "\n" not in str(caught.value)


def test_settings_for_records(model: BlipDiffusion) -> None:
    assert model.settings() == {
        "model": "", "resolution": 32, "guidance_scale": 3.0, "num_inference_steps": 3, "prompt_reps": 1,
        "negative_prompt": "", "scheduler": "PNDMScheduler",
    }  # fmt: skip
