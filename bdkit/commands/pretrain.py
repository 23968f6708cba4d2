"""`bdkit pretrain`: the mini model from nothing, all stages or one; and the networks that score its pictures."""

import argparse
from pathlib import Path

import torch

from bdkit.commands import pretrain_evaluators
from bdkit.errors import InputError
from bdkit.pretraining.mini import STAGES, main_process, pretrain_mini

EVALUATORS = "evaluators"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `mini`, each stage, and the evaluators as commands of their own."""
    whats = parser.add_subparsers(title="what to train", metavar="WHAT", dest="what", required=True)
    _add_training(whats.add_parser("mini", help="everything, the evaluators last"))
    for name, stage in STAGES.items():
        _add_training(whats.add_parser(name, help=stage.help))
    evaluators = whats.add_parser(EVALUATORS, help="the DINO, CLIP, identity encoder and classifier that score")
    pretrain_evaluators.add_arguments(evaluators)


def run(args: argparse.Namespace) -> int:
    """Trains what is not finished yet; a run that was stopped goes on from its last checkpoint."""
    if args.what == EVALUATORS:
        return pretrain_evaluators.run(args)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: there is no GPU that torch can use; leave --device out")
    stages = None if args.what == "mini" else [args.what]
    weights = pretrain_mini(args.out, smoke=args.smoke, stages=stages, device=args.device)
    if not main_process():
        return 0
    print(f"{', '.join(stages or STAGES)}: finished in {weights}.")
    if args.what != "mini":
        return 0
    return pretrain_evaluators.run(_evaluator_arguments(args))


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, default=Path("runs/mini"), help="folder for checkpoints and weights (default: runs/mini)"
    )
    parser.add_argument("--smoke", action="store_true", help="a handful of steps, to test the path in two minutes")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: the GPU where there is one")


def _evaluator_arguments(args: argparse.Namespace) -> argparse.Namespace:
    """The evaluators' own defaults, but in the same folder as the rest."""
    parser = argparse.ArgumentParser()
    pretrain_evaluators.add_arguments(parser)
    folders = ["--work", str(args.out / EVALUATORS), "--weights", str(args.out / "weights" / EVALUATORS)]
    return parser.parse_args(folders + (["--smoke"] if args.smoke else []))
