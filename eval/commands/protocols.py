"""`bdkit protocols`: the scoring protocols, and how each differs from `dreambench`.

examples:
  bdkit protocols
  bdkit protocols clip-score
"""

import argparse
from dataclasses import dataclass, field

from bdkit.utils.config import add_dataclass_arguments, config_from_args
from eval.score.protocols import DEFAULT, PROTOCOLS, differences, find_protocol, settings


@dataclass(frozen=True, kw_only=True)
class ProtocolsConfig:
    """Protocols.

    name: show everything that this protocol fixes
    """

    name: str | None = field(default=None, metadata={"positional": True})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `ProtocolsConfig`."""
    add_dataclass_arguments(parser, ProtocolsConfig)


def run(args: argparse.Namespace) -> int:
    """Prints one protocol whole, or `dreambench` whole and the others by their differences from it."""
    config = config_from_args(ProtocolsConfig, args)
    shown = config.name or DEFAULT
    protocol = find_protocol(shown)
    print(f"{shown}: {protocol.summary}")
    for name, value in settings(protocol).items():
        print(f"    {_words(name)}: {value}")
    # the published code reads images by Pillow's convert("RGB")
    print("    colour profiles in the images: ignored, by every protocol (generate and finetune convert to sRGB)")
    if config.name is not None:
        return 0
    print(f"\nThe others, where they differ from {DEFAULT}. A table never mixes protocols.")
    for name, other in PROTOCOLS.items():
        if name != DEFAULT:
            print(f"\n{name}: {other.summary}")
            for setting, (value, default) in differences(other).items():
                print(f"    {_words(setting)}: {value} (not {default})")
    return 0


def _words(name: str) -> str:
    return name.replace("_", " ")
