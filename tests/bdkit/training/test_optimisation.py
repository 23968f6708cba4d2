"""What the optimiser does: accumulation, moving average, groups and loss scale, against plain arithmetic."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from bdkit.training.config import TrainingConfig
from bdkit.training.data import FunctionBatches
from bdkit.training.loop import TrainingLoop

PLAIN = TrainingConfig(steps=24, batch_size=4, learning_rate=1e-2, schedule="linear", warmup_steps=5)


def loop(config: TrainingConfig, module: nn.Module, batches: Any, **extra: Any) -> TrainingLoop:
    made = FunctionBatches(batches, config.seed)
    return TrainingLoop(module, made, config, progress=False, device="cpu", **extra)


class Quadratic(nn.Module):
    """Least squares in float64, so that rounding is far below any tolerance."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 6, dtype=torch.float64))
        self.frozen = nn.Parameter(torch.ones(1, dtype=torch.float64), requires_grad=False)

    def forward(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return ((batch @ self.weight - self.frozen) ** 2).mean(), {}


def test_accumulation_of_two_halves_is_the_whole_batch() -> None:
    data = torch.randn(12, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    config = replace(PLAIN, steps=12, max_grad_norm=0.5, weight_decay=0.1)
    halves = loop(
        replace(config, gradient_accumulation_steps=2),
        module=Quadratic(),
        batches=lambda index, generator: data[index // 2, 4 * (index % 2) :][:4],
    )
    whole = loop(replace(config, batch_size=8), module=Quadratic(), batches=lambda index, generator: data[index])
    start = Quadratic().weight.detach()
    losses = [[row["loss"] for row in x.run()] for x in (halves, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert torch.allclose(halves.module.weight, whole.module.weight, rtol=0, atol=1e-9)
    assert (whole.module.weight - start).abs().min() > 1e-3
    assert whole.module.frozen == 1


def test_moving_average_against_a_plain_loop() -> None:
    module = Quadratic()
    seen: list[Tensor] = []
    ema = loop(
        replace(PLAIN, ema_decay=0.8, schedule="constant"),
        module=module,
        batches=lambda index, generator: torch.randn(4, 6, dtype=torch.float64, generator=generator),
        on_step=lambda step: seen.append(module.weight.detach().clone()),
    )
    ema.run()
    average = seen[0]
    for index, weight in enumerate(seen[1:], start=1):
        decay = min(0.8, 1 - (1 + index) ** (-2 / 3))
        average = decay * average + (1 - decay) * weight
    assert len(seen) == PLAIN.steps
    assert torch.allclose(module.weight, average, rtol=0, atol=1e-12)
    assert (average - seen[-1]).abs().max() > 1e-3


def test_each_group_moves_at_its_own_rate_times_the_factor() -> None:
    module = nn.ParameterDict({"a": nn.Parameter(torch.zeros(3)), "b": nn.Parameter(torch.zeros(3))})

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.values = module

        def forward(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
            return -(self.values["a"] + self.values["b"]).sum(), {}

    config = replace(PLAIN, steps=2, warmup_steps=2, schedule="constant", weight_decay=0.0)
    groups = [{"params": [module["a"]], "lr": 0.1}, {"params": [module["b"]], "lr": 0.02}]
    loop(config, module=Sum(), batches=lambda index, generator: None, groups=groups).run()
    # Adam moves by the rate itself when the gradient never changes: half of it, then all of it.
    assert torch.allclose(module["a"], torch.full((3,), 0.15), atol=1e-5)
    assert torch.allclose(module["b"], torch.full((3,), 0.03), atol=1e-5)


class Stopped(Exception):
    pass


def scaled(out: Path | None, stop_at: int = 0) -> TrainingLoop:
    """A loop with a scaler, which works on a CPU too, though accelerate makes none there."""

    def stop(step: int) -> None:
        if step == stop_at:
            raise Stopped

    config = replace(PLAIN, schedule="constant", warmup_steps=0, max_grad_norm=0, checkpoint_seconds=0)
    made = loop(
        config, Quadratic().float(), lambda index, generator: torch.randn(4, 6, generator=generator), out=out,
        on_step=stop,
    )  # fmt: skip
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=5)
    made.accelerator.scaler = scaler
    made.optimizer = AcceleratedOptimizer(made.optimizer.optimizer, device_placement=False, scaler=scaler)
    return made


def test_the_loss_scale_of_float16_survives_a_stop(tmp_path: Path) -> None:
    undisturbed = scaled(None)
    undisturbed.run()
    with pytest.raises(Stopped):
        scaled(tmp_path, 14).run()
    resumed = scaled(tmp_path)
    resumed.run()
    assert torch.equal(resumed.module.weight, undisturbed.module.weight)
    assert resumed.accelerator.scaler.state_dict() == undisturbed.accelerator.scaler.state_dict()
    assert undisturbed.accelerator.scaler.get_scale() == 8.0 * 2**4
