"""Scores -> tables: per method, subject, prompt and split as CSV, and table.md for people."""

from pathlib import Path
from typing import Any

import pandas as pd

from bdkit.utils.io import write_text
from eval.report.literature import read_paper
from eval.report.sections import DIFFERENCES_CSV, format_figure, markdown
from eval.report.statistics import prompt_table, subject_table
from eval.report.summary import Results, provenance, summarise, title

TABLE_CSV = "table.csv"
CORRELATIONS_CSV = "correlations.csv"
BY_SUBJECT_CSV = "by_subject.csv"
BY_PROMPT_CSV = "by_prompt.csv"
BY_SPLIT_CSV = "by_split.csv"
TABLE_MD = "table.md"

__all__ = ["Results", "format_figure", "make_tables", "markdown", "read_paper", "summarise", "title", "wide_table"]


def make_tables(out: Path) -> Results:
    """Writes table.csv, by_subject.csv, by_prompt.csv, by_split.csv, differences.csv, correlations.csv and table.md
    from OUT's scores.

    Raises InputError when OUT was not scored.
    """
    results = summarise(out)
    write_tables(results, out)
    write_text(markdown(results), out / TABLE_MD)
    return results


def write_tables(results: Results, out: Path) -> None:
    """Writes every table as CSV, figures with 6 decimals."""
    tables = {
        TABLE_CSV: wide_table(results),
        BY_SUBJECT_CSV: subject_table(results.scores, results.suite),
        BY_PROMPT_CSV: prompt_table(results.scores, results.suite),
        BY_SPLIT_CSV: results.splits,
        DIFFERENCES_CSV: results.differences,
        CORRELATIONS_CSV: results.correlations,
    }
    for name, table in tables.items():
        write_text(table.to_csv(index=False, float_format="%.6f", lineterminator="\n"), out / name)


def wide_table(results: Results) -> pd.DataFrame:
    """One line a row of the table: for each metric its mean, spread, low and high, then what it was made with."""
    lines = []
    for row in results.rows:
        line: dict[str, Any] = {"row": row, "title": title(row)}
        for metric in results.metrics:
            figure = results.estimates.get((row, metric))
            for part in ("mean", "spread", "low", "high"):
                name = metric if part == "mean" else f"{metric}_{part}"
                line[name] = None if figure is None else getattr(figure, part)
        lines.append({**line, **provenance(results, row)})
    return pd.DataFrame(lines)
