"""`bdkit train-evaluators`: trains the networks that score mini images, on subjects that only they may see.

example:
  bdkit train-evaluators --smoke --work /tmp/evaluators --weights /tmp/evaluators/weights
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bdkit.utils.config import add_dataclass_arguments, config_from_args
from bdkit.utils.io import check_writable

Evaluator = Literal["identity", "classifier", "clip", "dino"]


@dataclass(frozen=True, kw_only=True)
class TrainEvaluatorsCommand:
    """What is trained, where and how long. A stopped run is resumed by the same command.

    work: folder of rendered images and checkpoints
    weights: where the weights and card.json go; none: into the package
    only: which of the four
    length: multiplies the number of steps
    threads: CPU threads; none: torch's default
    smoke: a few steps on a few images, to test the path
    precision: float32, bfloat16, or auto: bfloat16 where the processor has instructions for it
    """

    work: Path = Path("runs/evaluators")
    weights: Path | None = None
    only: tuple[Evaluator, ...] = ("identity", "classifier", "clip", "dino")
    length: float = 1.0
    threads: int | None = None
    smoke: bool = False
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `TrainEvaluatorsCommand`."""
    add_dataclass_arguments(parser, TrainEvaluatorsCommand)


def run(args: argparse.Namespace) -> int:
    """Trains, writes and measures the evaluators."""
    from eval.mini.train import train_evaluators

    config = config_from_args(TrainEvaluatorsCommand, args)
    check_writable(config.work, "--work")
    if config.weights is not None:
        check_writable(config.weights, "--weights")
    measures = train_evaluators(
        config.only,
        work=config.work,
        weights=config.weights,
        length=config.length,
        threads=config.threads,
        smoke=config.smoke,
        precision=config.precision,
    )
    for name, values in measures.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in values.items()))
    return 0
