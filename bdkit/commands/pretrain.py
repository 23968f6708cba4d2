"""`bdkit pretrain`: the mini model from nothing, all stages or one."""

import argparse
from pathlib import Path

import torch

from bdkit.training.config import PRETRAINING_STAGES
from bdkit.training.pretraining.stages import pretrain_mini
from bdkit.utils.env import is_main_process
from bdkit.utils.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `mini` and each stage as commands of their own."""
    whats = parser.add_subparsers(title="what to train", metavar="WHAT", dest="what", required=True)
    _add_training(whats.add_parser("mini", help="every stage"))
    for name, text in PRETRAINING_STAGES.items():
        _add_training(whats.add_parser(name, help=text))


def run(args: argparse.Namespace) -> int:
    """Trains what is not finished yet; a run that was stopped goes on from its last checkpoint."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: there is no GPU that torch can use; leave --device out")
    stages = None if args.what == "mini" else [args.what]
    weights = pretrain_mini(args.out, smoke=args.smoke, stages=stages, device=args.device)
    if is_main_process():
        print(f"{', '.join(stages or PRETRAINING_STAGES)}: finished in {weights}.")
    return 0


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, default=Path("runs/mini"), help="folder for checkpoints and weights (default: runs/mini)"
    )
    parser.add_argument("--smoke", action="store_true", help="a handful of steps, to test the path in two minutes")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: the GPU where there is one")
