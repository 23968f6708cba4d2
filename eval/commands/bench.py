"""`bdkit bench SUITE`: every method of the paper's table, fitted, generated and scored."""

import argparse

from bdkit.utils.config import add_dataclass_arguments, config_from_args
from dreambench.registry import KNOWN_SUITES
from eval.experiments import BenchConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the suite and the flags of `BenchConfig`, but for the rows: `--methods` chooses among the paper's."""
    known = ", ".join(KNOWN_SUITES)
    parser.add_argument("suite", nargs="?", default=BenchConfig.suite, help=f"{known} (default: {BenchConfig.suite})")
    add_dataclass_arguments(parser, BenchConfig, skip=["suite", "rows"])


def run(args: argparse.Namespace) -> int:
    """Runs the benchmark, resumes a stopped one, and prints the table."""
    from eval.bench import run_bench

    config = config_from_args(BenchConfig, args)
    out = run_bench(config)
    if config.shard is not None:
        print(
            f"The images of shard {config.shard} are in {out}. When all shards are done, copy their folders into one "
            "(cp -r) if they are several, and run the same command on it without --shard."
        )
        return 0
    print((out / "table.md").read_text(encoding="utf-8"))
    print(f"Everything is in {out}: table.md, grid.png, report.html, scores.csv.")
    return 0
