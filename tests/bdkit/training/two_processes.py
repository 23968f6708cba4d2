"""Trains a small model; run alone or by torchrun. Arguments: folder, batch of one process, cpu or any device."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bdkit.training.config import TrainingConfig
from bdkit.training.data import FunctionBatches, epoch_indices
from bdkit.training.loop import TrainingLoop

NUMBERS = torch.linspace(-1, 1, 24)


class Loss(nn.Module):
    """Fits a cube; one parameter has no part in the loss, as the Q-Former's word layers in stage 2."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        x = batch[:, None]
        return (self.net(x) - x**3).square().mean(), {}


def train(folder: Path, batch: int, device: str | None) -> None:
    """Writes ``weights.safetensors`` of the first process."""
    indices = epoch_indices(len(NUMBERS), batch, 3)
    config = TrainingConfig(steps=6, batch_size=batch, learning_rate=1e-2, ema_decay=0.9)
    module = Loss()
    loop = TrainingLoop(
        module, FunctionBatches(lambda index, _: NUMBERS[torch.from_numpy(indices(index))], config.seed), config,
        out=folder, progress=False, device=device, find_unused_parameters=True,
    )  # fmt: skip
    loop.run()
    if loop.accelerator.is_main_process:
        save_file(dict(module.state_dict()), folder / "weights.safetensors")


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]), "cpu" if sys.argv[3:] in ([], ["cpu"]) else None)
