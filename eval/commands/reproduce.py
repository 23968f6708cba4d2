"""`bdkit reproduce NAME`: one of the paper's questions, answered by a CSV, a table and a plot.

NAME is table1, the paper's main table with held-out references and published results beside it; steps, scores against
fine-tuning steps and seconds, with the learning rates that search finds on development subjects; preservation, what the
subject model keeps of its base on prompts without a subject; drift, how far fits on a subject move what is drawn for
other prompts, and what they cost; combination, the subject with a ControlNet and in edits, neither of which was trained
with it; or ablations, the mini pre-training with one part left out or changed at a time (--methods names those to run).
all runs each of them but search, and judges the paper's claims by them. results/paper of a clone holds the published
ones, by the commands in runs/reproduce_paper.sh.

examples:
  bdkit reproduce table1
  bdkit reproduce all --budget small
  bdkit table results/my-paper/table1.csv
  bdkit reproduce search && bdkit reproduce steps
  bdkit reproduce preservation
  bdkit reproduce drift
  bdkit reproduce combination
  bdkit reproduce ablations --budget full --samples 1 --methods without-stage-1,same-image
  bdkit reproduce table1 --budget full --samples 1
  bdkit reproduce table1 --suite dreambench --model salesforce/blipdiffusion --base BASE --photos photos/ --budget full
"""

import argparse
import importlib

from bdkit.utils.config import add_dataclass_arguments, config_from_args
from bdkit.utils.io import check_writable
from eval.paper.config import EXPERIMENTS, ReproduceConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `ReproduceConfig`."""
    add_dataclass_arguments(parser, ReproduceConfig)


def run(args: argparse.Namespace) -> int:
    """Runs the experiment, resumes a stopped one, and prints its table."""
    from eval.paper.results_files import show

    config = config_from_args(ReproduceConfig, args)
    check_writable(config.out)
    if config.experiment == "all":
        from eval.paper.claims import run_all

        path = run_all(config)
        print(path.read_text(encoding="utf-8"))
        print(f"{path} and the experiments' CSVs, tables and plots are in {config.out}.")
        return 0
    path = importlib.import_module(EXPERIMENTS[config.experiment]).run(config)
    print(show(path))
    report = path.with_suffix("") / "report.html"
    images = f", the report with its images is {report}" if report.exists() else ""
    print(f"{path} has every figure; the table (.md) and the plot (.png) are beside it{images}.")
    return 0
