"""Question 2 (Sec. 4.1): scores against fine-tuning steps and seconds, and how many times fewer steps are needed."""

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bdkit.utils.errors import InputError
from eval.experiments import AUTO_STEPS, STEP_METHODS, Row, auto_row, step_budget, step_rows
from eval.paper.auto_steps import AGAINST, AUTO, against_fixed, auto_part
from eval.paper.config import ReproduceConfig
from eval.paper.results_files import (
    estimate_of,
    lines_of,
    measured_metrics,
    provenance_note,
    provenance_of,
    read_csv,
    row_title,
    with_provenance,
    write_csv,
)
from eval.paper.search import chosen_rates
from eval.paper.speed_up import Curve, speed_up
from eval.report.plots import COLOURS, MARKERS
from eval.report.statistics import subject_means, subject_values
from eval.report.summary import METRIC_TITLES, Results, summarise, wide_table
from eval.report.tables import MAIN_METRICS, NOT_MEASURED, format_figure, markdown_table

FASTER = "blip-diffusion"
# The paper fine-tunes for 40 to 120 steps, 76 on average; the headline is the nearest measured number
HEADLINE_STEPS = 80
FIDELITY = ("dino", "clip_i", "identity")
AUTO_LABEL = "BLIP-Diffusion, --steps auto"
STAR: dict[str, Any] = {"color": "black", "marker": "*", "markersize": 9, "linestyle": ""}
CURVE, SPEED_UP, TRIAL = "curve", "speed-up", "trial"


def run(config: ReproduceConfig) -> Path:
    """Measures the curves, with the learning rates of OUT/search.csv where it is there, and writes OUT/steps.csv."""
    from eval.bench import run_bench

    names, rows = config.chosen_step_methods(), []
    if config.steps is not None and 0 not in config.steps and FASTER in names and len(names) > 1:
        raise InputError("--steps without 0: a speed-up needs the scores before the first step too; add 0")
    tuned = {name: {"learning_rate": rate} for name, rate in chosen_rates(config).items()}
    for name in names:
        steps = config.steps or step_budget(name, config.budget)
        rows += [(name, row) for row in step_rows(name, steps, **tuned.get(name, {}))]
    auto = auto_row(**tuned.get(AUTO_STEPS, {})) if AUTO_STEPS in names else None
    every = [row for _, row in rows] + ([auto] if auto else [])
    results = summarise(run_bench(config.bench(every, methods=None, ground_truth=False), report=False))
    made_with = provenance_of(results)
    frame = with_provenance(steps_frame(results, rows, auto), made_with)
    if config.search_csv.exists():
        trials = read_csv(config.search_csv, "search").drop(columns="experiment").assign(source=TRIAL)
        frame = pd.concat([frame, trials], ignore_index=True)
    write_csv(frame, config.csv, made_with)
    return config.csv


def steps_frame(results: Results, rows: list[tuple[str, Row]], auto: Row | None = None) -> pd.DataFrame:
    """Lines of the column `source`: "curve", a method (`name`) after so many steps and seconds with its figures;
    "speed-up", see `SpeedUp`, of `name` against BLIP-Diffusion in the metric `metric`; "auto", like a curve's line, of
    the fits that choose their steps; "auto-against", see `against_fixed`.

    rows: (name of STEP_METHODS, row) of the results
    auto: the row of `auto_row`, if it is among the results
    """
    table = wide_table(results).set_index("row")
    curves = table.loc[[row.name for _, row in rows]].reset_index()
    curves.insert(0, "source", CURVE)
    curves.insert(1, "name", [name for name, _ in rows])
    curves["seconds"] = [_seconds(results, row) for _, row in rows]
    means = subject_means(results.scores)
    by_name: dict[str, list[Row]] = {}
    for name, row in rows:
        by_name.setdefault(name, []).append(row)
    lines: list[dict[str, Any]] = []
    for metric in (one for one in FIDELITY if one in results.metrics and FASTER in by_name):
        curve_of = {name: _curve(means, of_name, metric) for name, of_name in by_name.items()}
        faster = curve_of.pop(FASTER)
        for target_steps in (step for step in faster.steps if step > 0):
            for name, slower in curve_of.items():
                found = vars(speed_up(faster, slower, target_steps))
                seconds = _seconds_a_step(results, by_name[name]), _seconds_a_step(results, by_name[FASTER])
                known = found["factor"] is not None and None not in seconds
                ratio = found["factor"] * seconds[0] / seconds[1] if known else None
                lines.append({"source": SPEED_UP, "name": name, "metric": metric, **found, "factor_seconds": ratio,
                              "checkpoint": None, "n_images": None})  # fmt: skip
    parts = [curves, pd.DataFrame(lines)]
    if auto is not None:
        line = table.loc[[auto.name]].reset_index()
        parts.append(line.assign(source=AUTO, name=AUTO_STEPS, seconds=_seconds(results, auto)))
        fixed = [row for row in by_name.get(AUTO_STEPS, []) if row.snapshot]
        parts.append(pd.DataFrame(against_fixed(results, auto, fixed)))
    return pd.concat(parts, ignore_index=True)


def _curve(means: pd.DataFrame, rows: list[Row], metric: str) -> Curve:
    values = pd.concat([subject_values(means, row.name, metric) for row in rows], axis=1)
    return Curve(steps=tuple(row.snapshot or 0 for row in rows), values=values.to_numpy())


def _seconds_a_step(results: Results, rows: list[Row]) -> float | None:
    """The median fit's seconds over its steps; None where the run did not measure it."""
    fits = [seconds for row in rows[:1] for seconds in results.run.get("fit_seconds", {}).get(row.name, [])]
    steps = max((row.snapshot or 0 for row in rows), default=0)
    return median(fits) / steps if fits and steps else None


def _seconds(results: Results, row: Row) -> float | None:
    """The median fit's, up to the row's snapshot; None where the run did not measure it."""
    fits = results.run.get("fit_seconds", {}).get(row.name)
    if not fits or row.snapshot is None:
        return median(fits) if fits else None
    return median(fits) * row.snapshot / row.overrides["steps"]


def table(frame: pd.DataFrame) -> str:
    """The table as Markdown, from the CSV alone."""
    curves = frame[frame["source"] == CURVE]
    found, against = frame[frame["source"] == SPEED_UP], frame[frame["source"] == AGAINST]
    metrics = measured_metrics(curves, MAIN_METRICS)
    titles = [METRIC_TITLES[metric] for metric in metrics]
    lines = [
        [row_title(line["name"]), f"{'auto: ' if line['source'] == AUTO else ''}{line['steps']:.0f}",
         _seconds_text(line["seconds"]),
         NOT_MEASURED if pd.isna(line["learning_rate"]) else f"{float(line['learning_rate']):g}",
         *(format_figure(estimate_of(line, metric)) for metric in metrics)]
        for line in lines_of(frame[frame["source"].isin([CURVE, AUTO])])
    ]  # fmt: skip
    parts = ["# Fine-tuning steps", provenance_note(curves)]
    if not found.empty:
        parts += ["## How many times fewer steps BLIP-Diffusion needs", *_speed_up_part(found)]
    if not against.empty:
        parts += ["## Steps chosen from the subject's images (`--steps auto`)", *auto_part(against)]
    parts += [
        "## Scores after each number of steps",
        markdown_table(["Method", "Steps", "Seconds", "Learning rate", *titles], lines),
        "Seconds: the median fit's share, on the machine above. In brackets 95% bootstrap intervals over subjects.",
    ]
    parts.append(_rates_note(frame))
    return "\n\n".join(parts) + "\n"


def _rates_note(frame: pd.DataFrame) -> str:
    """Where the learning rates are from."""
    curves, trials = frame[frame["source"] == CURVE], frame[frame["source"] == TRIAL]
    measured = list(dict.fromkeys(curves["name"]))
    trials = trials[trials["name"].isin(measured)]
    if trials.empty:
        return "Learning rates are the preset's; `bdkit reproduce search` tunes them on development subjects."
    note = f"Learning rates: the best of {len(trials)} trials on {trials['suite'].iloc[0]} (search.csv)"
    if untuned := [row_title(name) for name in measured if name not in set(trials["name"])]:
        note += f"; of {', '.join(untuned)} the preset's, which was not searched"
    return f"{note}."


def headline(found: pd.DataFrame) -> pd.DataFrame:
    """The speed-ups for the score after the number of steps that is nearest to the paper's."""
    nearest = min(found["target_steps"], key=lambda step: abs(step - HEADLINE_STEPS))
    return found[found["target_steps"] == nearest]


def factor_text(line: Mapping[str, Any], unit: str = "") -> str:
    """How many times the steps, with its interval, of a line of a speed-up."""
    if pd.isna(line["factor"]):
        return NOT_MEASURED
    interval = "" if pd.isna(line["low"]) else f" [{line['low']:.1f}, {line['high']:.1f}]"
    return f"{'>= ' if pd.isna(line['steps']) else ''}{line['factor']:.1f}{unit}{interval}"


def _speed_up_part(found: pd.DataFrame) -> list[str]:
    every, found, lines = found, headline(found), []
    nearest = found["target_steps"].iloc[0]
    for line in lines_of(found):
        bound = ">= " if pd.isna(line["steps"]) else ""
        lines.append(
            [row_title(line["name"]), METRIC_TITLES[line["metric"]], f"{line['target']:.3f}",
             NOT_MEASURED if bound else f"{line['steps']:.0f}", factor_text(line),
             NOT_MEASURED if pd.isna(line["reached"]) else f"{line['reached']:.0%}",
             NOT_MEASURED if pd.isna(line["factor_seconds"]) else f"{bound}{line['factor_seconds']:.1f}"]
        )  # fmt: skip
    head = ["Method", "Score", f"BLIP-Diffusion's after {nearest:.0f} steps", "Steps needed for it", "Times the steps",
            "Reached in resamples", "Times the seconds"]  # fmt: skip
    note = (
        "Steps by linear interpolation. A score that is not reached gives a lower bound (>=); one that BLIP-Diffusion "
        f"has before its first step no factor ({NOT_MEASURED}). Intervals: 95% bootstrap over subjects; without an "
        "upper end (inf) where one of the two happens in the upper resamples."
    )
    return [markdown_table(head, lines), note, *_by_target(every)]


def _by_target(found: pd.DataFrame) -> list[str]:
    """The same for every number of BLIP-Diffusion's steps, a table for each score."""
    targets = sorted(set(found["target_steps"]))
    parts = []
    for metric, of_metric in found.groupby("metric", sort=False):
        head = [f"{METRIC_TITLES[str(metric)]}: times the steps for its score after", *map("{:.0f}".format, targets)]
        lines = []
        for name, of_name in of_metric.groupby("name", sort=False):
            cells = {line["target_steps"]: factor_text(line) for line in lines_of(of_name)}
            lines.append([row_title(str(name)), *(cells.get(target, NOT_MEASURED) for target in targets)])
        parts.append(markdown_table(head, lines))
    return parts


def plot(frame: pd.DataFrame) -> Figure:
    """Every metric against steps (above) and seconds (below), a line for each method, with intervals; a star for the
    fits that choose their steps.
    """
    curves, autos = frame[frame["source"] == CURVE], lines_of(frame[frame["source"] == AUTO])
    metrics = measured_metrics(curves, MAIN_METRICS)
    axes_of = [("steps", "fine-tuning steps", 5.0)]
    if curves["seconds"].notna().all():
        axes_of.append(("seconds", "seconds of fine-tuning", 1.0))
    figure = Figure(figsize=(2.9 * len(metrics) + 0.6, 2.6 * len(axes_of) + 0.4), layout="constrained")
    panels = figure.subplots(len(axes_of), len(metrics), squeeze=False)
    for across, (column, label, linear_below) in enumerate(axes_of):
        for axes, metric in zip(panels[across], metrics, strict=True):
            for number, name in enumerate(one for one in STEP_METHODS if one in set(curves["name"])):
                points = lines_of(curves[curves["name"] == name])
                figures = [(line[column], estimate_of(line, metric)) for line in points]
                drawn = [(x, one.mean, one.low, one.high) for x, one in figures if one is not None]
                xs, means, lows, highs = zip(*drawn, strict=True)
                axes.plot(xs, means, color=COLOURS[number], marker=MARKERS[number], markersize=4, label=row_title(name))
                if None not in lows:
                    axes.fill_between(xs, lows, highs, color=COLOURS[number], alpha=0.12, linewidth=0)
            for line in autos:
                if (one := estimate_of(line, metric)) and not pd.isna(line[column]):
                    axes.plot(line[column], one.mean, label=AUTO_LABEL, **STAR)
            axes.set_xscale("symlog", linthresh=linear_below)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.set(xlabel=label, ylabel=METRIC_TITLES[metric], xlim=(0, None))
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure


def _seconds_text(seconds: float) -> str:
    return NOT_MEASURED if pd.isna(seconds) else f"{seconds:.1f}"
