"""`bdkit report DIR`: tables, plots and report.html from finished scores; of several folders, a leaderboard.

examples:
  bdkit report results/mini-quick
  bdkit report results/ours results/theirs --leaderboard
  bdkit report scores --images downloads --published
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

from bdkit.utils.config import add_dataclass_arguments, config_from_args, flag_of, given_fields
from bdkit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What to show.

    out: results folder with scores.csv or scores.parquet; several with --leaderboard
    images: folder of the scored images, where it is another one
    tree: how they are arranged, as for `bdkit score`
    manifest: CSV with their paths, instead of a tree
    photos: folder of the references of a suite of photos
    published: show published results too, each with its protocol
    embed: up to so many images are put into the file, more are linked; none: 5,000
    leaderboard: one page of several folders' rows, a table for each suite and protocol
    page: the leaderboard's file
    """

    out: tuple[Path, ...] = field(metadata={"positional": True, "metavar": "DIR"})
    images: Path | None = field(default=None, metadata={"metavar": "DIR"})
    tree: str = "auto"
    manifest: Path | None = field(default=None, metadata={"metavar": "CSV"})
    photos: Path | None = field(default=None, metadata={"metavar": "DIR"})
    published: bool = False
    embed: int | None = None
    leaderboard: bool = False
    page: Path = field(default=Path("leaderboard.html"), metadata={"metavar": "FILE"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the fields of `ReportConfig`."""
    add_dataclass_arguments(parser, ReportConfig)


def run(args: argparse.Namespace) -> int:
    """Writes the tables, plots/ and report.html into the folder, or the leaderboard."""
    from eval.report.html import make_report
    from eval.report.leaderboard import make_leaderboard
    from eval.report.tables import make_tables
    from eval.score.images import read_images

    config = config_from_args(ReportConfig, args)
    given = given_fields(ReportConfig, args)
    if config.leaderboard:
        if unused := sorted(set(given) - {"out", "leaderboard", "page"}):
            raise InputError(f"{flag_of(unused[0])} has no effect on a leaderboard; leave it out")
        print(f"{make_leaderboard(config.out, config.page)} opens in any browser.")
        return 0
    if len(config.out) > 1:
        raise InputError(f"{len(config.out)} folders make a leaderboard; add --leaderboard, or give one folder")
    if "page" in given:
        raise InputError("--page is of --leaderboard alone; leave it out, or add --leaderboard")
    (out,) = config.out
    results, tree = make_tables(out), None
    if config.images is not None or config.manifest is not None:
        root = config.images or out
        tree = read_images(root, results.suite, tree=config.tree, manifest=config.manifest)
    path = make_report(out, results, config.photos, tree=tree, published=config.published, embed_at_most=config.embed)
    print(f"{path} opens in any browser; tables and plots are beside it.")
    return 0
