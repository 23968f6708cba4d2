"""`bdkit report DIR`: tables, plots and report.html from finished scores.

examples:
  bdkit report results/mini-quick
  bdkit report scores --images downloads --published
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

from bdkit.utils.config import add_dataclass_arguments, config_from_args


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What to show.

    out: results folder with scores.csv or scores.parquet
    images: folder of the scored images, where it is another one
    tree: how they are arranged, as for `bdkit score`
    manifest: CSV with their paths, instead of a tree
    photos: folder of the references of a suite of photos
    published: show published results too, each with its protocol
    embed: up to so many images are put into the file, more are linked; none: 1,500
    """

    out: Path = field(metadata={"positional": True, "metavar": "DIR"})
    images: Path | None = field(default=None, metadata={"metavar": "DIR"})
    tree: str = "auto"
    manifest: Path | None = field(default=None, metadata={"metavar": "CSV"})
    photos: Path | None = field(default=None, metadata={"metavar": "DIR"})
    published: bool = False
    embed: int | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the fields of `ReportConfig`."""
    add_dataclass_arguments(parser, ReportConfig)


def run(args: argparse.Namespace) -> int:
    """Writes the tables, plots/ and report.html into the folder."""
    from eval.report.html import make_report
    from eval.report.tables import make_tables
    from eval.score.images import read_images

    config = config_from_args(ReportConfig, args)
    results, tree = make_tables(config.out), None
    if config.images is not None or config.manifest is not None:
        root = config.images or config.out
        tree = read_images(root, results.suite, tree=config.tree, manifest=config.manifest)
    path = make_report(
        config.out, results, config.photos, tree=tree, published=config.published, embed_at_most=config.embed
    )
    print(f"{path} opens in any browser; tables and plots are beside it.")
    return 0
