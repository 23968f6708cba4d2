"""Inversions of tiny models, for every prediction type."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from bdkit.editing import LocalBlend, invert, prompt_to_prompt
from bdkit.editing.inversion import METHODS, ddim_coefficients, ddim_scheduler
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.latent_diffusion import decode_latents
from bdkit.models.preprocessing import to_images
from bdkit.testing.tiny_model import tiny_model
from bdkit.utils.errors import InputError

PROMPTS = ["a cat on the beach", "a dog on the beach"]
STEPS = 5


@pytest.fixture(scope="module")
def model() -> BlipDiffusion:
    return tiny_model()


@pytest.fixture(scope="module")
def image() -> Image.Image:
    values = np.linspace(0, 255, 32 * 32 * 3).reshape(32, 32, 3)
    return Image.fromarray(values.astype(np.uint8))


def run(model: BlipDiffusion, image: Any, method: str, **settings: Any) -> Any:
    return invert(model, image, PROMPTS[0], method, STEPS, **settings)


def edit(model: BlipDiffusion, inversion: Any, **settings: Any) -> Any:
    return prompt_to_prompt(model, PROMPTS, inversion=inversion, **{"output_type": "latent", **settings})


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_coefficients_are_the_schedulers_step(prediction: str) -> None:
    base = DDIMScheduler(beta_schedule="scaled_linear", prediction_type=prediction, clip_sample=True)
    scheduler = ddim_scheduler(base)
    scheduler.set_timesteps(STEPS)
    latents, output = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    for timestep in scheduler.timesteps:
        factor, slope = ddim_coefficients(scheduler, int(timestep))
        expected = scheduler.step(output, timestep, latents).prev_sample
        assert torch.allclose(factor * latents + slope * output, expected, rtol=1e-4)


def test_the_models_scheduler_becomes_ddim(model: BlipDiffusion) -> None:
    scheduler = ddim_scheduler(model.scheduler)
    scheduler.set_timesteps(50)
    assert int(scheduler.timesteps[0]) == 981
    assert int(scheduler.timesteps[-1]) == 1
    assert not scheduler.config.clip_sample
    assert torch.equal(scheduler.alphas_cumprod, model.scheduler.alphas_cumprod)


@pytest.mark.parametrize("method", METHODS)
def test_every_method(model: BlipDiffusion, image: Image.Image, method: str) -> None:
    inversion = run(model, image, method, inner_steps=2)
    assert inversion.latents.shape == (STEPS + 1, 1, 4, 8, 8)
    assert inversion.reconstruction.size == (32, 32)
    assert inversion.seconds > 0
    calls = {"null-text": 5 + 5 * 4, "fixed-point": inversion.unet_calls}
    assert inversion.unet_calls == calls.get(method, STEPS)
    if inversion.unconditional is not None:
        assert inversion.unconditional.shape == (STEPS, 1, 20, 32)
    latents = edit(model, inversion)
    assert torch.isfinite(latents).all()
    assert not torch.allclose(latents[0], latents[1], atol=1e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_direct_keeps_the_source_exactly(image: Image.Image, prediction: str) -> None:
    model = tiny_model()
    model.scheduler = type(model.scheduler).from_config(model.scheduler.config, prediction_type=prediction)
    inversion = run(model, image, "direct")
    assert inversion.scheduler.config.prediction_type == prediction
    source = edit(model, inversion)[0]
    assert torch.equal(source, inversion.latents[0, 0])
    blend = LocalBlend(mask=Image.new("L", (32, 32), 0))
    assert torch.equal(edit(model, inversion, local_blend=blend)[1], source)
    with torch.no_grad():
        assert inversion.reconstruction == to_images(decode_latents(model.vae, source[None]))[0]


def error(inversion: Any, model: BlipDiffusion, image: Image.Image) -> float:
    """Of the latents that an edit's source ends at."""
    return float((edit(model, inversion)[0] - inversion.latents[0, 0]).square().mean())


def test_how_well_each_method_comes_back(model: BlipDiffusion, image: Image.Image) -> None:
    errors = {method: error(run(model, image, method), model, image) for method in METHODS}
    assert errors["direct"] == 0
    assert errors["fixed-point"] < 0.1 * errors["ddim"]
    assert errors["null-text"] < errors["ddim"]
    assert errors["negative-prompt"] < errors["ddim"]


def test_fixed_point_converges(model: BlipDiffusion, image: Image.Image) -> None:
    few, many = (
        invert(model, image, PROMPTS[0], "fixed-point", 20, iterations=count, tolerance=1e-6) for count in (1, 20)
    )
    assert error(many, model, image) < 0.01 * error(few, model, image)
    assert many.unet_calls < 20 * 20


def test_the_edits_source_is_the_reconstruction(model: BlipDiffusion, image: Image.Image) -> None:
    for method in METHODS:
        inversion = run(model, image, method)
        source = prompt_to_prompt(model, PROMPTS, inversion=inversion)[0]
        assert np.abs(np.asarray(source, int) - np.asarray(inversion.reconstruction, int)).max() <= 1


def test_null_text_stops_early_and_more_steps_help(model: BlipDiffusion, image: Image.Image) -> None:
    few, many = (run(model, image, "null-text", inner_steps=count) for count in (1, 10))
    assert error(many, model, image) < error(few, model, image)
    assert (many.losses[:, 1:] <= many.losses[:, :1]).all()
    stopped = run(model, image, "null-text", early_stop_epsilon=1e9)
    assert stopped.losses.isnan().sum(dim=1).tolist() == [9] * STEPS
    assert stopped.unet_calls == STEPS + 3 * STEPS


def test_the_gradient_is_that_of_half_precision_too(image: Image.Image) -> None:
    model = tiny_model().to(torch.bfloat16)
    inversion = run(model, image, "null-text", inner_steps=2)
    assert inversion.unconditional.dtype == torch.float32
    assert torch.isfinite(inversion.unconditional).all()


def test_a_source_without_guidance(model: BlipDiffusion, image: Image.Image) -> None:
    """As LAVIS edits a real image: the source's branch is conditional only, the target's guided."""
    free, guided = (run(model, image, "ddim", source_guidance_scale=scale) for scale in (1.0, None))
    assert torch.equal(free.latents, guided.latents)
    assert error(free, model, image) < error(guided, model, image)
    alone = prompt_to_prompt(model, PROMPTS[:1], inversion=guided, guidance_scale=1.0, output_type="latent")
    assert torch.allclose(edit(model, free)[0], alone[0], atol=1e-4)


def test_a_batch_of_inverted_images(model: BlipDiffusion, image: Image.Image) -> None:
    inversions = [run(model, each, "direct") for each in (image, image.rotate(90))]
    batch = prompt_to_prompt(model, [PROMPTS, PROMPTS[::-1]], inversion=inversions, output_type="latent")
    for latents, prompts, inversion in zip(batch, (PROMPTS, PROMPTS[::-1]), inversions, strict=True):
        single = prompt_to_prompt(model, prompts, inversion=inversion, output_type="latent")
        assert torch.allclose(latents, single, atol=2e-4)


def test_inversion_leaves_nothing_behind(image: Image.Image) -> None:
    fresh, used = tiny_model(), tiny_model()
    edit(used, run(used, image, "null-text", inner_steps=2))
    call = {"seeds": [0], "num_inference_steps": 2, "output_type": "latent"}
    assert torch.equal(used(PROMPTS[0], **call), fresh(PROMPTS[0], **call))
    assert all(parameter.grad is None for parameter in used.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "magic"}, "unknown inversion 'magic'"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"image": Image.new("RGB", (30, 32))}, "multiples of 4"),
        ({"image": torch.zeros(2, 4, 8, 8)}, "latents to invert have shape"),
        ({"scheduler": "model's"}, "needs a DDIMScheduler"),
        ({"inner_steps": 0}, "at least 1"),
        ({"prompt": "a {} dog"}, "no subject was given"),
    ],
)
def test_bad_input(model: BlipDiffusion, image: Image.Image, settings: dict[str, Any], message: str) -> None:
    if settings.get("scheduler"):
        settings = {"scheduler": model.scheduler}
    with pytest.raises(InputError, match=message):
        invert(model, **{"image": image, "prompt": PROMPTS[0], **settings})
