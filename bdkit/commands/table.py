"""`bdkit table DIR`: the table from finished scores."""

import argparse
from pathlib import Path

from eval.tables import TABLE_MD, make_tables


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the folder."""
    parser.add_argument("out", type=Path, help="results folder with scores.csv")


def run(args: argparse.Namespace) -> int:
    """Writes table.csv and table.md, and prints the latter."""
    make_tables(args.out)
    print((args.out / TABLE_MD).read_text(encoding="utf-8"))
    return 0
