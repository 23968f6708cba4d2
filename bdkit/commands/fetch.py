"""`bdkit fetch dreambench`: the DreamBench photos, each file checked against its SHA-256."""

import argparse

from bdkit.utils.config import add_dataclass_arguments, config_from_args
from dreambench.fetch import LICENCE, FetchConfig, fetch_dreambench


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what is downloaded and the flags of `FetchConfig`."""
    parser.add_argument("what", choices=["dreambench"], help="what to download")
    add_dataclass_arguments(parser, FetchConfig)


def run(args: argparse.Namespace) -> int:
    """Downloads what is missing or damaged and says where it is."""
    folder = fetch_dreambench(config_from_args(FetchConfig, args))
    print(f"The photos are in {folder}. {LICENCE}")
    return 0
