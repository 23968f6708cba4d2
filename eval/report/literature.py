"""Published results as data: what papers report, with its source and protocol, to stand beside ours.

`published/*.csv` holds the figures as printed. A protocol is named where it is known; else the file says that the
figure was copied from paper to paper, or that the scoring code was not published.
"""

import csv
from pathlib import Path

FOLDER = Path(__file__).parent / "published"
PAPER_FILE = "paper.csv"
PAPER_METRICS = ("dino", "clip_i", "clip_t")


def read_paper() -> list[dict[str, str]]:
    """The paper's own table, one dict a row with its figures as printed, its protocol and its source."""
    return _read(FOLDER / PAPER_FILE)


def read_published() -> list[dict[str, str]]:
    """Every published result: the paper's table first, then the other files' by name."""
    others = sorted(path for path in FOLDER.glob("*.csv") if path.name != PAPER_FILE)
    return [row for path in (FOLDER / PAPER_FILE, *others) for row in _read(path)]


def format_published(row: dict[str, str], metric: str) -> str:
    """A published figure as printed, with its spread; empty where the paper has none."""
    spread = row[f"{metric}_spread"]
    return row[metric] + (f" ±{spread}" if spread else "")


def _read(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
