"""`bdkit report DIR`: tables, plots and report.html from finished scores."""

import argparse
from pathlib import Path

from eval.score.images import LAYOUTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the folder, and where images are that another program made."""
    parser.add_argument("out", type=Path, help="results folder with scores.csv")
    parser.add_argument("--images", type=Path, help="folder of the scored images, where it is another one")
    parser.add_argument("--tree", default="auto", help=f"how they lie: auto, {', '.join(LAYOUTS)} (default: auto)")
    parser.add_argument("--manifest", type=Path, help="CSV with their paths, instead of a tree")
    parser.add_argument("--photos", type=Path, help="folder of the references of a suite of photos")
    parser.add_argument("--published", action="store_true", help="published results too, each with its protocol")
    parser.add_argument("--embed", type=int, metavar="N", help="up to N images are put into the file, more are linked")


def run(args: argparse.Namespace) -> int:
    """Writes the tables, plots/ and report.html into the folder."""
    from eval.report.html import make_report
    from eval.report.tables import make_tables
    from eval.score.images import read_images

    results, tree = make_tables(args.out), None
    if args.images is not None or args.manifest is not None:
        root = args.images or args.out
        tree = read_images(root, results.suite, layout=args.tree, manifest=args.manifest)
    path = make_report(args.out, results, args.photos, tree=tree, published=args.published, embed_at_most=args.embed)
    print(f"{path} opens in any browser; tables and plots are beside it.")
    return 0
