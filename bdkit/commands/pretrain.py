"""`bdkit pretrain`: the mini model from scratch, all stages or one.

examples:
  bdkit pretrain mini --out runs/mini
  bdkit pretrain stage2 --out runs/mini
  bdkit pretrain mini --smoke --out /tmp/smoke
  bdkit pretrain controlnet --out runs/mini
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bdkit.training.config import BESIDE_STAGES, PRETRAINING_STAGES
from bdkit.utils.config import add_dataclass_arguments, config_from_args
from bdkit.utils.env import is_main_process
from bdkit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class PretrainCommandConfig:
    """Training.

    what: mini for every stage, or one of the stages
    out: folder for checkpoints and weights; the same command resumes a run that was stopped
    smoke: a handful of steps, to test the path in two minutes
    device: where to train (default: the GPU, if there is one)
    """

    what: str = field(metadata={"positional": True})
    out: Path = Path("runs/mini")
    smoke: bool = False
    device: Literal["cpu", "cuda"] | None = None

    def __post_init__(self) -> None:
        if self.what not in ("mini", *PRETRAINING_STAGES, *BESIDE_STAGES):
            known = ", ".join([*PRETRAINING_STAGES, *BESIDE_STAGES])
            raise InputError(f"unknown stage {self.what!r}; give mini, {known}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `PretrainCommandConfig`, and the list of stages."""
    add_dataclass_arguments(parser, PretrainCommandConfig)
    stages = PRETRAINING_STAGES | BESIDE_STAGES
    parser.add_argument_group("Stages", "\n".join(f"{name:<21} {text}" for name, text in stages.items()))


def run(args: argparse.Namespace) -> int:
    """Trains what is not finished yet."""
    import torch

    from bdkit.training.controlnet import pretrain_controlnet
    from bdkit.training.pretraining.stages import pretrain_mini

    config = config_from_args(PretrainCommandConfig, args)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: there is no GPU that torch can use; leave --device out")
    stages = list(PRETRAINING_STAGES) if config.what == "mini" else [config.what]
    if config.what == "controlnet":
        weights = pretrain_controlnet(config.out, smoke=config.smoke, device=config.device)
    else:
        weights = pretrain_mini(config.out, smoke=config.smoke, stages=stages, device=config.device)
    if is_main_process():
        print(f"{', '.join(stages)}: finished in {weights}.")
    return 0
