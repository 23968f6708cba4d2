"""Samplers by name: each fits the model and takes few and many steps, or says so; what a model is trained to do."""

from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, LCMScheduler, PNDMScheduler
from PIL import Image
from torch import Tensor, nn

from bdkit.losses import noise_prediction_loss
from bdkit.methods import build_method
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.configs import PUBLIC_SCHEDULER
from bdkit.sampling import SAMPLERS, initial_noise, make_scheduler, sample, with_timesteps
from bdkit.testing.tiny_model import tiny_model
from bdkit.utils.errors import InputError

# numpy's remark on what diffusers does with tensors
pytestmark = pytest.mark.filterwarnings("ignore:__array")

STOCHASTIC = {
    *("DDPMScheduler", "EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "SASolverScheduler"),
}
ONE_STEP = {"DDIM", "DDPM", "PNDM", "DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep"}
ONE_STEP |= {"SASolver"}
NOT_1000 = {*SAMPLERS} - {"LMSDiscreteScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"}
NOT_1000 -= {"HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"}


@pytest.fixture(scope="module")
def mini() -> BlipDiffusion:
    return BlipDiffusion.from_pretrained("mini")


def drawn(model: BlipDiffusion, sampler: Any) -> np.ndarray:
    """An image in 0..255 after 50 steps."""
    images: np.ndarray = model(
        "a dog in the snow", seeds=[0], scheduler=sampler, num_inference_steps=50, output_type="np"
    )
    return images * 255


@pytest.fixture(scope="module")
def own_images(mini: BlipDiffusion) -> np.ndarray:
    return drawn(mini, None)


@pytest.mark.parametrize("name", SAMPLERS)
def test_each_sampler_draws_what_the_models_own_draws(name: str, mini: BlipDiffusion, own_images: np.ndarray) -> None:
    images = drawn(mini, name)
    if name in STOCHASTIC:  # another image, as colourful; a grey blob has a deviation of some 20
        assert abs(images.std() - own_images.std()) < 10
        assert abs(images.mean() - own_images.mean()) < 25
    else:
        assert np.abs(images - own_images).mean() < 3


class Shrink(nn.Module):
    def forward(self, x: Tensor, timestep: Tensor, states: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=0.7 * x)


OWN = PNDMScheduler(**{**PUBLIC_SCHEDULER, "steps_offset": 1})


def run(sampler: Any, steps: int, own: Any = OWN) -> Tensor:
    noise, generators = initial_noise([0], (4, 4, 4))
    scheduler = make_scheduler(sampler, own)
    settings: dict[str, Any] = {"guidance_scale": 1.0, "num_inference_steps": steps, "generators": generators}
    return sample(Shrink(), scheduler, noise, torch.zeros(1, 2, 4), **settings)


@pytest.mark.parametrize("name", SAMPLERS)
def test_few_and_many_steps_work_or_are_refused(name: str) -> None:
    for steps in (2, 3, 999):
        if steps < 999 or not name.startswith(("LMS", "KDPM2")):  # these are slow
            assert torch.isfinite(run(name, steps)).all()
    if name.removesuffix("Scheduler") in ONE_STEP:
        assert torch.isfinite(run(name, 1)).all()
    else:
        with pytest.raises(InputError, match=f"num_inference_steps is 1; {name} needs at least 2"):
            run(name, 1)
    if name in NOT_1000:
        with pytest.raises(InputError, match=f"num_inference_steps is 1000; {name} takes at most 999"):
            run(name, 1000)
    else:
        assert torch.isfinite(run(name, 1000)).all()


def test_pndm_as_its_class_comes_needs_four_steps() -> None:
    plain = PNDMScheduler(beta_schedule="scaled_linear")
    assert torch.isfinite(run(None, 4, plain)).all()
    with pytest.raises(InputError, match="is 3; PNDMScheduler without skip_prk_steps needs at least 4"):
        run(None, 3, plain)


@pytest.mark.parametrize("name", ["Euler", "FlowMatchEulerDiscreteScheduler", "VQDiffusionScheduler", "LCMScheduler"])
def test_other_names_are_refused_with_the_list(name: str) -> None:
    for sampler in (name, getattr(diffusers, name, None)):
        if sampler is not None:
            with pytest.raises(InputError, match=f"use {', '.join(SAMPLERS)}"):
                make_scheduler(sampler, OWN)
    for other in (diffusers.DDIMInverseScheduler(), diffusers.EDMEulerScheduler(), 7):
        with pytest.raises(InputError, match="no scheduler"):
            make_scheduler(other, OWN)


def test_what_nobody_says_is_the_familys_value() -> None:
    plain = PNDMScheduler(beta_start=0.001, beta_end=0.015, prediction_type="v_prediction", skip_prk_steps=True)
    for sampler in ("DDIMScheduler", DDIMScheduler.from_config(plain.config), DDIMScheduler()):
        config = make_scheduler(sampler, plain).config
        assert (config.clip_sample, config.set_alpha_to_one) == (False, False)
        assert (config.beta_start, config.beta_end, config.beta_schedule) == (0.001, 0.015, "linear")
        assert config.prediction_type == "v_prediction"
    assert make_scheduler("DDIMScheduler", plain).config.steps_offset == 1
    assert make_scheduler("DDIMScheduler", PNDMScheduler(**PUBLIC_SCHEDULER)).config.steps_offset == 0
    stated = make_scheduler(DDIMScheduler(clip_sample=True, beta_end=0.02), plain)
    assert (stated.config.clip_sample, stated.config.beta_end, stated.config.beta_start) == (True, 0.02, 0.001)
    assert make_scheduler(stated, plain) is not plain
    assert make_scheduler("PNDMScheduler", plain) is make_scheduler(None, plain) is plain
    assert run(LCMScheduler.from_config(OWN.config), 4).shape == (1, 4, 4, 4)
    with pytest.raises(InputError, match="LCMScheduler cannot take 100 steps"):
        run(LCMScheduler.from_config(OWN.config), 100)


def test_a_model_without_signal_at_the_end_keeps_its_spacing_and_refuses_what_cannot_start_there() -> None:
    own = DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction")
    euler = make_scheduler("EulerDiscreteScheduler", own)
    assert euler.config.rescale_betas_zero_snr
    assert int(with_timesteps(euler, 5).timesteps[0]) == 999
    with pytest.raises(InputError, match="HeunDiscreteScheduler cannot start from the pure noise"):
        make_scheduler("HeunDiscreteScheduler", own)


@pytest.mark.parametrize("guidance", [float("nan"), float("inf"), -1.0])
def test_guidance_is_a_finite_number_of_at_least_nothing(guidance: float) -> None:
    model = tiny_model()
    with pytest.raises(InputError, match="guidance_scale is"):
        model("a dog", guidance_scale=guidance)
    with pytest.raises(InputError, match="guidance_scale is"):
        build_method("base", model, guidance_scale=guidance)
    with pytest.raises(InputError, match="num_inference_steps is 1; EulerDiscreteScheduler needs"):
        build_method("base", model, scheduler="EulerDiscreteScheduler", num_inference_steps=1)


def test_images_that_are_not_finite_are_refused() -> None:
    model = tiny_model()
    with pytest.raises(InputError, match="not finite"):
        model("a dog", guidance_scale=1e38, num_inference_steps=3)


# Training to what a model predicts


class Perfect(nn.Module):
    """Predicts without error, in float64: it knows the clean latents."""

    def __init__(self, kind: str, latents: Tensor, signal: np.ndarray) -> None:
        super().__init__()
        self.kind, self.latents, self.signal = kind, latents, torch.from_numpy(signal)

    def forward(self, x: Tensor, timesteps: Tensor, states: Tensor) -> SimpleNamespace:
        kept = self.signal[timesteps].view(-1, 1, 1, 1)
        noise = (x.double() - kept.sqrt() * self.latents) / (1 - kept).sqrt()
        velocity = kept.sqrt() * noise - (1 - kept).sqrt() * self.latents
        return SimpleNamespace(sample={"epsilon": noise, "v_prediction": velocity, "sample": self.latents}[self.kind])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_loss_of_a_perfect_predictor_is_zero(kind: str) -> None:
    own = PNDMScheduler(beta_start=0.001, beta_end=0.015, beta_schedule="linear")
    own.register_to_config(prediction_type=kind)
    scheduler = make_scheduler("DDPMScheduler", own)
    latents = torch.randn(64, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    signal = np.cumprod(1 - np.linspace(0.001, 0.015, 1000))

    def loss(predicted: str, **more: Any) -> float:
        unet: Any = Perfect(predicted, latents.double(), signal)
        generator = torch.Generator().manual_seed(1)
        return float(noise_prediction_loss(unet, scheduler, latents, torch.zeros(64, 1, 1), generator, **more))

    assert loss(kind) < 1e-6
    assert loss(kind, importance_sampling=True) < 1e-6
    assert all(loss(other) > 0.1 for other in {"epsilon", "v_prediction", "sample"} - {kind})


@pytest.mark.parametrize(
    "name", ["dreambooth", "dreambooth-lora", "textual-inversion", "custom-diffusion", "blip-diffusion"]
)
def test_every_method_trains_to_the_models_own_noise_and_prediction(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[DDPMScheduler] = []

    def watched(unet: Any, scheduler: DDPMScheduler, *rest: Any) -> Tensor:
        used.append(scheduler)
        return noise_prediction_loss(unet, scheduler, *rest)

    monkeypatch.setattr("bdkit.training.finetuning.noise_prediction_loss", watched)
    model = tiny_model()
    model.scheduler = DDIMScheduler(beta_start=0.001, beta_end=0.015, prediction_type="v_prediction", clip_sample=False)
    settings = {"prior_loss_weight": 0.0} if name.startswith(("dreambooth", "custom")) else {}
    method = build_method(name, model, steps=1, snapshots=(), mixed_precision="no", **settings)
    method.fit([Image.new("RGB", (32, 32), "red")], "dog", 0)
    assert used
    assert used[0].config.prediction_type == "v_prediction"
    expected = np.cumprod(1 - np.linspace(0.001, 0.015, 1000))
    assert np.abs(used[0].alphas_cumprod.numpy() - expected).max() < 1e-5
