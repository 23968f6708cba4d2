"""`bdkit protocols`: the scoring protocols, and how each differs from `dreambench`.

examples:
  bdkit protocols
  bdkit protocols clip-score
"""

import argparse

from eval.score.protocols import DEFAULT, PROTOCOLS, differences, find_protocol, settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the name of one protocol, to see it alone."""
    parser.add_argument("name", nargs="?", help="show everything that this protocol fixes")


def run(args: argparse.Namespace) -> int:
    """Prints one protocol whole, or `dreambench` whole and the others by their differences from it."""
    shown = DEFAULT if args.name is None else args.name
    protocol = find_protocol(shown)
    print(f"{shown}: {protocol.summary}")
    for name, value in settings(protocol).items():
        print(f"    {_words(name)}: {value}")
    if args.name is not None:
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
