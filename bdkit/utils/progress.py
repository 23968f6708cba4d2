"""One look for all progress: a bar on a terminal or in a notebook, a plain line now and then in a log file."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

LOG_SECONDS = 30.0


def progress_bar(iterable: Iterable[Any] | None = None, *, show: bool = True, **options: Any) -> "tqdm[Any]":
    """A tqdm bar; in a notebook tqdm.auto's. Where stderr is no terminal, it prints a line about every 30 seconds and
    one at its end.

    options: tqdm's own, such as total, initial, desc and unit. Change the text of the bar with `refresh=False`, for
        otherwise every change is a line in a log file.
    """
    if in_notebook():
        from tqdm.auto import tqdm as notebook_tqdm

        return notebook_tqdm(iterable, disable=not show, **options)
    if sys.stderr.isatty():
        return tqdm(iterable, disable=not show, dynamic_ncols=True, **options)
    # miniters=1: tqdm looks at the clock at every update instead of guessing how many updates 30 seconds are
    log = {"file": _LogLines(), "mininterval": LOG_SECONDS, "maxinterval": LOG_SECONDS, "miniters": 1, "ncols": 79}
    return tqdm(iterable, disable=not show, **{**options, **log})


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook (Jupyter, Colab), not a process that one started."""
    if "ipykernel" not in sys.modules or "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


class _LogLines:
    """stderr for tqdm: each redrawn bar is a line, and what only moves the cursor is left out."""

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            print(line, file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()
