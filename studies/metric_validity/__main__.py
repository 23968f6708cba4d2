"""`python -m studies.metric_validity --out DIR`: runs the study and prints what the paper's three metrics make of each
damage.
"""

import sys
from collections.abc import Sequence

from bdkit.cli import Parser, guarded
from bdkit.utils.config import add_dataclass_arguments, config_from_args
from studies.metric_validity.damage import DAMAGES
from studies.metric_validity.study import ValidityConfig, validate_metrics


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the study; returns what `bdkit.cli.guarded` returns."""
    return guarded(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    parser = Parser(prog="python -m studies.metric_validity", description="Do the metrics mean what they should?")
    add_dataclass_arguments(parser, ValidityConfig)
    config = config_from_args(ValidityConfig, parser.parse_args(arguments))
    verdicts = validate_metrics(config).verdicts
    verdicts = verdicts[verdicts["metric"].isin(["dino", "clip_i", "clip_t"])]
    print(verdicts.pivot(index="damage", columns="metric", values="verdict").reindex(list(DAMAGES)).to_string())
    print(f"All tables are in {config.out}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
