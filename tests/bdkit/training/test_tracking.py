"""Training one can watch: what a tracker gets, and that watching changes nothing."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from bdkit.training import tracking as tracking_module
from bdkit.training.config import TrainingConfig
from bdkit.training.data import FunctionBatches
from bdkit.training.loop import TrainingLoop
from bdkit.training.tracking import Tracking
from bdkit.utils.errors import InputError


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5), nn.Linear(4, 1))

    def forward(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        noisy = batch + torch.randn(batch.shape, generator=generator) / 10
        error = (self.net(noisy) - batch).square().mean()
        return error, {"error": error.detach()}


def train(tracking: Tracking | None, steps: int = 6) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    module = Line()
    config = TrainingConfig(
        steps=steps, batch_size=4, learning_rate=0.1, schedule="linear", ema_decay=0.9, gradient_accumulation_steps=2
    )
    batches = FunctionBatches(lambda index, generator: torch.rand(4, 1, generator=generator), 0)
    history = TrainingLoop(module, batches, config, device="cpu", progress=False, tracking=tracking).run()
    return module.state_dict(), history


def events_of(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_tensorboard_gets_the_numbers_and_watching_changes_nothing(tmp_path: Path) -> None:
    seen: list[Path] = []

    def samples(folder: Path) -> tuple[Image.Image, dict[str, float]]:
        torch.rand(3)
        seen.append(folder)
        return Image.new("RGB", (8, 8), "red"), {"dino": 0.5 + len(seen) / 10}

    watched = Tracking("tensorboard", tmp_path / "log", every=2, samples=samples, sample_every=3)
    ours, history = train(watched)
    theirs, _ = train(None)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    events = events_of(tmp_path / "log" / "bdkit")
    logged = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert logged["loss"] == [(row["step"], pytest.approx(row["loss"])) for row in history[1::2]]
    assert logged["error"] == [(row["step"], pytest.approx(row["error"])) for row in history[1::2]]
    rates = [(step, pytest.approx(0.1 * (1 - (step - 1) / 6))) for step in (2, 4, 6)]
    assert logged["learning_rate"] == rates
    assert all(value > 0 for name in ("images_per_second", "memory_gib") for _, value in logged[name])
    assert logged["dino"] == [(3, pytest.approx(0.6)), (6, pytest.approx(0.7))]
    assert [image.step for image in events.Images("samples")] == [3, 6]
    assert [path.name for path in seen] == ["step-0000003", "step-0000006"]
    with Image.open(tmp_path / "log" / "samples" / "step-0000003.png") as image:
        assert image.getpixel((0, 0)) == (255, 0, 0)


def test_samples_show_the_averaged_weights_without_dropout(tmp_path: Path) -> None:
    module = Line()
    weights: list[Tensor] = []

    def samples(folder: Path) -> tuple[Image.Image, dict[str, float]]:
        assert not module.training
        weights.append(module.net[0].weight.detach().clone())
        return Image.new("RGB", (8, 8)), {}

    config = TrainingConfig(steps=4, batch_size=4, learning_rate=0.1, ema_decay=0.9)
    batches = FunctionBatches(lambda index, generator: torch.rand(4, 1, generator=generator), 0)
    watched = Tracking(None, tmp_path, samples=samples, sample_every=4)
    TrainingLoop(module, batches, config, device="cpu", progress=False, tracking=watched).run()
    assert torch.equal(weights[0], module.net[0].weight)  # at the end of the run the average is what is left
    assert (tmp_path / "samples" / "step-0000004.png").exists()


@pytest.mark.parametrize(
    ("name", "how"), [("wandb", "pip install wandb"), ("trackio", r"pip install 'bdkit\[trackers\]'")]
)
def test_a_tracker_that_is_missing_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    monkeypatch.setattr(tracking_module, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=f"--log-with {name}: {name} is not installed; {how}"):
        Tracking(name, tmp_path)
    with pytest.raises(InputError, match="--log-with is 'paper'; use tensorboard, wandb, trackio"):
        Tracking("paper", tmp_path)


@pytest.mark.slow
def test_trackio_gets_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    train(Tracking("trackio", tmp_path / "run" / "log", every=2))
    assert [path.name for path in (tmp_path / "trackio").glob("bdkit*.db")]
