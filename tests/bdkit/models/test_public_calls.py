"""Running a public checkpoint: the faults of the published ports, and what a user asks of a call."""

import inspect
import subprocess
import sys
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from public_calls import SMALL, latents, photo
from torch import Tensor

from bdkit.methods.blip_diffusion import BlipDiffusionMethod
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.sampling import initial_noise
from bdkit.testing.tiny_checkpoints import public_tiny_model
from bdkit.training.method_config import BlipDiffusionConfig
from bdkit.utils.errors import InputError


@pytest.fixture(scope="module")
def model() -> BlipDiffusion:
    return public_tiny_model()


# The faults of the ports, one by one


def unet_inputs(model: BlipDiffusion, **call: Any) -> list[Tensor]:
    """What the U-Net was given at each step."""
    seen: list[Tensor] = []
    handle = model.unet.register_forward_hook(lambda module, args, output: seen.append(args[0].clone()))
    try:
        latents(model, "in the snow", photo(), "dog", **call)
    finally:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler"])
def test_the_model_input_is_scaled_for_schedulers_that_need_it(name: str, model: BlipDiffusion) -> None:
    scheduler = getattr(diffusers, name).from_config(model.scheduler.config)
    first = unet_inputs(model, seeds=[3], guidance_scale=1.0, scheduler=scheduler)[0]
    noise, _ = initial_noise([3], (4, 8, 8))
    scheduler.set_timesteps(2)
    sigma = float(scheduler.sigmas[0])
    assert sigma > 5
    expected = noise * float(scheduler.init_noise_sigma) / (sigma**2 + 1) ** 0.5
    assert torch.allclose(first, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["EulerAncestralDiscreteScheduler", "DDPMScheduler", "LCMScheduler"])
def test_the_generator_reaches_the_schedulers_step(name: str, model: BlipDiffusion) -> None:
    scheduler = getattr(diffusers, name).from_config(model.scheduler.config)
    call = {"seeds": [3, 4], "scheduler": scheduler, "num_inference_steps": 3}
    torch.manual_seed(1)
    first = latents(model, "in the snow", photo(), "dog", **call)
    torch.manual_seed(2)
    assert torch.equal(latents(model, "in the snow", photo(), "dog", **call), first)
    assert not torch.allclose(first[0], first[1], atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_becomes_arrays_and_images(dtype: torch.dtype) -> None:
    model = public_tiny_model()
    exact = model("in the snow", photo(), "dog", **SMALL | {"output_type": "np"})
    model.to(dtype)
    arrays = model("in the snow", photo(), "dog", **SMALL | {"output_type": "np"})
    assert (arrays.dtype, arrays.shape) == (np.float32, (1, 16, 16, 3))
    assert np.isfinite(arrays).all()
    assert np.abs(arrays - exact).mean() < 0.1
    (image,) = model("in the snow", photo(), "dog", **SMALL | {"output_type": "pil"})
    assert image.size == (16, 16)
    assert model("in the snow", photo(), "dog", **SMALL | {"output_type": "pt"}).dtype == torch.float32


def test_floats_in_0_to_1_are_images_and_are_not_rescaled_again(model: BlipDiffusion) -> None:
    image = photo()
    expected = model.encode_subject(image, "dog")
    array = np.asarray(image, dtype=np.float32) / 255
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    for same in (array, tensor, np.asarray(image), torch.from_numpy(np.array(image)).permute(2, 0, 1)):
        assert torch.equal(model.encode_subject(same, "dog"), expected)
    assert torch.equal(model.encode_subject(tensor[None], "dog"), expected)
    assert torch.equal(latents(model, "x", tensor, "dog"), latents(model, "x", image, "dog"))
    dark = Image.new("RGB", (8, 8), (1, 1, 1))  # all values <= 1, but whole numbers
    light = model.encode_subject(np.full((8, 8, 3), 1 / 255, dtype=np.float32), "dog")
    assert torch.equal(model.encode_subject(dark, "dog"), light)
    with pytest.raises(InputError, match=r"floats lies in .*; give floats in 0..1, or uint8"):
        model.encode_subject(array * 255, "dog")
    with pytest.raises(InputError, match=r"array of shape .* is no image"):
        model.encode_subject(np.repeat(array, 2, axis=2), "dog")


def test_two_prompts_with_one_subject(model: BlipDiffusion) -> None:
    both = latents(model, ["in the snow", "on the beach"], photo(), "dog", seeds=[1, 2])
    for k, prompt in enumerate(("in the snow", "on the beach")):
        alone = latents(model, prompt, photo(), "dog", seeds=[k + 1])
        assert torch.allclose(alone[0], both[k], atol=1e-4)
    as_lists = latents(model, ["in the snow", "on the beach"], [photo()], ["dog"], ["dog"], seeds=[1, 2])
    assert torch.equal(as_lists, both)


def test_one_prompt_with_two_subjects(model: BlipDiffusion) -> None:
    images = [photo(1), photo(2)]
    both = latents(model, "in the snow", images, ["dog", "cat"], seeds=[1, 2])
    for k, word in enumerate(("dog", "cat")):
        alone = latents(model, "in the snow", images[k], word, seeds=[k + 1])
        assert torch.allclose(alone[0], both[k], atol=1e-4)
    nested = latents(model, "in the snow", [[images[0]], [images[1]]], ["dog", "cat"], seeds=[1, 2])
    assert torch.equal(nested, both)
    same = latents(model, "in the snow", photo(1), ["dog", "cat"], seeds=[1, 2])
    assert torch.allclose(same[0], both[0], atol=1e-4)
    assert not torch.allclose(same[1], both[1], atol=1e-3)
    for prompts, images, words, targets in (
        (2, 3, ["dog", "cat", "vase"], None),
        (3, 2, ["dog", "cat"], None),
        (1, 3, ["dog", "cat"], None),
        (2, 1, "dog", ["dog", "cat", "vase"]),
    ):
        with pytest.raises(InputError) as caught:
            latents(model, ["in the snow"] * prompts, [photo(k) for k in range(images)], words, targets)
        assert "\n" not in str(caught.value)


def test_every_reference_image_counts(model: BlipDiffusion) -> None:
    first, second = photo(1), photo(2)
    vectors = model.encode_subject([first, second], "dog")
    mean = latents(model, "in the snow", [first, second], "dog")
    assert torch.allclose(
        mean, latents(model, "in the snow", subject_embeddings=vectors.mean(0, True), source_subject="dog")
    )
    assert not torch.allclose(mean, latents(model, "in the snow", first, "dog"), atol=1e-3)
    uneven = latents(model, "in the snow", [first, second], "dog", reference_weights=[3, 1])
    expected = (0.75 * vectors[0] + 0.25 * vectors[1])[None]
    direct = latents(model, "in the snow", subject_embeddings=expected, source_subject="dog")
    assert torch.allclose(uneven, direct, atol=1e-4)
    only = latents(model, "in the snow", [first, second], "dog", reference_weights=[1, 0])
    assert torch.allclose(only, latents(model, "in the snow", first, "dog"), atol=1e-4)
    for wrong in ([1], [-1, 2], [0, 0]):
        with pytest.raises(InputError, match="weights"):
            latents(model, "in the snow", [first, second], "dog", reference_weights=wrong)


def test_the_public_call_is_the_promised_one_and_unknown_outputs_are_refused_before_the_run(model):
    parameters = inspect.signature(BlipDiffusion.__call__).parameters
    positional = ["self", "prompt", "reference_images", "source_subject", "target_subject"]
    keywords = [
        *("negative_prompt", "guidance_scale", "num_inference_steps", "height", "width", "seeds", "latents"),
        *("prompt_reps", "scheduler", "output_type"),
    ]
    assert (list(parameters)[:5], list(parameters)[5:15]) == (positional, keywords)
    assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in keywords)
    assert not [name for name in parameters if name.startswith("cond")]  # no misspelt condtioning_image
    raw = latents(model, "in the snow", photo(), "dog")
    assert raw.shape == (1, 4, 8, 8)
    calls: list[int] = []
    handle = model.unet.register_forward_hook(lambda *_: calls.append(1))
    try:
        with pytest.raises(InputError, match="'latents' is not known"):
            model("in the snow", photo(), "dog", output_type="latents")
    finally:
        handle.remove()
    assert calls == []


# Seeds, batches, sizes


def test_given_latents_set_the_size(model: BlipDiffusion) -> None:
    noise, _ = initial_noise([5], (4, 6, 10))
    given = model("in the snow", photo(), "dog", latents=noise, num_inference_steps=1)[0]
    assert given.size == (20, 12)
    same = model("in the snow", photo(), "dog", seeds=[5], num_inference_steps=1, height=12, width=20)[0]
    assert np.array_equal(np.asarray(given), np.asarray(same))
    with pytest.raises(InputError, match=r"latents have shape \(1, 4, 6, 10\) instead of \(1, 4, 8, 8\)"):
        latents(model, "in the snow", photo(), "dog", latents=noise)


def test_progress_and_callback(model: BlipDiffusion, capsys: pytest.CaptureFixture[str]) -> None:
    steps: list[tuple[int, int, float]] = []
    result = latents(
        model, *("in the snow", photo(), "dog"), num_inference_steps=4, progress=True,
        callback=lambda index, timestep, now: steps.append((index, timestep, float(now.sum()))),
    )  # fmt: skip
    assert "5/5" in capsys.readouterr().err  # PNDM runs the U-Net once more than there are steps
    assert [index for index, *_ in steps] == list(range(5))
    assert steps[-1][2] == pytest.approx(float(result.sum()))
    latents(model, "in the snow", photo(), "dog")
    assert capsys.readouterr().err == ""


def test_offloading_changes_no_bit() -> None:
    model = public_tiny_model()
    before = latents(model, "in the snow", photo(), "dog")
    model.enable_cpu_offload("cpu")
    assert torch.equal(latents(model, "in the snow", photo(), "dog"), before)
    assert model("in the snow", photo(), "dog", **SMALL | {"output_type": "np"}).shape == (1, 16, 16, 3)


@pytest.mark.gpu
def test_offloading_leaves_the_gpu_empty() -> None:
    model = public_tiny_model()
    before = latents(model, "in the snow", photo(), "dog")
    model.enable_cpu_offload("cuda:0")
    after = latents(model, "in the snow", photo(), "dog")
    assert torch.allclose(after.cpu(), before, atol=1e-2)
    model("in the snow", photo(), "dog", **SMALL | {"output_type": "pil"})
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_nothing_leaks_back_through_the_text_encoder(model: BlipDiffusion) -> None:
    subject = model.encode_subject(photo(), "dog")
    hidden = model.encode_prompt("in the snow", subject, "dog")
    assert hidden.shape == (1, 77, 128)
    other = subject.clone()
    other[:, 5] += 1
    changed = model.encode_prompt("in the snow", other, "dog")
    assert float((changed[:, :7] - hidden[:, :7]).abs().max()) == 0
    assert (changed[:, 7:] - hidden[:, 7:]).abs().amax(-1).min() > 0
    later = model.encode_prompt("in the beach", subject, "dog", prompt_reps=1)
    first = model.encode_prompt("in the snow", subject, "dog", prompt_reps=1)
    assert float((later[:, :21] - first[:, :21]).abs().max()) == 0
    assert not torch.equal(later, first)


FRESH = """
import sys
import numpy as np
from PIL import Image
from bdkit.models.blip_diffusion import BlipDiffusion
model = BlipDiffusion.from_pretrained(sys.argv[1])
call = dict(num_inference_steps=2, height=16, width=16, output_type="latent")
np.save(sys.argv[3], model("in the snow", Image.open(sys.argv[2]), "dog", **call).numpy())
"""


@pytest.mark.slow
def test_a_generation_after_fine_tuning_is_that_of_a_fresh_process(tiny_folders, tmp_path):
    model = BlipDiffusion.from_pretrained(tiny_folders["diffusers"])
    photo().save(tmp_path / "dog.png")
    method = BlipDiffusionMethod(model, BlipDiffusionConfig(steps=2, batch_size=1))
    method.fit([photo(), photo(1)], "dog", seed=0)
    method.generate("a {} in the snow", "dog", [0])
    later = latents(model, "in the snow", photo(), "dog")
    arguments = [str(tiny_folders["diffusers"]), str(tmp_path / "dog.png"), str(tmp_path / "fresh.npy")]
    subprocess.run([sys.executable, "-c", FRESH, *arguments], check=True, timeout=600)
    assert np.array_equal(np.load(tmp_path / "fresh.npy"), later.numpy())
