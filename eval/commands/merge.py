"""`bdkit merge SHARDS --out OUT`: one set of results from the shards of `bdkit bench` or of `bdkit score`."""

import argparse
from pathlib import Path

from bdkit.utils.env import pick_device
from bdkit.utils.errors import InputError
from eval.bench import BenchConfig, protocol_of, score_and_report
from eval.generate.merge import merge_shards
from eval.generate.runner import prepare
from eval.report.tables import TABLE_MD
from eval.results_dir import SCORES_FILE, load_saved_suite, read_run
from eval.score.cache import default_cache
from eval.score.score import load_evaluators, merge_scores
from eval.score.score_shards import has_parts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the folders and what scoring needs."""
    parser.add_argument("shards", nargs="+", type=Path, metavar="SHARD", help="folder of one shard")
    parser.add_argument("--out", type=Path, required=True, help="folder for the whole; a stopped merge goes on there")
    parser.add_argument("--photos", type=Path, help="folder of the DreamBench photos")
    parser.add_argument("--protocol", help="encoders that score (default: the run's own)")


def run(args: argparse.Namespace) -> int:
    """Of `bdkit bench`: copies the images together, scores them, and prints the table. Of `bdkit score`: joins the
    scores, for which neither images nor weights are needed.
    """
    for shard in args.shards:
        if not shard.is_dir():
            raise InputError(f"{shard} is not a folder; name the folders of the shards")
    if any(has_parts(shard) for shard in args.shards):
        frame = merge_scores(args.shards, args.out)
        suite = load_saved_suite(args.out)
        if suite.source == "procedural":
            prepare(suite, args.out)
        print(f"{len(frame)} scores are in {args.out / SCORES_FILE}; 'bdkit table {args.out}' makes the table.")
        return 0
    job = merge_shards(args.shards, args.out, args.photos)
    protocol = args.protocol or read_run(args.out).get("config", {}).get("protocol")
    protocol = protocol or protocol_of(BenchConfig(model=job.model), job.suite)
    score_and_report(job, load_evaluators(protocol, pick_device()), cache=default_cache())
    print((args.out / TABLE_MD).read_text(encoding="utf-8"))
    print(f"Everything is in {args.out}: {TABLE_MD}, grid.png, report.html, scores.csv.")
    return 0
