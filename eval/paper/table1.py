"""The paper's main table (Sec. 4.1): every method on every subject, its order tested pair by pair, held-out references
beside the usual score, and what papers report.

Here, in `steps` and in `search` only what runs imports models: a table and its plot are made from a CSV without them.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bdkit.utils.errors import InputError
from eval.experiments import TABLE1, TABLE1_FURTHER, BenchConfig, Row
from eval.paper.config import ReproduceConfig
from eval.paper.results_files import (
    estimate_of,
    lines_of,
    measured_metrics,
    pairs_of,
    provenance_note,
    provenance_of,
    read_csv,
    row_title,
    write_csv,
)
from eval.report.plots import COLOURS, GREY, bars
from eval.report.summary import METRIC_TITLES, Results, summarise, wide_table
from eval.report.tables import (
    MAIN_METRICS,
    NOT_MEASURED,
    PAPER_METRICS,
    format_figure,
    markdown_table,
    read_published,
)
from eval.results_dir import REAL, REAL_WITH_SELF

# Our row -> the paper's. The paper's DreamBooth starts from Stable Diffusion, the base
PAPER_ROWS = {
    REAL: "real-images",
    "textual-inversion": "textual-inversion",
    "re-imagen": "re-imagen",
    "dreambooth-from-base": "dreambooth",
    "dreambooth-from-base-100": "dreambooth-100",
    "dreambooth-from-base-300": "dreambooth-300",
    "blip-diffusion-zero-shot": "blip-diffusion-zero-shot",
    "blip-diffusion-finetuned": "blip-diffusion-finetuned",
}
# Rows that are compared; of rows of the paper, and of the base, the first has the higher DINO there, or they are level
ORDER = (
    (REAL, "blip-diffusion-finetuned"),
    ("blip-diffusion-finetuned", "blip-diffusion-zero-shot"),
    ("blip-diffusion-finetuned", "dreambooth-from-base"),
    ("blip-diffusion-finetuned", "dreambooth"),
    ("dreambooth-from-base", "blip-diffusion-zero-shot"),
    ("dreambooth", "blip-diffusion-zero-shot"),
    ("blip-diffusion-zero-shot", "re-imagen"),
    ("blip-diffusion-zero-shot", "textual-inversion"),
    ("blip-diffusion-zero-shot", "dreambooth-from-base-100"),
    ("blip-diffusion-zero-shot", "dreambooth-from-base-300"),
    ("blip-diffusion-zero-shot", "base"),
    ("re-imagen", "textual-inversion"),
    ("re-imagen", "dreambooth-from-base-300"),
    ("re-imagen", "base"),
    ("textual-inversion", "dreambooth-from-base-300"),
    ("textual-inversion", "base"),
    ("dreambooth-from-base", "dreambooth-from-base-300"),
    ("dreambooth-from-base-300", "dreambooth-from-base-100"),
    ("dreambooth", "dreambooth-300"),
    ("dreambooth-300", "dreambooth-100"),
)
MEASURED, ORDERED = "measured", "order"
# Rows that can be left out, because their weights may not be there
OPTIONAL = ("re-imagen",)
# Rows whose fits begin with images of the class: --budget small measures them only where --methods names them
COSTLY = ("dreambooth-prior", "custom-diffusion")
# The rows of the second half, beside own methods: the base shows the gap without a fit
HELD_OUT_ROWS = (
    "base",
    "dreambooth-from-base",
    "dreambooth",
    "blip-diffusion-zero-shot",
    "blip-diffusion-finetuned",
)
HELD_OUT_SUBJECTS = {"small": 2, "full": 10}  # by budget, spread evenly over the suite


def run(config: ReproduceConfig) -> Path:
    """Measures the table, resuming what was begun, and writes OUT/table1.csv."""
    from eval.bench import run_bench
    from eval.paper.held_out import run_held_out

    bench = config.bench(available_rows(config))
    held_out = _held_out_bench(bench, HELD_OUT_SUBJECTS[config.budget])
    results = summarise(run_bench(bench))
    # the usual score alone, for those who do not wait for the second half; a CSV of the same run has both already
    first_half = table1_frame(results, pd.DataFrame({"row": []}, dtype=str))
    if held_out is None or not _is_of_run(config.csv, first_half, provenance_of(results)):
        write_csv(first_half, config.csv, provenance_of(results))
    if held_out is not None:
        write_csv(table1_frame(results, run_held_out(held_out)), config.csv, provenance_of(results))
    return config.csv


def _is_of_run(path: Path, first_half: pd.DataFrame, made_with: dict[str, Any]) -> bool:
    """Whether a CSV is there, of the same rows and settings."""
    try:
        before = read_csv(path, "table1")
        before = before[before["source"] == MEASURED]
        now = first_half[first_half["source"] == MEASURED]
        same = [set(before[name].dropna()) == {made_with[name]} for name in ("suite_hash", "seed_sets", "protocol")]
        return all(same) and list(before["row"]) == list(now["row"])
    except (InputError, KeyError):
        return False


def _held_out_bench(bench: BenchConfig, most_subjects: int) -> BenchConfig | None:
    """The run of the second half; None where no row is in it, or a subject has too few references."""
    from eval.paper.held_out import too_few_references

    rows = tuple(row for row in bench.chosen_rows if row.is_own or row.name in HELD_OUT_ROWS)
    if not rows:
        return None
    subjects = most_subjects if bench.subjects is None else min(bench.subjects, most_subjects)
    seed_sets = bench.seed_sets[:1]  # the gap compares two scores of the same images
    out = bench.results_dir / "held-out"
    held_out = replace(bench, rows=rows, methods=None, out=out, subjects=subjects, seed_sets=seed_sets)
    if few := too_few_references(held_out.load_suite()):
        warnings.warn(f"held-out references are left out: {few} has too few images for them", stacklevel=2)
        return None
    return held_out


def available_rows(config: ReproduceConfig) -> tuple[Row, ...]:
    """The rows of the table that can be run; a warning names the others."""
    from bdkit.methods import METHODS, build_method

    rows, known = [], [row.name for row in (*TABLE1, *TABLE1_FURTHER)]
    if unknown := [name for name in config.methods or () if ":" not in name and name not in known]:
        raise InputError(f"unknown row {unknown[0]!r}; known are {', '.join(known)}, and classes as my_module:MyMethod")
    for row in (*TABLE1, *TABLE1_FURTHER):
        if config.methods is not None and row.name not in config.methods:
            continue
        missing = ""
        if row.name in COSTLY and config.budget == "small" and config.methods is None:
            missing = "--budget small leaves it out; `bdkit reproduce table1` measures it where --methods names it"
        elif row.method not in METHODS:
            missing = "this bdkit has no such method"
        else:
            try:
                overrides = config.with_base(row).overrides
                if row.name in OPTIONAL:
                    build_method(row.method, config.model, **overrides)
            except InputError as error:
                missing = str(error)
        if missing:
            warnings.warn(f"the row {row.name} is left out: {missing}", stacklevel=2)
        else:
            rows.append(row)
    return tuple(rows)


def table1_frame(results: Results, held_out: pd.DataFrame) -> pd.DataFrame:
    """Three kinds of lines, told apart by the column `source`: "measured", a row of the table with its figures, the
    held-out ones and the paper's; "order", the difference of two rows (`row` - `minus`); else a published result,
    and `source` cites it.
    """
    measured = wide_table(results).merge(held_out, how="left", on="row")
    measured.insert(0, "source", MEASURED)
    measured["title"] = measured["row"].map(row_title)
    paper = {row["row"]: row for row in read_published()}
    for metric in PAPER_METRICS:
        named = [paper.get(PAPER_ROWS.get(row, ""), {}).get(metric) or None for row in measured["row"]]
        measured[f"paper_{metric}"] = [None if value is None else float(value) for value in named]
    pairs = pairs_of(results.differences)
    order: list[dict[str, Any]] = []
    for row, minus in ORDER:
        line: dict[str, Any] = {"source": ORDERED, "row": row, "minus": minus}
        for metric in (name for name in MAIN_METRICS if (row, minus, name) in pairs):
            pair = pairs[row, minus, metric]
            line |= {metric: pair["difference"], f"{metric}_low": pair["low"], f"{metric}_high": pair["high"]}
            line |= {"n_subjects": pair["n_subjects"]}
        if len(line) > 3:
            order.append(line)
    published = [
        {"source": row["source"], "row": row["row"], "title": row["title"], "protocol": row["protocol"],
         "suite": row["suite"], **{metric: float(row[metric]) for metric in PAPER_METRICS if row[metric]}}
        for row in read_published("dreambench")
    ]  # fmt: skip
    own = {"protocol": results.protocol, "suite": results.suite.name, "suite_hash": results.suite.hash}
    return pd.concat([measured, pd.DataFrame(order).assign(**own), pd.DataFrame(published)], ignore_index=True)


def table(frame: pd.DataFrame) -> str:
    """The table as Markdown, from the CSV alone."""
    measured = frame[frame["source"] == MEASURED]
    order = frame[frame["source"] == ORDERED]
    published = frame[~frame["source"].isin([MEASURED, ORDERED])]
    metrics = measured_metrics(measured, MAIN_METRICS)
    titles = dict(zip(measured["row"], measured["title"], strict=True))
    parts = [
        "# The paper's main table",
        markdown_table(
            ["Method", *_titles(metrics), "Steps", "The paper's DINO / CLIP-I / CLIP-T"],
            [_measured_line(line, metrics) for line in lines_of(measured)],
        ),
        f"{provenance_note(measured)} In brackets 95% bootstrap intervals over subjects; ±: standard deviation over "
        "seed sets. The paper's figures are of photos and full-size models." + _left_out(measured),
        "## The paper's order, paired over subjects",
        markdown_table(
            ["Row", "minus", "The paper's DINO", *_titles(metrics)],
            [
                [titles.get(line["row"], line["row"]), titles.get(line["minus"], line["minus"])]
                + [_number(of_paper, signed=True)]
                + [format_figure(estimate_of(line, metric), signed=True) for metric in metrics]
                for line, of_paper in zip(lines_of(order), paper_differences(frame), strict=True)
            ],
        ),
        "A difference in DINO of the paper's sign, with an interval that does not hold zero, agrees with it. The paper "
        "has no DreamBooth from stage 2, and no base.",
        "## References that no fit saw",
        *_held_out_part(measured),
        "## Published results",
        markdown_table(
            ["Method", *_titles(PAPER_METRICS), "Protocol", "Source"],
            [
                [line["title"], *(_number(line[metric]) for metric in PAPER_METRICS), line["protocol"], line["source"]]
                for line in lines_of(published)
            ],
        ),
        "As printed, of DreamBench's photos; protocols differ, so a difference of 0.04 to 0.20 DINO may be the "
        "protocol's.",
    ]
    return "\n\n".join(parts) + "\n"


def paper_differences(frame: pd.DataFrame) -> "pd.Series[float]":
    """The paper's difference in DINO of each line of the order; NaN where it lacks a row."""
    dino = frame[frame["source"] == MEASURED].set_index("row")["paper_dino"].astype(float)
    order = frame[frame["source"] == ORDERED].reindex(columns=["row", "minus"])  # no column where there is no line
    return order["row"].map(dino).astype(float) - order["minus"].map(dino).astype(float)


def _left_out(measured: pd.DataFrame) -> str:
    """Names the table's rows that were not measured."""
    missing = [row.name for row in (*TABLE1, *TABLE1_FURTHER) if row.name not in set(measured["row"])]
    return f" Not measured: {', '.join(missing)}; --methods names rows to measure." if missing else ""


def _held_out_part(measured: pd.DataFrame) -> list[str]:
    metrics = [name.removesuffix("_gap") for name in map(str, measured) if name.endswith("_gap")]
    kept = measured[measured[f"{metrics[0]}_gap"].notna()] if metrics else measured[:0]
    if kept.empty:
        return ["Not measured."]
    head = ["Method"] + [f"{METRIC_TITLES[metric]} {part}" for metric in metrics for part in ("seen", "unseen", "gap")]
    lines = []
    for line in lines_of(kept):
        cells = [line["title"]]
        for metric in metrics:
            cells += [_number(line[f"{metric}_{part}"]) for part in ("seen", "unseen")]
            cells.append(format_figure(estimate_of(line, f"{metric}_gap"), signed=True))
        lines.append(cells)
    count = kept["held_out_subjects"].iloc[0]
    note = (
        f"{count:.0f} subjects, spread evenly over the suite, and the first seed set. Fitted on all of a subject's "
        "images but the last two. The same images scored against the references that the "
        "fit saw and the two that it did not; gap: unseen - seen, paired over subjects. The base sees no reference, so "
        "its gap is the difference between the two sets of references."
    )
    return [markdown_table(head, lines), note]


def plot(frame: pd.DataFrame) -> Figure:
    """DINO, CLIP-I, CLIP-T and, in the mini world, the ground truth of every row with intervals; the paper's figures in
    grey, where they are of the same suite.
    """
    measured = frame[(frame["source"] == MEASURED) & (frame["row"] != REAL_WITH_SELF)]
    metrics = measured_metrics(measured, MAIN_METRICS)
    figure = Figure(figsize=(2.4 + 2.1 * len(metrics), 1.2 + 0.28 * len(measured)), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
    published = frame[~frame["source"].isin([MEASURED, ORDERED])]
    same_suite = set(measured["suite"]) <= set(published["suite"])
    places = np.arange(len(measured))[::-1]
    for axes, metric in zip(panels, metrics, strict=True):
        for place, line in zip(places, lines_of(measured), strict=True):
            if (of_row := estimate_of(line, metric)) is None:
                continue
            axes.errorbar(of_row.mean, place, xerr=bars([of_row]), marker="o", color=COLOURS[0], markersize=5)
            of_paper = line.get(f"paper_{metric}") if same_suite else None
            if not pd.isna(of_paper):
                axes.plot(of_paper, place, marker="o", markerfacecolor="white", markeredgecolor=GREY, markersize=5)
        axes.set(title=METRIC_TITLES[metric])
    panels[0].set_yticks(places, measured["title"].tolist())
    figure.supxlabel(f"95% intervals over subjects{'; open: the paper' if same_suite else ''}", fontsize=8)
    return figure


def _measured_line(line: dict[str, Any], metrics: Sequence[str]) -> list[str]:
    paper = [line[f"paper_{metric}"] for metric in PAPER_METRICS]
    given = " / ".join(map(_number, paper)) if any(not pd.isna(value) for value in paper) else NOT_MEASURED
    steps = NOT_MEASURED if pd.isna(line["steps"]) else f"{line['steps']:.0f}"
    return [line["title"], *(format_figure(estimate_of(line, metric)) for metric in metrics), steps, given]


def _number(value: Any, signed: bool = False) -> str:
    return NOT_MEASURED if pd.isna(value) else f"{value:{'+.3f' if signed else '.3f'}}"


def _titles(metrics: Sequence[str]) -> list[str]:
    return [METRIC_TITLES[metric] for metric in metrics]
