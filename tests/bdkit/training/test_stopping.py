"""Steps chosen from the subject's images: the rule's arithmetic, its loss, a fit that is cut and resumed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bdkit.methods import build_method
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.testing.tiny_model import tiny_model
from bdkit.training import finetuning
from bdkit.training.finetuning import Work, reference_loss
from bdkit.training.stopping import LOSS, StoppingRule
from bdkit.utils.errors import InputError


def photos() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(3)]


def history_of(losses: list[float], every: int) -> list[dict[str, float]]:
    """A fit's history: a loss a step, and the looks at steps 0, every, 2 every, ..."""
    last = every * (len(losses) - 1)
    steps: list[dict[str, float]] = [{"step": step, "loss": 9.0} for step in range(1, last + 1)]
    for number, loss in enumerate(losses[1:], 1):
        steps[every * number - 1][LOSS] = loss
    return [{"step": 0, LOSS: losses[0]}, *steps]


def stop_by_loop(losses: list[float], rule: StoppingRule) -> int | None:
    """The step of the first look at which the rule ends a fit with these looks, by plain arithmetic."""
    for number in range(1, len(losses)):
        step = number * rule.every
        lowest = before = losses[0]
        for other in range(number + 1):
            lowest = min(lowest, losses[other])
            if other * rule.every + rule.window <= step:
                before = min(before, losses[other])
        flat = before - lowest <= rule.flat * (losses[0] - lowest)
        if step >= rule.most or (step >= rule.least and flat):
            return step
    return None


def test_it_stops_where_a_plain_loop_stops() -> None:
    rule = StoppingRule(least=20, most=80, every=5, window=15, flat=0.15)
    rng, stopped = np.random.default_rng(0), set()
    for speed in np.geomspace(2, 500, 40):
        looks = [float(loss) for loss in 0.3 + np.exp(-np.arange(0, 85, 5) / speed) + 0.02 * rng.random(17)]
        expected = stop_by_loop(looks, rule)
        ends = [number for number in range(1, 17) if rule.reason(history_of(looks[: number + 1], 5)) is not None]
        assert ends[0] * 5 == expected
        assert rule.reason(history_of(looks[: ends[0] + 1], 5)[:-1]) is None  # the step before: no look
        stopped.add(expected)
    assert {20, 80} < stopped  # both ends, and numbers between them


def test_a_loss_that_does_not_fall_ends_at_the_least_and_one_that_falls_faster_and_faster_at_the_most() -> None:
    rule = StoppingRule()
    rising, falling = [[float(2 - sign * 1.05**number) for number in range(13)] for sign in (-1, 1)]
    assert stop_by_loop(rising, rule) == rule.least
    assert "brought 0% of the fall" in str(rule.reason(history_of(rising[:5], rule.every)))
    assert stop_by_loop(falling, rule) == rule.most
    assert rule.reason(history_of(falling[:12], rule.every)) is None
    assert str(rule.reason(history_of(falling, rule.every))).endswith("no fit takes more")


def test_the_loss_is_the_mean_over_all_images_with_the_same_draws(model: BlipDiffusion) -> None:
    latents = finetuning.cache_latents(model, photos(), 0)
    embedding = finetuning.mean_embedding(model, photos(), "dog")
    module = finetuning.SubjectFinetuning(model, model.unet, embedding, "dog", train_embedding=True).train()
    state = torch.get_rng_state()
    first = reference_loss(module, latents)
    assert (reference_loss(module, latents), module.training) == (first, True)
    assert torch.equal(torch.get_rng_state(), state)
    generator, losses = torch.Generator().manual_seed(finetuning.LOSS_SEED), []
    rows = [latents[number % 3] for number in range(3 * finetuning.LOSS_REPEATS)]
    hidden = model.text_encoder(module.ids, embedding, module.mask)
    for start in range(0, len(rows), finetuning.LOSS_BATCH):
        part = rows[start : start + finetuning.LOSS_BATCH]
        noise = torch.randn((len(part), *part[0].shape), generator=generator)
        timesteps = torch.randint(0, 1000, (len(part),), generator=generator)
        for image, drawn, timestep in zip(part, noise, timesteps, strict=True):
            alpha = float(module.scheduler.alphas_cumprod[timestep])
            noisy = alpha**0.5 * image + (1 - alpha) ** 0.5 * drawn
            with torch.no_grad():
                guess = model.unet(noisy[None], timestep, hidden).sample[0]
            losses.append(float((guess.double() - drawn.double()).square().mean()))
    assert len(losses) == 24
    assert first == pytest.approx(sum(losses) / 24, rel=1e-5)
    module.eval()


class Cut(Exception):
    pass


def fitted(steps: Any, work: Work | None = None, cut_after: int | None = None) -> Any:
    settings: dict[str, Any] = {"steps": steps, "learning_rate": 5e-4, "batch_size": 1}
    method: Any = build_method("blip-diffusion", tiny_model(), preset="mini", **settings)
    method.work = work

    def on_step(step: int, loss: float) -> None:
        if step == cut_after:
            raise Cut

    method.on_step = on_step
    method.fit(photos()[:1], "dog", 0)
    return method


def test_a_cut_fit_resumes_to_the_same_step_and_bits_which_are_those_of_a_fixed_number(tmp_path: Path) -> None:
    whole = fitted("auto")
    steps = whole.chosen_steps
    assert 40 < steps < 120
    work = Work(folder=tmp_path, seconds=0)
    with pytest.raises(Cut):
        fitted("auto", work, cut_after=steps - 7)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == steps - 8
    resumed = fitted("auto", work)
    assert (resumed.chosen_steps, resumed.stopping_reason) == (steps, whole.stopping_reason)
    looks = [{entry["step"]: entry[LOSS] for entry in one.history if LOSS in entry} for one in (whole, resumed)]
    assert looks[0] == looks[1]
    assert list(looks[0]) == list(range(0, steps + 1, 10))
    fixed = fitted(steps)
    for other in (resumed, fixed):
        assert other.state().keys() == whole.state().keys()
        assert all(torch.equal(value, whole.state()[key]) for key, value in other.state().items())
    assert (fixed.chosen_steps, fixed.stopping_reason) == (None, None)
    record = whole.fitted_settings
    assert (record["steps"], record["step"], record["stopping_reason"]) == ("auto", steps, whole.stopping_reason)
    with pytest.raises(InputError, match=f"keeps no weights of step 40; it keeps those of {steps}"):
        whole.select(40)
    loaded: Any = build_method("blip-diffusion", tiny_model(), preset="mini", steps="auto")
    loaded.load_state(whole.state())
    assert (loaded.chosen_steps, loaded.stopping_reason) == (steps, None)
    with pytest.raises(InputError, match="does not belong to blip-diffusion"):
        loaded.load_state({"0/subject_embeddings": torch.zeros(1)})
