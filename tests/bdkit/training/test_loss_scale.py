"""float16 training that is stopped and resumed: the loss scale is saved too."""

from pathlib import Path

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from bdkit.training.config import TrainingConfig
from bdkit.training.data import FunctionBatches
from bdkit.training.loop import TrainingLoop

CONFIG = TrainingConfig(steps=24, batch_size=4, learning_rate=1e-2, max_grad_norm=0, checkpoint_seconds=0)


class Line(nn.Module):
    """Least squares."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 6))

    def forward(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return ((batch @ self.weight - 1) ** 2).mean(), {}


class Stopped(Exception):
    pass


def scaled(out: Path | None, stop_at: int = 0) -> TrainingLoop:
    """A loop with a scaler, which works on a CPU too, though accelerate makes none there."""

    def stop(step: int) -> None:
        if step == stop_at:
            raise Stopped

    loop = TrainingLoop(
        Line(),
        FunctionBatches(lambda index, generator: torch.randn(4, 6, generator=generator), 0),
        CONFIG,
        out=out,
        on_step=stop,
        progress=False,
        device="cpu",
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=5)
    loop.accelerator.scaler = scaler
    loop.optimizer = AcceleratedOptimizer(loop.optimizer.optimizer, device_placement=False, scaler=scaler)
    return loop


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
