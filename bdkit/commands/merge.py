"""`bdkit merge SHARDS --out OUT`: one set of results from the folders of a run's shards."""

import argparse
from pathlib import Path

from bdkit.errors import InputError
from eval.bench import BenchConfig, protocol_of, score_and_report
from eval.cache import default_cache
from eval.layout import read_run
from eval.merge import merge_shards
from eval.score import load_evaluators
from eval.system import pick_device
from eval.tables import TABLE_MD


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the folders and what scoring needs."""
    parser.add_argument("shards", nargs="+", type=Path, metavar="SHARD", help="folder of one shard")
    parser.add_argument("--out", type=Path, required=True, help="folder for the whole; a stopped merge goes on there")
    parser.add_argument("--photos", type=Path, help="folder of the DreamBench photos")
    parser.add_argument("--protocol", help="encoders that score (default: the run's own)")


def run(args: argparse.Namespace) -> int:
    """Copies the pictures together, scores them, and prints the table."""
    for shard in args.shards:
        if not shard.is_dir():
            raise InputError(f"{shard} is not a folder; name the folders of the shards")
    job = merge_shards(args.shards, args.out, args.photos)
    protocol = args.protocol or read_run(args.out).get("config", {}).get("protocol")
    protocol = protocol or protocol_of(BenchConfig(model=job.model), job.suite)
    score_and_report(job, load_evaluators(protocol, pick_device()), cache=default_cache())
    print((args.out / TABLE_MD).read_text(encoding="utf-8"))
    print(f"Everything is in {args.out}: {TABLE_MD}, grid.png, report.html, scores.csv.")
    return 0
