"""Loss, noise, sampling and latents, against references written out by hand in float64."""

import math
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from bdkit import losses
from bdkit.models.latent_diffusion import Vae, decode_latents, encode_images, latent_factor
from bdkit.sampling import initial_noise, sample
from bdkit.testing.tiny_model import tiny_model
from bdkit.utils.errors import InputError

SCHEDULERS = (
    "DDIM", "PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep", "UniPCMultistep", "LMSDiscrete",
)  # fmt: skip


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    return tiny_model().unet


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def scheduler(name: str) -> Any:
    extra = {"skip_prk_steps": True} if name == "PNDM" else {}
    return getattr(diffusers, f"{name}Scheduler")(**losses.NOISE_SCHEDULE, **extra)


def alpha_bar() -> list[float]:
    """Stable Diffusion's schedule: betas are the squares of evenly spaced roots."""
    low, high = math.sqrt(0.00085), math.sqrt(0.012)
    product, values = 1.0, []
    for t in range(1000):
        product *= 1 - (low + (high - low) * t / 999) ** 2
        values.append(product)
    return values


@torch.no_grad()
def test_loss_against_a_loop_in_float64(unet: UNet2DConditionModel) -> None:
    latents, states = random(6, 4, 8, 8, seed=1), random(6, 20, 32, seed=2)
    loss = losses.noise_prediction_loss(
        unet, losses.training_scheduler(), latents, states, torch.Generator().manual_seed(5)
    )
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(latents.shape, generator=generator)
    timesteps = torch.randint(0, 1000, (6,), generator=generator)
    total, signal = 0.0, alpha_bar()
    for k, t in enumerate(timesteps.tolist()):
        noisy = math.sqrt(signal[t]) * latents[k].double() + math.sqrt(1 - signal[t]) * noise[k].double()
        predicted = unet(noisy[None].float(), torch.tensor([t]), states[k : k + 1]).sample[0].double()
        total += float(((predicted - noise[k].double()) ** 2).sum())
    assert float(loss) == pytest.approx(total / latents.numel(), rel=1e-4)
    assert len(set(timesteps.tolist())) == 6


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_noise_depends_on_the_generator_alone(device: str) -> None:
    like = torch.zeros(64, 4, 16, 16, device=device)
    first, second = (losses.draw_noise(like, torch.Generator().manual_seed(seed)) for seed in (5, 6))
    generator = torch.Generator().manual_seed(5)
    assert torch.equal(losses.draw_noise(like, generator), first)
    assert not torch.equal(losses.draw_noise(like, generator), first)  # it goes on
    assert not torch.equal(second, first)
    assert first.device == like.device
    assert abs(float(first.mean())) < 0.01
    assert float(first.std()) == pytest.approx(1, abs=0.01)


@torch.no_grad()
def test_weighted_loss_against_a_loop_in_float64(unet: UNet2DConditionModel) -> None:
    latents, states = random(6, 4, 8, 8, seed=1), random(6, 20, 32, seed=2)
    places = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(8)) + 0.5
    scheduler = losses.training_scheduler()
    loss = losses.noise_prediction_loss(
        unet, scheduler, latents, states, torch.Generator().manual_seed(5),
        losses.timestep_weights(scheduler, 0.2, 10.0), importance_sampling=True, pixel_weights=places / places.mean(),
    )  # fmt: skip
    signal = alpha_bar()
    weights = [min(10.0, max(0.2, (1 - s) / s)) for s in signal]
    mean_weight, mean_place = sum(weights) / 1000, float(places.double().mean())
    chances = [math.sqrt(w) / sum(math.sqrt(v) for v in weights) for w in weights]
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(latents.shape, generator=generator)
    total = 0.0
    for k, u in enumerate(torch.rand(6, generator=generator, dtype=torch.float64).tolist()):
        t, below = 0, chances[0]
        while below <= (k + u) / 6:
            t, below = t + 1, below + chances[t + 1]
        noisy = math.sqrt(signal[t]) * latents[k].double() + math.sqrt(1 - signal[t]) * noise[k].double()
        predicted = unet(noisy[None].float(), torch.tensor([t]), states[k : k + 1]).sample[0].double()
        errors = (predicted - noise[k].double()) ** 2 * places[k].double() / mean_place
        total += float(errors.mean()) * weights[t] / mean_weight / (1000 * chances[t])
    assert float(loss) == pytest.approx(total / 6, rel=1e-4)


def test_importance_sampling_leaves_the_mean_loss_as_it_is() -> None:
    signal = np.array(alpha_bar())
    weights = np.clip((1 - signal) / signal, 0.2, 10.0)
    weights /= weights.mean()
    generator = torch.Generator().manual_seed(0)
    error = 1 / (1 + np.arange(1000) / 50)  # a loss that falls with the timestep, as the noise's does
    for count in (1, 3, 16):
        draws = [losses.draw_timesteps(torch.from_numpy(weights), count, generator) for _ in range(30_000 // count)]
        factors = losses.importance_factors(torch.from_numpy(weights))
        estimates = [float((factors * torch.from_numpy(error))[steps].mean()) for steps in draws]
        assert np.mean(estimates) == pytest.approx((weights * error).mean(), rel=0.01)
        timesteps = torch.cat(draws)
        assert 0 <= timesteps.min() < 20
        assert 980 < timesteps.max() <= 999


def test_timesteps_are_spread_over_a_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        timesteps = losses.draw_timesteps(torch.ones(1000), 10, generator)
        assert [t // 100 for t in timesteps.tolist()] == list(range(10))
    assert torch.allclose(losses.importance_factors(torch.ones(1000)), torch.ones(1000))


def test_noise_of_an_image_depends_on_its_seed_alone() -> None:
    noise, generators = initial_noise([5, 9, -2], (4, 8, 8))
    alone, (generator,) = initial_noise([9], (4, 8, 8))
    assert torch.equal(noise[1:2], alone)
    assert torch.equal(noise[1], torch.randn((4, 8, 8), generator=torch.Generator().manual_seed(9)))
    assert torch.equal(torch.randn(3, generator=generators[1]), torch.randn(3, generator=generator))
    assert noise.dtype == torch.float32
    assert not torch.equal(noise[0], noise[2])


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_is_exact_in_seeds_and_batch(name: str, unet: UNet2DConditionModel) -> None:
    used = scheduler(name)

    def run(seeds: list[int]) -> Tensor:
        noise, generators = initial_noise(seeds, (4, 8, 8))
        positive, negative = random(1, 20, 32, seed=3), random(1, 20, 32, seed=4)
        rows = len(seeds)
        states = (positive.expand(rows, -1, -1), negative.expand(rows, -1, -1))
        return sample(unet, used, noise, *states, guidance_scale=3.0, num_inference_steps=4, generators=generators)

    batch = run([1, 2, 3])
    assert torch.isfinite(batch).all()
    assert torch.equal(run([1, 2, 3]), batch)  # with the same scheduler object: no state is left behind
    assert torch.allclose(run([2]), batch[1:2], atol=1e-4)
    assert (batch[0] - batch[1]).abs().max() > 0.1


def test_ancestral_noise_comes_from_the_images_own_generator(unet: UNet2DConditionModel) -> None:
    states, noise = random(2, 20, 32, seed=3)[:1].expand(2, -1, -1), random(1, 4, 8, 8).expand(2, -1, -1, -1)
    _, generators = initial_noise([1, 2], (4, 8, 8))
    ancestral = sample(
        unet, scheduler("EulerAncestralDiscrete"), noise, states, guidance_scale=1.0, num_inference_steps=3,
        generators=generators,
    )  # fmt: skip
    assert not torch.allclose(ancestral[0], ancestral[1], atol=1e-2)
    plain = sample(
        unet, scheduler("EulerDiscrete"), noise, states, guidance_scale=1.0, num_inference_steps=3,
        generators=generators,
    )  # fmt: skip
    assert torch.allclose(plain[0], plain[1], atol=1e-4)


class Analytic(nn.Module):
    """A noise predictor that can be written down: a x + b(t) + mean of the text."""

    def forward(self, x: Tensor, timestep: Tensor, states: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=0.4 * x + math.sin(float(timestep) / 100) + states.mean((1, 2)).view(-1, 1, 1, 1))


def test_ddim_with_guidance_against_a_reference_loop() -> None:
    steps, guidance, signal = 20, 5.0, alpha_bar()
    noise = random(2, 4, 8, 8, dtype=torch.float64)
    positive, negative = random(2, 5, 3, seed=1, dtype=torch.float64), random(2, 5, 3, seed=2, dtype=torch.float64)
    x, means = noise.numpy(), [s.mean((1, 2)).view(-1, 1, 1, 1).numpy() for s in (negative, positive)]
    for t in [1 + k * 50 for k in reversed(range(steps))]:
        without, with_text = (0.4 * x + math.sin(t / 100) + mean for mean in means)
        eps = without + guidance * (with_text - without)
        before = signal[t - 50] if t - 50 >= 0 else signal[0]
        clean = (x - math.sqrt(1 - signal[t]) * eps) / math.sqrt(signal[t])
        x = math.sqrt(before) * clean + math.sqrt(1 - before) * eps
    ddim = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1, **losses.NOISE_SCHEDULE)
    seen: list[tuple[int, int]] = []
    ours = sample(
        Analytic(), ddim, noise, positive, negative, guidance_scale=guidance, num_inference_steps=steps,
        callback=lambda index, timestep, latents: seen.append((index, timestep)),
    )  # fmt: skip
    assert np.abs(ours.numpy() - x).max() < 1e-4 * np.abs(x).max()
    assert seen == [(k, 951 - 50 * k) for k in range(20)]


def test_guidance_of_one_needs_one_evaluation(unet: UNet2DConditionModel) -> None:
    rows: list[int] = []
    handle = unet.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    noise, states = random(2, 4, 8, 8), random(2, 20, 32)
    try:
        plain = sample(unet, scheduler("DDIM"), noise, states, guidance_scale=1.0, num_inference_steps=3)
        with_negative = sample(
            unet, scheduler("DDIM"), noise, states, -states, guidance_scale=1.0, num_inference_steps=3
        )
        assert rows == [2] * 6
        sample(unet, scheduler("DDIM"), noise, states, -states, guidance_scale=1.5, num_inference_steps=1)
    finally:
        handle.remove()
    assert rows[6:] == [4]
    assert torch.equal(plain, with_negative)


def test_latents_of_the_callback_replace_the_steps(unet: UNet2DConditionModel) -> None:
    noise, states, swapped = random(1, 4, 8, 8), random(1, 20, 32), random(1, 4, 8, 8, seed=5)

    def run(callback: Any) -> Tensor:
        settings: dict[str, Any] = {"guidance_scale": 1.0, "num_inference_steps": 3, "callback": callback}
        return sample(unet, scheduler("DDIM"), noise, states, **settings)

    inputs: list[Tensor] = []
    handle = unet.register_forward_hook(lambda module, args, output: inputs.append(args[0]))
    try:
        changed = run(lambda index, timestep, latents: swapped if index == 0 else None)
    finally:
        handle.remove()
    assert torch.equal(inputs[1], swapped)
    assert not torch.equal(changed, run(None))
    assert torch.equal(run(lambda index, timestep, latents: swapped), swapped)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_wrong_numbers_of_steps_are_refused(steps: int, unet: UNet2DConditionModel) -> None:
    with pytest.raises(InputError, match=f"num_inference_steps is {steps}; use 1 to 1000"):
        sample(
            unet, scheduler("DDIM"), random(1, 4, 8, 8), random(1, 20, 32), guidance_scale=1, num_inference_steps=steps
        )


def test_guidance_without_a_negative_prompt_is_refused(unet: UNet2DConditionModel) -> None:
    with pytest.raises(InputError, match="needs the hidden states of the negative"):
        sample(unet, scheduler("DDIM"), random(1, 4, 8, 8), random(1, 20, 32), guidance_scale=2.0)


def tiny_vae() -> AutoencoderTiny:
    return tiny_model().vae


def variational_vae() -> AutoencoderKL:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, **blocks).eval()


@torch.no_grad()
@pytest.mark.parametrize(("build", "factor"), [(tiny_vae, 4), (variational_vae, 2)])
def test_latents_are_scaled_and_shifted_and_back(build: Any, factor: int) -> None:
    vae: Vae = build()
    pixels = random(2, 3, 16, 16).clamp(-1, 1)
    vae.register_to_config(scaling_factor=1.0, shift_factor=0.0)
    raw = encode_images(vae, pixels, torch.Generator().manual_seed(1))
    decoded = decode_latents(vae, raw)
    vae.register_to_config(scaling_factor=2.5, shift_factor=0.3)
    latents = encode_images(vae, pixels, torch.Generator().manual_seed(1))
    assert latents.shape == (2, 4, 16 // factor, 16 // factor)
    assert latent_factor(vae) == factor
    assert torch.allclose(latents, (raw - 0.3) * 2.5, atol=1e-5)
    assert torch.allclose(decode_latents(vae, latents), decoded, atol=1e-4)
    assert torch.allclose(decoded, vae.decode(raw).sample.clamp(-1, 1), atol=1e-6)
    assert decode_latents(vae, 1e4 * latents).abs().max() <= 1


@torch.no_grad()
def test_a_variational_encoder_draws_from_the_generator() -> None:
    vae, pixels = variational_vae(), random(2, 3, 16, 16)
    posterior = vae.encode(pixels).latent_dist
    drawn = encode_images(vae, pixels, torch.Generator().manual_seed(1))
    expected = posterior.mean + posterior.std * random(*posterior.mean.shape, seed=1)
    assert torch.allclose(drawn, expected * vae.config.scaling_factor, atol=1e-5)
