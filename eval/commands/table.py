"""`bdkit table DIR...`: the table from finished scores, of one folder or of several together."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the folders, and what else to show."""
    parser.add_argument("out", type=Path, nargs="+", help="results folders with scores.csv, of one suite and protocol")
    parser.add_argument("--against", metavar="NAME", help="every row's difference from this one, paired over subjects")
    parser.add_argument("--split", metavar="BY", help="figures for live subjects and objects, or by type or category")
    parser.add_argument("--published", action="store_true", help="published results too, each with its protocol")
    parser.add_argument(
        "--save", type=Path, metavar="DIR", help="writes the tables and plots of several folders there, as for one"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the table. One folder's tables are written into it, those of several where --save says."""
    from eval.report.plots import make_plots
    from eval.report.tables import make_tables, markdown, summarise, write_tables

    results = make_tables(args.out[0]) if len(args.out) == 1 else summarise(*args.out)
    chosen = {"split": args.split, "against": args.against, "published": args.published}
    text = markdown(results, **chosen)
    if args.save is not None:
        write_tables(results, args.save, **chosen)
        make_plots(results, args.save, published=args.published)
    print(text)
    return 0
