"""Edits of tiny models: what comes out, batches, blends, refusals, and that nothing is left behind."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler, HeunDiscreteScheduler
from PIL import Image
from torch import Tensor

from bdkit.editing import Inversion, LocalBlend, invert, prompt_to_prompt
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.testing.tiny_model import tiny_model
from bdkit.utils.errors import InputError

PROMPTS = ["a cat on the beach", "a dog on the beach"]
NEW = ["a red cat on the beach", "a cat on the wet beach in snow"]


@pytest.fixture(scope="module")
def model() -> BlipDiffusion:
    return tiny_model()


def edit(model: BlipDiffusion, prompts: Any = PROMPTS, **settings: Any) -> Any:
    defaults = {"num_inference_steps": 4, "output_type": "latent", "seed": 3}
    return prompt_to_prompt(model, prompts, **{**defaults, **settings})


def generate(model: BlipDiffusion, prompt: str, **settings: Any) -> Tensor:
    defaults = {"seeds": [3], "num_inference_steps": 4, "guidance_scale": 7.5, "output_type": "latent"}
    return model(prompt, **{**defaults, **settings})


def close(ours: Tensor, theirs: Tensor) -> bool:
    return bool(torch.allclose(ours, theirs, atol=2e-4, rtol=1e-4))


def test_the_source_is_the_models_own_image(model: BlipDiffusion) -> None:
    source, target = edit(model)
    assert close(source[None], generate(model, PROMPTS[0]))
    assert not close(target[None], generate(model, PROMPTS[1]))
    assert not close(target, source)
    assert close(edit(model, mode=None)[1:], generate(model, PROMPTS[1]))
    alone = edit(model, PROMPTS[:1])
    assert close(alone, source[None])


def test_no_replacement_at_all_is_plain_generation(model: BlipDiffusion) -> None:
    never = {"cross_replace_steps": 0.0, "self_replace_steps": 0}
    assert close(edit(model, mode="replace", **never), edit(model, mode=None))


@pytest.mark.parametrize("mode", ["refine", "replace"])
def test_a_prompt_edited_into_itself_stays(model: BlipDiffusion, mode: str) -> None:
    source, target = edit(model, [PROMPTS[0]] * 2, mode=mode)
    assert close(source, target)


def test_an_edit_leaves_nothing_behind() -> None:
    fresh, used = tiny_model(), tiny_model()
    for model in (fresh, used):
        model.unet.to(memory_format=torch.channels_last)
    strides = [parameter.stride() for parameter in used.unet.parameters()]
    edit(used, local_blend=LocalBlend(words=[("cat",), ("dog",)]), equalizer={"dog": 2.0})
    assert torch.equal(generate(used, PROMPTS[0]), generate(fresh, PROMPTS[0]))

    class Halts(DDIMScheduler):
        def step(self, *_args: Any, **_kwargs: Any) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        edit(used, scheduler=Halts.from_config(used.scheduler.config))
    assert torch.equal(generate(used, PROMPTS[0]), generate(fresh, PROMPTS[0]))
    assert torch.equal(edit(used), edit(fresh))
    assert strides == [parameter.stride() for parameter in used.unet.parameters()]


def test_a_batch_of_edits_is_each_of_them(model: BlipDiffusion) -> None:
    blends = [LocalBlend(words=[("cat",), ("dog",)]), None]
    edits = [PROMPTS, [*NEW, NEW[0]]]
    first, second = edit(model, edits, seed=[3, 4], local_blend=blends)
    assert first.shape == (2, 4, 8, 8)
    assert second.shape == (3, 4, 8, 8)
    assert close(first, edit(model, edits[0], local_blend=blends[0]))
    assert close(second, edit(model, edits[1], seed=4))
    images, attention = edit(model, edits, output_type="pil", return_attention=True)
    assert [len(group) for group in images] == [len(a.prompts) for a in attention] == [2, 3]


def test_each_setting_changes_the_target_alone(model: BlipDiffusion) -> None:
    source, base = edit(model, NEW)
    for settings in (
        {"cross_replace_steps": 0.2},
        {"cross_replace_steps": (0.5, 1.0)},
        {"cross_replace_steps": {"default_": 0.8, "snow": 0.0, "wet": (0.2, 0.4)}},
        {"self_replace_steps": 1.0},
        {"self_replace_steps": (0.5, 1.0)},
        {"self_max_queries": 16},
        {"equalizer": {"snow": 4.0}},
        {"equalizer": {"wet beach": -2.0}},
        {"mode": None, "equalizer": {"cat": 2.0}},
    ):
        same, other = edit(model, NEW, **settings)
        assert close(same, source)
        if settings.get("cross_replace_steps") != {"default_": 0.8, "snow": 0.0, "wet": (0.2, 0.4)}:
            assert not close(other, base), settings  # new words keep their own map in any case


def test_a_blend_keeps_the_source_outside_its_mask(model: BlipDiffusion) -> None:
    blend = LocalBlend(words=[("cat",), ("dog",)], threshold=0.9)
    latents, attention = edit(model, local_blend=blend, return_attention=True)
    mask = attention.blend_masks[-1, 0]
    assert 0 < mask.sum() < 64
    assert torch.equal(latents[1][:, ~mask], latents[0][:, ~mask])
    assert not close(latents[1][:, mask], latents[0][:, mask])
    assert attention.cross_maps.shape == (2, 8, 8, 20)
    assert len(attention.blend_masks) == 5  # PNDM takes one more
    later = edit(model, local_blend=LocalBlend(words=blend.words, start=0.5), return_attention=True)[1]
    assert len(later.blend_masks) == 3
    without = edit(model, local_blend=LocalBlend(words=[("cat",)], threshold=0.9), return_attention=True)[1]
    assert not without.blend_masks[-1, 0][~mask].any()
    outside = LocalBlend(words=[("cat",), ("dog",)], threshold=(0.9, 0.0), subtract=[("beach",)])
    assert torch.equal(*edit(model, local_blend=outside))  # nothing is left to edit


def test_the_users_own_mask(model: BlipDiffusion) -> None:
    image = np.zeros((32, 32), dtype=np.uint8)
    image[:, 16:] = 255
    latents = edit(model, local_blend=LocalBlend(mask=Image.fromarray(image)))
    assert torch.equal(latents[1, :, :, :4], latents[0, :, :, :4])
    assert not close(latents[1, :, :, 4:], latents[0, :, :, 4:])


def test_a_subject_among_the_tokens(model: BlipDiffusion) -> None:
    vectors = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(0)) / 10
    prompts = ["a cat on the beach", "a {} dog on the beach"]
    blend = LocalBlend(words=[("cat",), ("dog",)])
    for original in (False, True):
        source, target = edit(model, prompts, subject_embeddings=vectors, local_blend=blend, original=original)
        assert close(source[None], generate(model, PROMPTS[0]))
        assert not close(target, edit(model, prompts, subject_embeddings=-vectors, local_blend=blend)[1])
    plain = edit(model, prompts, subject_embeddings=vectors, mode=None)[1:]
    subject = {"subject_embeddings": vectors, "target_subject": "dog"}
    assert close(plain, generate(model, "a {} on the beach", **subject))


def test_replace_mends_the_original(model: BlipDiffusion) -> None:
    prompts = ["a zebra on the beach", "a dog on the beach"]  # 5 tokens become 1
    assert not close(edit(model, prompts, mode="replace")[1], edit(model, prompts, mode="replace", original=True)[1])
    same = [PROMPTS[0], "a dog on the wet"]
    assert torch.equal(edit(model, same, mode="replace"), edit(model, same, mode="replace", original=True))


@pytest.mark.parametrize("kind", [EulerAncestralDiscreteScheduler, HeunDiscreteScheduler, DDIMScheduler])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_other_schedulers(model: BlipDiffusion, kind: Any, prediction: str) -> None:
    scheduler = kind.from_config(model.scheduler.config, prediction_type=prediction)
    source, target = edit(model, scheduler=scheduler)
    expected = generate(model, PROMPTS[0], scheduler=scheduler)[0]
    assert torch.allclose(source, expected, atol=1e-3 * float(expected.abs().max()))
    assert torch.isfinite(target).all()


def test_outputs_and_half_precision(model: BlipDiffusion) -> None:
    images = edit(model, output_type="pil")
    assert [image.size for image in images] == [(32, 32)] * 2
    arrays, tensor = edit(model, output_type="np"), edit(model, output_type="pt")
    assert arrays.shape == (2, 32, 32, 3)
    assert np.allclose(arrays, tensor.permute(0, 2, 3, 1))
    half = edit(tiny_model().to(torch.bfloat16), local_blend=LocalBlend(words=[("cat",), ("dog",)]))
    assert half.dtype == torch.float32
    assert torch.isfinite(half).all()
    wide = torch.randn(1, 4, 9, 6, generator=torch.Generator().manual_seed(0))
    assert edit(model, latents=wide, local_blend=LocalBlend(words=["cat", "dog"])).shape == (2, 4, 9, 6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": "a cat"}, "a list of prompts"),
        ({"prompts": []}, "a list of prompts"),
        ({"mode": "swap"}, "mode 'swap'"),
        ({"mode": "replace", "prompts": NEW}, "as many words"),
        ({"equalizer": {"snow": 2.0}}, "the word 'snow' is not in"),
        ({"cross_replace_steps": {"snow": 0.5}}, "the word 'snow' is not in"),
        ({"cross_replace_steps": 1.5}, "a share from 0 to 1"),
        ({"self_replace_steps": (0.5, 0.2)}, "a share from 0 to 1"),
        ({"local_blend": LocalBlend(words=[("cat",), ("cat",)])}, "the word 'cat' is not in"),
        ({"local_blend": LocalBlend(words=["cat", "dog", "dog"])}, "words for 3 prompts"),
        ({"latents": torch.zeros(2, 4, 8, 8)}, "initial latents have shape"),
        ({"seed": [1, 2]}, "2 seeds for 1 edits"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"output_type": "jpg"}, "output_type 'jpg'"),
        ({"subject_embeddings": torch.zeros(1, 4, 32)}, "0 prompts with {}"),
        ({"prompts": ["a cat", "a {} dog"]}, "no subject was given"),
        ({"prompts": ["a cat", "a {} dog"], "subject_embeddings": torch.zeros(1, 4, 30)}, "have width 30"),
    ],
)
def test_bad_input(model: BlipDiffusion, settings: dict[str, Any], message: str) -> None:
    prompts = settings.pop("prompts", PROMPTS) if "prompts" in settings else PROMPTS
    with pytest.raises(InputError, match=message) as raised:
        edit(model, prompts, **settings)
    assert "\n" not in str(raised.value)


def test_bad_blends() -> None:
    image = Image.new("L", (8, 8))
    for settings in (
        {},
        {"words": [("cat",)], "mask": image},
        {"mask": image, "subtract": [("cat",)]},
        {"words": "cat"},
        {"words": [("cat",)], "threshold": 2.0},
        {"words": [("cat",)], "start": -0.1},
    ):
        with pytest.raises(InputError):
            LocalBlend(**settings)


def test_bad_inversions(model: BlipDiffusion) -> None:
    inversion = invert(model, torch.zeros(1, 4, 8, 8), PROMPTS[0], num_inference_steps=2, reconstruct=False)
    with pytest.raises(InputError, match="the inversion has 2 steps"):
        edit(model, inversion=inversion)
    with pytest.raises(InputError, match="DDIMScheduler"):
        edit(model, inversion=inversion, num_inference_steps=2, scheduler=model.scheduler)
    with pytest.raises(InputError, match="unknown inversion"):
        Inversion(latents=inversion.latents, method="guess")
    with pytest.raises(InputError, match="latents of an inversion"):
        Inversion(latents=inversion.latents[:, 0], method="ddim")
