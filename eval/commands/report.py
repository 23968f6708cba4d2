"""`bdkit report DIR`: tables, plots and report.html from finished scores."""

import argparse
from pathlib import Path

from eval.report.html import ReportConfig, make_report
from eval.report.tables import make_tables
from eval.score.images import LAYOUTS, read_images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the folder, and where images are that another program made."""
    parser.add_argument("out", type=Path, help="results folder with scores.csv")
    parser.add_argument("--pictures", type=Path, help="folder of the scored images, where it is another one")
    parser.add_argument("--layout", default="auto", help=f"how they lie: auto, {', '.join(LAYOUTS)} (default: auto)")
    parser.add_argument("--manifest", type=Path, help="CSV with their places, in place of a layout")
    parser.add_argument("--photos", type=Path, help="folder of the references of a suite of photos")
    parser.add_argument("--published", action="store_true", help="published results too, each with its protocol")
    parser.add_argument(
        "--embed",
        type=int,
        default=ReportConfig.embed_at_most,
        metavar="N",
        help="up to N images are put into the file, more are linked (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the tables, plots/ and report.html into the folder."""
    results = make_tables(args.out)
    found = None
    if args.pictures is not None or args.manifest is not None:
        root = args.pictures or args.out
        found = read_images(root, results.suite, layout=args.layout, manifest=args.manifest)
    config = ReportConfig(embed_at_most=args.embed, published=args.published)
    path = make_report(args.out, results, args.photos, config, found)
    print(f"{path} opens in any browser; tables and plots are beside it.")
    return 0
