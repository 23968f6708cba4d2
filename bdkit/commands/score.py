"""`bdkit score DIR`: scores the pictures of a results folder, whoever drew them."""

import argparse
from pathlib import Path

from dreambench.suites import KNOWN_SUITES, load_suite
from eval.bench import BenchConfig, protocol_of
from eval.layout import load_saved_suite, read_run
from eval.runner import prepare
from eval.score import SCORES_FILE, load_evaluators, score_folder
from eval.system import pick_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the folder, and what a folder of another program's pictures doesn't say itself."""
    parser.add_argument("out", type=Path, help="results folder: pictures in pictures/seed0/METHOD/SUBJECT/00-0.png")
    parser.add_argument(
        "--suite",
        help=f"for pictures of another program: the suite that they answer ({', '.join(KNOWN_SUITES)})",
    )
    parser.add_argument("--protocol", help="encoders that score, mini or dreambench (default: the folder's own)")
    parser.add_argument("--photos", type=Path, help="folder of the DreamBench photos")


def run(args: argparse.Namespace) -> int:
    """Writes scores.csv and scores.parquet."""
    if args.suite is not None:
        prepare(load_suite(args.suite), args.out, args.photos)
    suite, record = load_saved_suite(args.out), read_run(args.out)
    protocol = args.protocol or record.get("scoring", {}).get("protocol")
    if protocol is None:
        protocol = protocol_of(BenchConfig(model=record.get("model", "")), suite)
    frame = score_folder(args.out, load_evaluators(protocol, pick_device()), photos=args.photos)
    print(f"{len(frame)} scores are in {args.out / SCORES_FILE}; 'bdkit table {args.out}' makes the table.")
    return 0
