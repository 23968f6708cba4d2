"""`bdkit table DIR...`: the table from finished scores, of one folder or of several, or from an experiment's CSV.

examples:
  bdkit table results/mini-quick --split live
  bdkit table results/ours results/theirs --against dreambooth --published --save results/both
  bdkit table results/paper/table1.csv
  bdkit table results/paper
"""

import argparse
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bdkit.utils.config import add_dataclass_arguments, config_from_args, flag_of, given_fields
from bdkit.utils.errors import InputError
from bdkit.utils.io import check_writable


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """Tables to show.

    out: results folders with scores.csv or scores.parquet, of one suite and protocol, or of one editing benchmark;
        or the CSVs of `bdkit reproduce`, whose tables and plots are written beside them, or the folder that holds them,
        in which claims.md is written: what the paper says, claim by claim
    against: show every row's difference from this one, paired over subjects
    split: show the figures of the parts of a split too: live (live subjects and objects), type (of prompt) or category
    published: show published results too, each with its protocol
    save: write the tables and plots of several folders there, as for one
    """

    out: tuple[Path, ...] = field(metadata={"positional": True, "metavar": "DIR"})
    against: str | None = field(default=None, metadata={"metavar": "ROW"})
    split: str | None = field(default=None, metadata={"metavar": "BY"})
    published: bool = False
    save: Path | None = field(default=None, metadata={"metavar": "DIR"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the fields of `TableConfig`."""
    add_dataclass_arguments(parser, TableConfig)


def run(args: argparse.Namespace) -> int:
    """Prints the table. One folder's tables are written into it, those of several where --save says."""
    from eval.paper.results_files import experiments_in
    from eval.report.editing import is_edit_scores, make_edit_tables
    from eval.report.plots import make_plots
    from eval.report.tables import make_tables, markdown, summarise, write_tables

    config = config_from_args(TableConfig, args)
    if config.save is not None:
        check_writable(config.save, "--save")
    if any(path.suffix.lower() == ".csv" or experiments_in(path) for path in config.out):
        return _show_experiments(args, config)
    if any(map(is_edit_scores, config.out)):
        if config.against or config.split:
            raise InputError("--against and --split are for suites, and these are scores of an editing benchmark")
        print(make_edit_tables(config.out, published=config.published, save=config.save))
        return 0
    results = make_tables(config.out[0]) if len(config.out) == 1 else summarise(*config.out)
    chosen = {"split": config.split, "against": config.against, "published": config.published}
    text = markdown(results, **chosen)
    if config.save is not None:
        write_tables(results, config.save, **chosen)
        make_plots(results, config.save, published=config.published)
    print(text)
    return 0


def _show_experiments(args: argparse.Namespace, config: TableConfig) -> int:
    from eval.paper.claims import claims_page, write_page
    from eval.paper.results_files import experiments_in, read_and_draw, write_drawn

    for name in given_fields(TableConfig, args).keys() - {"out"}:
        raise InputError(f"{flag_of(name)} is not for the CSVs of `bdkit reproduce`; leave it out")
    # all of them are made before the first is written
    writers = [
        partial(write_page, path, claims_page(path))
        if experiments_in(path)
        else partial(write_drawn, path, *read_and_draw(path))
        for path in config.out
    ]
    for write in writers:
        print(write())
    return 0
