"""`bdkit world`: contact sheets of the mini world.

examples:
  bdkit world sheet --out world.png
  bdkit world sheet --kind outfits --split test --upscale 4 --out outfits.png
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bdkit.utils.config import add_dataclass_arguments, config_from_args
from bdkit.utils.errors import InputError
from bdkit.utils.images import write_png


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Contact sheet.

    what: what to make: sheet
    out: the PNG file
    kind: what is shown; world: a subject of each class in its contexts
    seed: another seed, other subjects
    split: whose subjects are shown
    columns: images in a row
    size: pixels a side that each image is drawn with
    upscale: how often each pixel is repeated
    """

    what: Literal["sheet"] = field(metadata={"positional": True})
    out: Path = Path("world.png")
    kind: Literal["world", "individuals", "contexts", "outfits", "changes"] = "world"
    seed: int = 0
    split: Literal["train", "evaluators", "dev", "test"] = "train"
    columns: int = 12
    size: int = 64
    upscale: int = 2

    def __post_init__(self) -> None:
        for name, largest in (("columns", 100), ("size", 512), ("upscale", 16)):
            if not 1 <= getattr(self, name) <= largest:
                raise InputError(f"--{name} is {getattr(self, name)}; give a number from 1 to {largest}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `WorldConfig`."""
    add_dataclass_arguments(parser, WorldConfig)


def run(args: argparse.Namespace) -> int:
    """Writes the sheet."""
    from bdkit.miniworld.sheet import contact_sheet

    config = config_from_args(WorldConfig, args)
    sheet = contact_sheet(config.kind, config.seed, config.split, config.columns, config.size, config.upscale)
    write_png(sheet, config.out)
    print(f"The sheet is {config.out} ({sheet.width} x {sheet.height} pixels).")
    return 0
