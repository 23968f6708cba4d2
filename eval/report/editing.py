"""Tables of an editing benchmark's scores: table.csv, by_kind.csv and table.md, beside what papers report."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bdkit.utils.errors import InputError
from bdkit.utils.io import write_text
from eval.report.statistics import interval
from eval.report.tables import NOT_MEASURED, PUBLISHED, TABLE_MD, markdown_table
from eval.results_dir import read_run
from eval.score.editing import dreameditbench, pie_bench
from eval.score.editing.benchmark import MENDED, EditMetric
from eval.score.editing.score import METRICS, read_edit_scores

FIGURES = ["mean", "low", "high", "n", "n_undefined"]
# How many images the published benchmark has; those of whose kinds the table has lines of their own
SIZES = {pie_bench.NAME: pie_bench.N_IMAGES, dreameditbench.NAME: dreameditbench.N_IMAGES}
BY_KIND = (dreameditbench.NAME,)
NOTE = (
    "Each figure is the mean over images, in brackets its 95% bootstrap interval over them. An image for which a "
    "metric is not defined (no background, or no edited region) counts in no mean: the column tells how many."
)
NOTES = {
    "": NOTE,
    MENDED: (
        "The same metrics without the published code's oddities: docs/scoring.md lists them. Not comparable with "
        "published figures."
    ),
}
HEADINGS = {"": "As published", MENDED: "Mended"}


def is_edit_scores(out: Path) -> bool:
    """Whether a results folder has the scores of an editing benchmark."""
    return read_run(out).get("scoring", {}).get("benchmark") in METRICS


def make_edit_tables(outs: Sequence[Path], *, published: bool = False, save: Path | None = None) -> str:
    """table.md of the scores of one or several folders, of one benchmark. Writes it, table.csv and by_kind.csv into
    the one folder, or into `save`.
    """
    names = {str(read_run(out).get("scoring", {}).get("benchmark")): out for out in outs}
    if len(names) > 1:
        listed = ", ".join(f"{name} in {out}" for name, out in names.items())
        raise InputError(f"a table is of one benchmark, and these scores are of several: {listed}")
    name = next(iter(names))
    frames = [read_edit_scores(out) for out in outs]
    _check_methods(frames, outs)
    scores = pd.concat(frames, ignore_index=True)
    by_kind, table = summarise_edits(scores, ["method", "kind"]), summarise_edits(scores, ["method"])
    shown = by_kind if name in BY_KIND else table.assign(kind="")
    text = edit_markdown(name, shown, published=published, titles=_titles(outs))
    target = save or (outs[0] if len(outs) == 1 else None)
    if target is not None:
        for file, part in (("table.csv", table), ("by_kind.csv", by_kind)):
            write_text(part.to_csv(index=False, float_format="%.7g", lineterminator="\n"), target / file)
        write_text(text, target / TABLE_MD)
    return text


def _titles(outs: Sequence[Path]) -> dict[str, str]:
    """Method -> its name with "(n/N images)" where images of it are missing."""
    titles = {}
    for out in outs:
        for method, count in read_run(out)["scoring"]["images"].items():
            scored, expected = count["scored"], count["expected"]
            titles[method] = method if scored == expected else f"{method} ({scored}/{expected} images)"
    return titles


def _check_methods(frames: Sequence[pd.DataFrame], outs: Sequence[Path]) -> None:
    first: dict[str, Path] = {}
    for frame, out in zip(frames, outs, strict=True):
        for method in frame["method"].unique():
            if method in first:
                raise InputError(f"{first[method]} and {out} both have images of {method!r}; rename one with --method")
            first[method] = out


def summarise_edits(scores: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Columns by, metric, mean, low, high, n, n_undefined, in the order of the scores."""
    lines: list[tuple[Any, ...]] = []
    for key, part in scores.groupby([*by, "metric"], sort=False):
        values = part["value"].to_numpy(dtype=float)
        defined = values[~np.isnan(values)]
        # an image without any error has an infinite PSNR, and then so has the mean
        low, high = interval(defined) if np.isfinite(defined).all() else (None, None)
        mean = float(defined.mean()) if len(defined) else float("nan")
        lines.append((*key, mean, low, high, len(defined), len(values) - len(defined)))
    return pd.DataFrame(lines, columns=[*by, "metric", *FIGURES])


def edit_markdown(
    name: str, table: pd.DataFrame, *, published: bool = False, titles: Mapping[str, str] | None = None
) -> str:
    """table.md: the metrics as published and mended, a line a method and kind.

    published: with what papers report; titles: method -> as its line names it
    """
    figures: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    cells_of_table: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
    for cell in cells_of_table:
        figures.setdefault((cell["method"], cell["kind"]), {})[cell["metric"]] = cell
    parts = [f"# {name}"]
    for end, heading in HEADINGS.items():
        measured = set(table["metric"])
        metrics = {
            metric: info
            for metric, info in METRICS[name].items()
            if metric in measured and metric.endswith(MENDED) == bool(end)
        }
        if not metrics:
            continue
        beside = published and not end
        head = ["Method", *_if_by_kind(name, "Part"), *(info.title for info in metrics.values()), "Not defined"]
        lines = [
            [
                (titles or {}).get(method, method),
                *_if_by_kind(name, kind),
                *(_figure(cells.get(metric), info) for metric, info in metrics.items()),
                _undefined(cells, metrics),
                *(["this table"] if beside else []),
            ]
            for (method, kind), cells in figures.items()
        ]
        if beside:
            lines += _published_lines(name, metrics)
            head.append("Source")
        parts += [f"## {heading}", markdown_table(head, lines), NOTES[end]]
    most = max(sum(kinds) for kinds in _counts(figures).values())
    if most < SIZES[name]:
        parts.append(f"The published benchmark has {SIZES[name]} images; these are {most}.")
    return "\n\n".join(parts) + "\n"


def _counts(figures: Mapping[tuple[str, str], Mapping[str, Mapping[str, Any]]]) -> dict[str, list[int]]:
    """Method -> how many images of each kind were scored."""
    counts: dict[str, list[int]] = {}
    for (method, _), cells in figures.items():
        counts.setdefault(method, []).append(max(cell["n"] + cell["n_undefined"] for cell in cells.values()))
    return counts


def _if_by_kind(name: str, cell: str) -> list[str]:
    return [cell] if name in BY_KIND else []


def _figure(cell: Mapping[str, Any] | None, metric: EditMetric) -> str:
    if cell is None or pd.isna(cell["mean"]):
        return NOT_MEASURED
    mean, low, high = (None if pd.isna(cell[key]) else metric.scale * cell[key] for key in ("mean", "low", "high"))
    bounds = "" if low is None else f" [{low:.{metric.digits}f}, {high:.{metric.digits}f}]"
    return f"{mean:.{metric.digits}f}{bounds}"


def _undefined(cells: Mapping[str, Mapping[str, Any]], metrics: Mapping[str, EditMetric]) -> str:
    """For which metrics, and for how many of a line's images, there is no value."""
    counts = {
        metrics[name].title.partition(" ×")[0]: f"{cell['n_undefined']}/{cell['n'] + cell['n_undefined']}"
        for name, cell in cells.items()
        if name in metrics and cell["n_undefined"]
    }
    return ", ".join(f"{title} {count}" for title, count in counts.items()) or NOT_MEASURED


def _published_lines(name: str, metrics: Mapping[str, EditMetric]) -> list[list[str]]:
    with open(PUBLISHED / "editing" / f"{name}.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        [
            row["title"],
            *([row["kind"]] if name in BY_KIND else []),
            *(row.get(metric) or NOT_MEASURED for metric in metrics),
            NOT_MEASURED,
            row["source"],
        ]
        for row in rows
    ]
