"""Learning rates of the methods of the step budgets, searched on development subjects: as many trials for each."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bdkit.utils.errors import InputError
from eval.experiments import RATE_FACTORS, SEARCH_STEPS, step_rows
from eval.paper.config import ReproduceConfig
from eval.paper.results_files import lines_of, provenance_note, provenance_of, read_csv, reading, row_title, write_csv
from eval.report.plots import COLOURS, MARKERS
from eval.report.summary import METRIC_TITLES, Results, summarise, wide_table
from eval.report.tables import markdown_table

DEVELOPMENT = "mini-dev"
# What a trial is judged by, fidelity x obedience: the mini world's truth where it is measured, else DINO and CLIP-T
JUDGED = (("identity", "prompt_right"), ("dino", "clip_t"))


def run(config: ReproduceConfig) -> Path:
    """Tries every rate of every method, and writes OUT/search.csv, which `bdkit reproduce steps` takes its rates from.

    Raises InputError for a suite that is no development suite: figures are reported on the others.
    """
    from bdkit.methods import build_method
    from eval.bench import run_bench

    if config.suite not in (None, DEVELOPMENT):
        raise InputError(f"learning rates are searched on {DEVELOPMENT}, never on a suite that is reported on")
    rows, steps = [], config.steps or SEARCH_STEPS
    for name in config.chosen_step_methods():
        (row, *_) = map(config.with_base, step_rows(name, steps))
        rate = build_method(row.method, config.model, **row.overrides).settings["learning_rate"]
        for factor in RATE_FACTORS:
            rows += [(name, one) for one in step_rows(name, steps, learning_rate=rate * factor)]
    bench = config.bench([row for _, row in rows], methods=None, suite=DEVELOPMENT, ground_truth=False)
    results = summarise(run_bench(bench, report=False))
    write_csv(search_frame(results, {row.name: name for name, row in rows}), config.csv, provenance_of(results))
    return config.csv


def search_frame(results: Results, names: dict[str, str]) -> pd.DataFrame:
    """One line a trial: name, learning_rate, fidelity and prompt (the means over `after_steps` of the metrics that the
    columns fidelity_metric and prompt_metric name), score (the mean of their products) and chosen: the best of its
    name.

    names: row -> its name of STEP_METHODS
    """
    fidelity, prompt = judged_by(results)
    table = wide_table(results)
    table = table[table["row"].isin(names)]
    table = table.assign(name=table["row"].map(names), score=table[fidelity] * table[prompt])
    table["learning_rate"] = table["learning_rate"].astype(float)
    trials = table.groupby(["name", "learning_rate"], sort=False).agg(
        fidelity=(fidelity, "mean"), prompt=(prompt, "mean"), score=("score", "mean"),
        after_steps=("steps", lambda steps: " ".join(f"{step:.0f}" for step in steps)), n_images=("n_images", "sum"),
        checkpoint=("checkpoint", "first"),
    )  # fmt: skip
    trials = trials.reset_index()
    trials["learning_rate"] = [repr(float(rate)) for rate in trials["learning_rate"]]
    best = trials.groupby("name", sort=False)["score"].idxmax()
    return trials.assign(fidelity_metric=fidelity, prompt_metric=prompt, chosen=trials.index.isin(best))


def judged_by(results: Results) -> tuple[str, str]:
    """The two metrics whose product judges a fit: of fidelity and of obedience to the prompt."""
    return next(pair for pair in JUDGED if set(pair) <= set(results.metrics))


def chosen_rates(config: ReproduceConfig) -> dict[str, float]:
    """Name of STEP_METHODS -> the chosen learning rate of OUT/search.csv; empty without that file.

    Raises InputError for rates that were searched with other weights than the config's model and its base.
    """
    from bdkit.checkpoints.load import checkpoint_hash

    if not config.search_csv.exists():
        return {}
    frame = read_csv(config.search_csv, "search")
    with reading(config.search_csv):
        chosen = frame[chosen_of(frame)]
        rates = dict(zip(chosen["name"], map(float, chosen["learning_rate"]), strict=True))
        checkpoints = {str(checkpoint).partition("+")[0] for checkpoint in frame["checkpoint"]}
        if not all(rate > 0 for rate in rates.values()):
            raise ValueError("a learning rate is missing")
    own = {checkpoint_hash(model) for model in (config.model, config.base_model) if model}
    if others := checkpoints - own:
        raise InputError(
            f"{config.search_csv} has learning rates for other weights ({', '.join(sorted(others))}) than "
            f"{config.model}; run `bdkit reproduce search` with this model, or choose another --out"
        )
    return rates


def chosen_of(frame: pd.DataFrame) -> "pd.Series[bool]":
    """Which trials are the chosen ones. Raises ValueError where the column says anything but True and False."""
    if frame["chosen"].dtype != bool:
        raise ValueError("the column chosen holds other than True and False")
    return frame["chosen"]


def table(frame: pd.DataFrame) -> str:
    """The table as Markdown, from the CSV alone."""
    names = [METRIC_TITLES[frame[f"{what}_metric"].iloc[0]] for what in ("fidelity", "prompt")]
    lines = [
        [row_title(line["name"]), f"{float(line['learning_rate']):g}",
         *(f"{line[what]:.3f}" for what in ("fidelity", "prompt", "score")), "yes" if line["chosen"] else ""]
        for line in lines_of(frame.assign(chosen=chosen_of(frame)))
    ]  # fmt: skip
    after = ", ".join(str(frame["after_steps"].iloc[0]).split())
    note = f"Means over the images after {after} steps; score: the mean of their products."
    if ends := at_an_end(frame):
        names_of = ", ".join(map(row_title, ends))
        note += f" Of {names_of} the best rate is the lowest or highest tried; others may be better."
    head = ["Method", "Learning rate", *names, "Score", "Chosen"]
    return "\n\n".join(["# Learning rates", markdown_table(head, lines), note, provenance_note(frame)]) + "\n"


def at_an_end(frame: pd.DataFrame) -> list[str]:
    """The names whose chosen learning rate is the lowest or the highest of theirs."""
    rates = frame["learning_rate"].astype(float)
    of_name = rates.groupby(frame["name"])
    ends = (rates == of_name.transform("min")) | (rates == of_name.transform("max"))
    return [str(name) for name in frame[ends & chosen_of(frame)]["name"]]


def plot(frame: pd.DataFrame) -> Figure:
    """The score against the learning rate, a line for each method."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(frame["name"].unique()):
        trials = frame[frame["name"] == name].astype({"learning_rate": float}).sort_values("learning_rate")
        style: dict[str, Any] = {"color": COLOURS[number], "marker": MARKERS[number], "label": row_title(str(name))}
        axes.plot(trials["learning_rate"], trials["score"], **style)
    axes.set(xscale="log", xlabel="learning rate", ylabel="score")
    figure.legend(loc="outside right upper")
    return figure
