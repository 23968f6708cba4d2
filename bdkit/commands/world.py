"""`bdkit world sheet`: a contact sheet of the mini world."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from bdkit.miniworld.sheet import contact_sheet
from bdkit.miniworld.subjects import SPLITS
from bdkit.utils.config import add_dataclass_arguments, config_from_args
from bdkit.utils.errors import InputError
from bdkit.utils.images import write_png


@dataclass(frozen=True, kw_only=True)
class SheetConfig:
    """A contact sheet.

    out: the PNG file
    kind: world (a subject of each class in its contexts), individuals, contexts, outfits or changes
    seed: another seed, other subjects
    split: whose subjects are shown: train, evaluators, dev or test
    columns: images in a row
    size: pixels a side that each image is drawn with
    upscale: times each pixel is repeated
    """

    out: Path = Path("world.png")
    kind: str = "world"
    seed: int = 0
    split: str = "train"
    columns: int = 12
    size: int = 64
    upscale: int = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what is shown and the flags of `SheetConfig`."""
    parser.add_argument("what", choices=["sheet"], help="what to make")
    add_dataclass_arguments(parser, SheetConfig)


def run(args: argparse.Namespace) -> int:
    """Writes the sheet."""
    config = config_from_args(SheetConfig, args)
    if config.split not in SPLITS:
        raise InputError(f"unknown split {config.split!r}; known are {', '.join(SPLITS)}")
    for name, value, most in (
        ("columns", config.columns, 100),
        ("size", config.size, 512),
        ("upscale", config.upscale, 16),
    ):
        if not 1 <= value <= most:
            raise InputError(f"--{name} is {value}; give a number from 1 to {most}")
    try:
        sheet = contact_sheet(config.kind, config.seed, config.split, config.columns, config.size, config.upscale)
    except ValueError as error:
        raise InputError(str(error)) from error
    write_png(sheet, config.out)
    print(f"The sheet is {config.out} ({sheet.width} x {sheet.height} pixels).")
    return 0
