"""`bdkit fetch`: downloads the DreamBench photos, each file checked against its SHA-256.

examples:
  bdkit fetch dreambench
  bdkit fetch dreambench --out photos/dreambench
"""

import argparse
from dataclasses import dataclass, field
from typing import Literal

from bdkit.utils.config import add_dataclass_arguments, config_from_args
from dreambench.fetch import LICENCE, FetchConfig, fetch_dreambench


@dataclass(frozen=True, kw_only=True)
class FetchCommandConfig(FetchConfig):
    """Data set.

    what: what to download: dreambench
    """

    what: Literal["dreambench"] = field(metadata={"positional": True})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `FetchCommandConfig`."""
    add_dataclass_arguments(parser, FetchCommandConfig)


def run(args: argparse.Namespace) -> int:
    """Downloads what is missing or damaged and prints the folder."""
    folder = fetch_dreambench(config_from_args(FetchCommandConfig, args))
    print(f"The photos are in {folder}. {LICENCE}")
    return 0
