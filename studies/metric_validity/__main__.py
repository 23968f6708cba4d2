"""`python -m studies.metric_validity`: do the metrics mean what they should? See `command`."""

import sys
from collections.abc import Sequence

from bdkit.cli import Parser, guarded
from studies.metric_validity import command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the study; returns what `bdkit.cli.guarded` does."""

    def work() -> int:
        parser = Parser(prog="python -m studies.metric_validity")
        command.add_arguments(parser)
        return command.run(parser.parse_args(argv))

    return guarded(work)


if __name__ == "__main__":
    sys.exit(main())
