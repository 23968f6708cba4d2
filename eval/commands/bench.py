"""`bdkit bench`: every method of the paper's table, fitted, generated and scored; or edit-mini, control-mini.

examples:
  bdkit bench mini-quick
  bdkit bench dreambench --model salesforce/blipdiffusion --photos photos/ --methods blip-diffusion-finetuned
  bdkit bench mini --shard 1/3 --out results/mini
  bdkit bench mini-quick --methods blip-diffusion-finetuned,my_package.my_module:MyMethod
  bdkit bench mini-quick --rows rows.json
  bdkit bench edit-mini --methods fixed,lavis --scenes 20
  bdkit bench control-mini --scenes 20
"""

import argparse
from pathlib import Path

from bdkit.utils.config import add_dataclass_arguments, config_from_args, flag_of, given_fields
from bdkit.utils.errors import InputError
from bdkit.utils.io import check_writable
from dreambench.editing import CONTROL_MINI, EDIT_MINI, EditMiniConfig
from eval.experiments import TABLE1, BenchConfig, read_rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `BenchConfig`; its rows come from a file; and those of edit-mini and control-mini."""
    add_dataclass_arguments(parser, BenchConfig, skip=["rows", "held_out"])
    add_dataclass_arguments(parser, EditMiniConfig)
    group = parser.add_argument_group("Rows of your own", "docs/own_method.md shows both ways")
    text = (
        "JSON list of rows, each an object with name, method (a known one, or my_package.my_module:MyMethod) and "
        "perhaps overrides and snapshot; they are run instead of the paper's, or --methods names rows of both"
    )
    group.add_argument("--rows", type=Path, metavar="FILE", default=argparse.SUPPRESS, help=text)


def config_of(args: argparse.Namespace) -> BenchConfig:
    """The config of the flags; a file of rows is read."""
    if hasattr(args, "rows"):
        args.rows = read_rows(args.rows)
        if hasattr(args, "methods"):
            names = [row.name for row in args.rows]
            args.rows += tuple(row for row in TABLE1 if row.name not in names)
    return config_from_args(BenchConfig, args)


def run(args: argparse.Namespace) -> int:
    """Runs the benchmark, resumes a stopped one, and prints the table."""
    if getattr(args, "suite", None) in (EDIT_MINI, CONTROL_MINI):
        return run_edits(args)
    for name in given_fields(EditMiniConfig, args):
        raise InputError(f"{flag_of(name)} is of {EDIT_MINI} and {CONTROL_MINI} alone; leave it out")

    from eval.bench import run_bench

    config = config_of(args)
    check_writable(config.results_dir)
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


def run_edits(args: argparse.Namespace) -> int:
    """Runs edit-mini or control-mini; of the common flags they know a few."""
    given = given_fields(BenchConfig, args)
    suite = given["suite"]
    known = {"suite", "model", "out", "methods"} if suite == EDIT_MINI else {"suite", "model", "out"}
    for name in given.keys() - known:
        raise InputError(f"{suite} has no {flag_of(name)}; leave it out")
    config = config_from_args(EditMiniConfig, args)
    out, model = given.get("out") or Path("results") / suite, given.get("model", "mini")
    check_writable(out)
    if suite == EDIT_MINI:
        from eval.mini.edit_scores import run_edit_mini

        run_edit_mini(config, out, model, given.get("methods"))
        compared = "differences.csv"
    else:
        from eval.mini.structure import run_control_mini

        run_control_mini(config, out, model)
        compared = "ratios.csv"
    print((out / "table.md").read_text(encoding="utf-8"))
    print(f"Everything is in {out}: table.md, {compared}, grid.png, scores.csv.")
    return 0
