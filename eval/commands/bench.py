"""`bdkit bench`: every method of the paper's table, fitted, generated and scored.

examples:
  bdkit bench mini-quick
  bdkit bench dreambench --model salesforce/blipdiffusion --photos photos/ --methods blip-diffusion-finetuned
  bdkit bench mini --shard 1/3 --out results/mini
"""

import argparse

from bdkit.utils.config import add_dataclass_arguments, config_from_args
from eval.experiments import BenchConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `BenchConfig`, but for the rows: `--methods` chooses among the paper's."""
    add_dataclass_arguments(parser, BenchConfig, skip=["rows"])


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
