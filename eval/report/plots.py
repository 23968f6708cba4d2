"""The plots that papers show, as PNG and SVG: subject against prompt fidelity, score against seconds, bars per subject,
fine-tuning curves.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; markers differ too. The same results give the
same bytes.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bdkit.utils.io import write_bytes
from eval.report.statistics import Estimate, subject_means, subject_values
from eval.report.summary import METRIC_TITLES, Results, provenance, row_seconds, title
from eval.report.tables import read_published
from eval.results_dir import GROUND_TRUTH, REAL
from eval.score.metrics import METRICS
from eval.score.scores_file import ORACLE_ROWS

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = "osD^vPX*<>hd"
GREY = "#6b7280"
DPI = 200
SUBJECTS_A_LINE = 10
SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "bdkit", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 9.0,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY, "axes.grid": True,
    "axes.axisbelow": True, "grid.color": "#e5e7eb", "legend.frameon": False,
}  # fmt: skip


@dataclass(frozen=True)
class Plot:
    """One plot: the stem of its two files, a heading, and what it shows."""

    name: str
    heading: str
    note: str
    png: bytes
    svg: bytes


def make_plots(results: Results, out: Path, published: bool = False) -> list[Plot]:
    """Writes OUT/plots/NAME.png and NAME.svg for every plot that the results have figures for, and returns them."""
    plots = draw_plots(results, published)
    for plot in plots:
        write_bytes(plot.png, out / "plots" / f"{plot.name}.png")
        write_bytes(plot.svg, out / "plots" / f"{plot.name}.svg")
    return plots


def draw_plots(results: Results, published: bool = False) -> list[Plot]:
    """Every plot that the results have figures for. published: with published results in a panel of their own."""
    interval = "Bars: 95% bootstrap interval over subjects."
    plots = []
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **SETTINGS}):
        if {"dino", "clip_t"} <= set(results.metrics):
            note = f"Up: more like the subject. Right: more of the prompt. {interval}"
            plots.append(_plot("tradeoff", "DINO against CLIP-T", note, draw_tradeoff(results, published)))
        if seconds := {row: taken for row in results.rows if (taken := row_seconds(results, row)) is not None}:
            n = results.suite.samples_per_prompt
            images = "one image" if n == 1 else f"{n} images"
            note = (
                f"Seconds from the references to {images} of a prompt: the median fit (of a snapshot, its share of the "
                f"steps) and {images} at the median time, in one process of the run that made them. {interval} Line: "
                "the methods that no other one beats in both."
            )
            plots.append(_plot("pareto", "Score against seconds", note, draw_pareto(results, seconds)))
        for metric in ("dino", "clip_i"):
            if metric in results.metrics and _generated_rows(results):
                heading = f"{METRIC_TITLES[metric]} by subject"
                note = "Line: the subject's real images among themselves, without self-pairs."
                plots.append(_plot(f"subjects-{metric}", heading, note, draw_subjects(results, metric)))
        if curves(results):
            heading = "Fine-tuning steps"
            plots.append(_plot("steps", heading, f"Snapshots of one method. {interval}", draw_steps(results)))
    return plots


def draw_tradeoff(results: Results, published: bool = False) -> Figure:
    """CLIP-T (across) against DINO (up) of every row with both, with intervals; the oracle's DINO as a line.

    Published results have a second panel, open and grey, because their protocols differ from ours or are unknown.
    """
    rows = [row for row in _styled(results) if {(row, "dino"), (row, "clip_t")} <= set(results.estimates)]
    figure = Figure(figsize=(11.0, 5.6) if published else (5.6, 5.6), layout="constrained")
    panels = figure.subplots(1, 2 if published else 1, squeeze=False)[0]
    axes = panels[0]
    for row in rows:
        up, across = results.estimates[row, "dino"], results.estimates[row, "clip_t"]
        colour, marker = _styled(results)[row]
        axes.errorbar(
            across.mean, up.mean, xerr=bars([across]), yerr=bars([up]), color=colour, marker=marker, markersize=7,
            linestyle="none", elinewidth=1, capsize=2, label=title(row), markeredgecolor="white", markeredgewidth=0.5,
        )  # fmt: skip
    if oracle := results.estimates.get((REAL, "dino")):
        axes.axhline(oracle.mean, color=GREY, linestyle="--", linewidth=1, label="Real images (no self-pairs)")
    axes.set(xlabel="CLIP-T", ylabel="DINO", title=f"{results.suite.name}, protocol {results.protocol}")
    if published:
        _draw_published(panels[1], results.suite.name)
    figure.legend(loc="outside lower left", ncols=3 if published else 2, fontsize=8)
    return figure


def draw_pareto(results: Results, seconds: Mapping[str, float]) -> Figure:
    """Seconds (across, logarithmic) against DINO and CLIP-T (up), with intervals, and the methods' Pareto front."""
    metrics = [metric for metric in ("dino", "clip_t") if metric in results.metrics] or results.metrics[:1]
    figure = Figure(figsize=(4.2 * len(metrics) + 1.0, 4.6), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        points = {row: results.estimates[row, metric] for row in seconds if (row, metric) in results.estimates}
        for row, up in points.items():
            colour, marker = _styled(results)[row]
            axes.errorbar(
                seconds[row], up.mean, yerr=bars([up]), color=colour, marker=marker, markersize=7, linestyle="none",
                elinewidth=1, capsize=2, label=title(row), markeredgecolor="white", markeredgewidth=0.5,
            )  # fmt: skip
        sign = 1 if METRICS[metric].higher_is_better else -1
        front = pareto_front({row: (seconds[row], sign * up.mean) for row, up in points.items()})
        line = [(seconds[row], points[row].mean) for row in front]
        axes.plot(*zip(*line, strict=True), color=GREY, linewidth=1, drawstyle="steps-post", zorder=0)
        axes.set(xlabel="seconds", ylabel=METRIC_TITLES[metric], xscale="log")
        axes.xaxis.set_major_formatter("{x:g}")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=3, fontsize=8)
    return figure


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The names, by rising cost, of the (cost, value) points that no other point beats: none is as cheap and better, or
    cheaper and as good.
    """
    front: list[str] = []
    for name, (_, value) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if not front or value > points[front[-1]][1]:
            front.append(name)
    return front


def _draw_published(axes: Axes, suite: str) -> None:
    complete = [row for row in read_published(suite) if row["dino"] and row["clip_t"]]
    rows = sorted(complete, key=lambda row: row["protocol"])
    lines: list[str] = []
    for number, row in enumerate(rows, start=1):
        x, y = float(row["clip_t"]), float(row["dino"])
        axes.plot(x, y, marker="o", markersize=5, markerfacecolor="white", markeredgecolor=GREY, linestyle="none")
        axes.annotate(str(number), (x, y), xytext=(4, 3), textcoords="offset points", fontsize=6.5, color="#374151")
        if number == 1 or row["protocol"] != rows[number - 2]["protocol"]:
            lines.append(f"\n{row['protocol']}:")
        lines.append(f"{number}  {row['title']}")
    axes.set(xlabel="CLIP-T", ylabel="DINO", title=f"published, {rows[0]['suite']}")
    axes.text(1.03, 1.04, "\n".join(lines).strip(), transform=axes.transAxes, fontsize=6, va="top", color="#374151")


def draw_subjects(results: Results, metric: str) -> Figure:
    """A group of bars for each subject, a bar for each row, the oracle without self-pairs as a line across it."""
    means = subject_means(results.scores, allow_missing=True)
    rows = _generated_rows(results)
    values = {row: subject_values(means, row, metric) for row in [REAL, *rows]}
    names = [subject.name for subject in results.suite.subjects]
    lines = [names[start : start + SUBJECTS_A_LINE] for start in range(0, len(names), SUBJECTS_A_LINE)]
    across = min(SUBJECTS_A_LINE, len(names))
    height = 0.5 + 0.22 * -(-len(rows) // 3) + 2.1 * len(lines)
    figure = Figure(figsize=(max(7.2, 1.1 * across), height), layout="constrained")
    panels = figure.subplots(len(lines), 1, squeeze=False, sharey=True)[:, 0]
    width = 0.84 / len(rows)
    for axes, line in zip(panels, lines, strict=True):
        for number, row in enumerate(rows):
            x = np.arange(len(line)) - 0.42 + width * (number + 0.5)
            heights = [values[row].get(name, np.nan) for name in line]
            hatch = None if number <= len(COLOURS) else "///"
            axes.bar(x, heights, width, color=_styled(results)[row][0], label=title(row), hatch=hatch)
        for number, name in enumerate(line):
            if name in values[REAL]:
                axes.hlines(values[REAL][name], number - 0.45, number + 0.45, color="black", linewidth=1.2)
        axes.set_xticks(range(len(line)), [name.replace("_", " ") for name in line], fontsize=8)
        axes.set(ylabel=METRIC_TITLES[metric], xlim=(-0.6, across - 0.4))
        axes.grid(visible=False, axis="x")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=8)
    return figure


def draw_steps(results: Results) -> Figure:
    """DINO, CLIP-I and CLIP-T against fine-tuning steps, a curve for each method with more than one snapshot."""
    metrics = [metric for metric in ("dino", "clip_i", "clip_t") if metric in results.metrics]
    figure = Figure(figsize=(3.1 * len(metrics) + 1.0, 3.1), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for number, (method, points) in enumerate(curves(results).items()):
        for axes, metric in zip(panels, metrics, strict=True):
            curve = {step: results.estimates[row, metric] for step, row in points if (row, metric) in results.estimates}
            axes.errorbar(
                list(curve), [estimate.mean for estimate in curve.values()], yerr=bars(list(curve.values())),
                color=COLOURS[number % len(COLOURS)], marker=MARKERS[number % len(MARKERS)], capsize=2, elinewidth=1,
                label=title(method),
            )  # fmt: skip
    for axes, metric in zip(panels, metrics, strict=True):
        axes.set(xlabel="fine-tuning steps", ylabel=METRIC_TITLES[metric])
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=max(1, len(labels)))
    return figure


def curves(results: Results) -> dict[str, list[tuple[int, str]]]:
    """Method -> its rows as (steps, row) by steps, for methods whose rows have different numbers of steps."""
    by_method: dict[str, dict[int, str]] = {}
    for row in results.rows:
        settings = provenance(results, row)
        if settings["method"] is not None and settings["steps"] is not None:
            folder = row.rpartition("/")[0]
            points = by_method.setdefault(f"{folder}/{settings['method']}".lstrip("/"), {})
            points.setdefault(int(settings["steps"]), row)
    return {method: sorted(points.items()) for method, points in by_method.items() if len(points) > 1}


def _plot(name: str, heading: str, note: str, figure: Figure) -> Plot:
    """The figure as PNG and SVG bytes, without date or version."""
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return Plot(name, heading, note, png.getvalue(), svg.getvalue())


def _generated_rows(results: Results) -> list[str]:
    return [row for row in results.rows if row not in ORACLE_ROWS]


def _styled(results: Results) -> dict[str, tuple[str, str]]:
    """Row -> colour and marker; the ground truth is grey, so that methods keep their colours without it."""
    rows = [row for row in _generated_rows(results) if row != GROUND_TRUTH]
    styles = {row: (COLOURS[n % len(COLOURS)], MARKERS[n % len(MARKERS)]) for n, row in enumerate(rows)}
    return {**({GROUND_TRUTH: (GREY, "*")} if GROUND_TRUTH in results.rows else {}), **styles}


def bars(figures: Sequence[Estimate]) -> np.ndarray | None:
    """(2, n) distances from the means down and up to the intervals' ends; None where there is no interval."""
    ends = np.array([(figure.mean, figure.low, figure.high) for figure in figures], dtype=np.float64).T
    if not figures or np.isnan(ends).any():
        return None
    mean, low, high = ends
    return np.maximum(0.0, [mean - low, high - mean])
