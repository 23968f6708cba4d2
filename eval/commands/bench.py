"""`bdkit bench SUITE`: every method of the paper's table, fitted, drawn and scored."""

import argparse

from bdkit.utils.config import add_dataclass_arguments, config_from_args
from dreambench.suites import KNOWN_SUITES
from eval.bench import BenchConfig, run_bench
from eval.report.tables import TABLE_MD


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the suite and the flags of `BenchConfig`, but for the rows: `--methods` chooses among the paper's."""
    known = ", ".join(KNOWN_SUITES)
    parser.add_argument("suite", nargs="?", default=BenchConfig.suite, help=f"{known} (default: {BenchConfig.suite})")
    add_dataclass_arguments(parser, BenchConfig, skip=["suite", "rows"])


def run(args: argparse.Namespace) -> int:
    """Runs the benchmark, goes on where a stopped run was, and prints the table."""
    config = config_from_args(BenchConfig, args)
    out = run_bench(config)
    if config.shard is not None:
        print(
            f"The images of shard {config.shard} are in {out}. When all shards are done: in one folder, the same "
            "command without --shard; in several, 'bdkit merge FOLDERS --out OUT'."
        )
        return 0
    print((out / TABLE_MD).read_text(encoding="utf-8"))
    print(f"Everything is in {out}: {TABLE_MD}, grid.png, report.html, scores.csv.")
    return 0
