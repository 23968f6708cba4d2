"""Scores -> table.csv and table.md: the paper's table with its spread, intervals and everything it was made with."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dreambench.files import write_text
from dreambench.suites import Suite
from eval.layout import GROUND_TRUTH, REAL, REAL_WITH_SELF, load_saved_suite, read_run
from eval.metrics import METRICS
from eval.score import read_scores
from eval.statistics import (
    Estimate,
    differences,
    estimate,
    rank_correlations,
    split_prompt_kinds,
    subject_means,
)

TABLE_CSV = "table.csv"
TABLE_MD = "table.md"
DIFFERENCES_CSV = "differences.csv"
CORRELATIONS_CSV = "correlations.csv"
PAPER = Path(__file__).parent / "published" / "paper.csv"
NOT_MEASURED = "–"

TITLES = {
    REAL: "Real images (no self-pairs)",
    REAL_WITH_SELF: "Real images (with self-pairs)",
    GROUND_TRUTH: "Ground truth (drawn by the mini world)",
    "base": "Base model, not personalised",
    "textual-inversion": "Textual Inversion",
    "dreambooth-100": "DreamBooth, 100 steps",
    "dreambooth-300": "DreamBooth, 300 steps",
    "dreambooth": "DreamBooth",
    "blip-diffusion-zero-shot": "BLIP-Diffusion, zero-shot",
    "blip-diffusion-finetuned": "BLIP-Diffusion, fine-tuned",
}
METRIC_TITLES = {
    **{name: metric.title for name, metric in METRICS.items()},
    "prompt_right_context": "Context right",
    "prompt_right_outfit": "Outfit right",
    "prompt_right_property": "Property right",
}
# Differences that the paper's claims rest on, shown in table.md; differences.csv has all
CLAIMS = (
    ("blip-diffusion-zero-shot", "base"),
    ("blip-diffusion-finetuned", "blip-diffusion-zero-shot"),
    ("blip-diffusion-finetuned", "dreambooth"),
    ("blip-diffusion-finetuned", "dreambooth-300"),
    ("blip-diffusion-finetuned", "dreambooth-100"),
    ("blip-diffusion-finetuned", "textual-inversion"),
    ("dreambooth", "dreambooth-300"),
    ("dreambooth-300", "dreambooth-100"),
)
PAPER_METRICS = ("dino", "clip_i", "clip_t")
CLAIM_METRICS = ("dino", "clip_i", "clip_t", "identity")


@dataclass(frozen=True)
class Results:
    """A scored folder, summed up. estimates: (row, metric) -> figure; rows in the table's order."""

    suite: Suite
    run: dict[str, Any]
    rows: list[str]
    metrics: list[str]
    estimates: dict[tuple[str, str], Estimate]
    differences: pd.DataFrame
    correlations: pd.DataFrame


def summarise(out: Path) -> Results:
    """Everything the table and the report need. Raises InputError when OUT was not scored."""
    suite, run, scores = load_saved_suite(out), read_run(out), read_scores(out)
    means = subject_means(split_prompt_kinds(scores, suite))
    there = set(means["method"])
    order = [REAL, REAL_WITH_SELF, GROUND_TRUTH, *run.get("rows", {})]
    rows = [row for row in order if row in there] + sorted(there - set(order))
    metrics = [metric for metric in METRIC_TITLES if metric in set(means["metric"])]
    found = {(row, metric): estimate(means, row, metric) for row in rows for metric in metrics}
    estimates = {key: value for key, value in found.items() if value is not None}
    return Results(suite, run, rows, metrics, estimates, differences(means), rank_correlations(scores))


def make_tables(out: Path) -> Results:
    """Writes table.csv, table.md, differences.csv and correlations.csv from OUT's scores.

    Raises InputError when OUT was not scored.
    """
    results = summarise(out)
    write_text(_csv(wide_table(results)), out / TABLE_CSV)
    write_text(_csv(results.differences), out / DIFFERENCES_CSV)
    write_text(_csv(results.correlations), out / CORRELATIONS_CSV)
    write_text(markdown(results), out / TABLE_MD)
    return results


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


def provenance(results: Results, row: str) -> dict[str, Any]:
    """What a row was made with; None where its maker left no record."""
    figure = results.estimates[row, results.metrics[0]]
    entry = results.run.get("rows", {}).get(row, {})
    settings: Mapping[str, Any] = entry.get("settings", {})
    scoring = results.run.get("scoring", {})
    steps = settings.get("steps") if entry.get("snapshot") is None else entry["snapshot"]
    seeds = results.run.get("seed_sets") if entry or row == GROUND_TRUTH else None
    made_here = bool(entry)
    versions = results.run.get("versions") or scoring.get("versions", {})
    return {
        "method": entry.get("method"),
        "n_pictures": figure.n_pictures,
        "n_subjects": figure.n_subjects,
        "seed_sets": None if seeds is None else " ".join(map(str, seeds)),
        "steps": steps,
        "learning_rate": _text(_first(settings, "learning_rate", "lr")) if steps else None,
        "guidance": _text(_first(settings, "guidance_scale", "guidance")),
        "scheduler": settings.get("scheduler"),
        "checkpoint": _first(settings, "checkpoint_hash", "checkpoint"),
        "protocol": scoring.get("protocol"),
        "suite": results.suite.name,
        "suite_hash": results.suite.hash,
        "device": results.run.get("device") if made_here else None,
        "versions": " ".join(f"{name}={number}" for name, number in versions.items()),
    }


def title(row: str) -> str:
    """A row's name as people read it."""
    return TITLES.get(row, row)


def format_figure(figure: Estimate | None) -> str:
    """ "0.594 ±0.004 [0.571, 0.615]"; "± n/a" with one seed set."""
    if figure is None:
        return NOT_MEASURED
    spread = "± n/a" if figure.spread is None else f"±{figure.spread:.3f}"
    interval = "" if figure.low is None or figure.high is None else f" [{figure.low:.3f}, {figure.high:.3f}]"
    return f"{figure.mean:.3f} {spread}{interval}"


@dataclass(frozen=True)
class Section:
    """A heading, a line of explanation, and a table as text."""

    heading: str
    note: str
    head: list[str]
    lines: list[list[str]]


def sections(results: Results) -> list[Section]:
    """The tables that table.md and report.html show; those with nothing in them left out."""
    made = [
        _main_section(results),
        _provenance_section(results),
        _claims_section(results),
        _correlations_section(results),
        _paper_section(),
    ]
    return [section for section in made if section.lines]


def markdown(results: Results) -> str:
    """table.md."""
    scoring = results.run.get("scoring", {})
    parts = [f"# {results.suite.name}, protocol {scoring.get('protocol', 'not stated')}"]
    for section in sections(results):
        parts += [f"## {section.heading}", section.note, _markdown_table(section.head, section.lines)]
    return "\n\n".join(part for part in parts if part) + "\n"


def read_paper() -> list[dict[str, str]]:
    """The paper's table, one dict a method with its figures as printed and its source."""
    with open(PAPER, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _main_section(results: Results) -> Section:
    suite = results.suite
    note = (
        f"{len(suite.subjects)} subjects, {suite.n_pictures} pictures a method and seed set. Each figure is the mean "
        "over a subject's pictures, then over subjects; ± standard deviation over seed sets (n/a with one); [95% "
        "bootstrap interval over subjects]."
    )
    lines = [
        [title(row), *(format_figure(results.estimates.get((row, metric))) for metric in results.metrics)]
        for row in results.rows
    ]
    return Section("Results", note, ["Method", *_metric_heads(results.metrics)], lines)


def _provenance_section(results: Results) -> Section:
    scoring = results.run.get("scoring", {})
    versions = ", ".join(f"{name} {number}" for name, number in scoring.get("versions", {}).items())
    generated = f"Generated on {results.run['device']}. " if "device" in results.run else ""
    note = (
        f"Suite hash {results.suite.hash}, protocol {scoring.get('protocol', 'not stated')}. {generated}"
        f"Scored on {scoring.get('device', 'an unknown device')} with {versions or 'unknown versions'}."
    )
    columns = ["n_pictures", "seed_sets", "steps", "learning_rate", "guidance", "scheduler", "checkpoint"]
    lines = []
    for row in results.rows:
        made = provenance(results, row)
        lines.append([title(row), *(NOT_MEASURED if made[name] is None else str(made[name])[:16] for name in columns)])
    head = ["Method", "Pictures", "Seed sets", "Steps", "Learning rate", "Guidance", "Scheduler", "Checkpoint"]
    return Section("Made with", note, head, lines)


def _claims_section(results: Results) -> Section:
    records: list[dict[str, Any]] = results.differences.to_dict("records")  # type: ignore[assignment]
    found = {(record["method"], record["minus"], record["metric"]): record for record in records}
    metrics = [metric for metric in CLAIM_METRICS if metric in results.metrics]
    lines = []
    for method, minus in CLAIMS:
        keys = [(method, minus, metric) for metric in metrics]
        if keys and all(key in found for key in keys):
            cells = [_difference(found[key]) for key in keys]
            lines.append([f"{title(method)} − {title(minus)}", *cells, str(found[keys[0]]["n_subjects"])])
    note = f"The difference with its 95% bootstrap interval over subjects. {DIFFERENCES_CSV} has every pair."
    head = ["Difference", *_metric_heads(metrics), "Subjects"]
    return Section("Differences, paired over subjects", note, head, lines)


def _difference(row: Mapping[str, Any]) -> str:
    if pd.isna(row["low"]):
        return f"{row['difference']:+.3f}"
    return f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def _correlations_section(results: Results) -> Section:
    lines = [
        [METRIC_TITLES[str(metric)], METRIC_TITLES[str(truth)], str(over), f"{rho:+.2f}", str(n)]
        for metric, truth, over, rho, n in results.correlations.itertuples(index=False)
    ]
    note = (
        "Spearman's rank correlation with the mini world's ground truth, over the means of methods, of each method's "
    )
    note += "subjects, or over single pictures."
    heading = "Do the metrics follow the ground truth?"
    return Section(heading, note, ["Metric", "Truth", "Over", "ρ", "n"], lines)


def _paper_section() -> Section:
    paper = read_paper()
    lines = []
    for row in paper:
        spreads = {name: f" ±{row[f'{name}_spread']}" if row[f"{name}_spread"] else "" for name in PAPER_METRICS}
        lines.append([row["title"], *((row[name] or NOT_MEASURED) + spreads[name] for name in PAPER_METRICS)])
    note = f"Real photos and full-size models: not comparable with the above. Source: {paper[0]['source']}."
    return Section("The paper's table", note, ["Method", "DINO", "CLIP-I", "CLIP-T"], lines)


def _metric_heads(metrics: list[str]) -> list[str]:
    return [METRIC_TITLES[metric] for metric in metrics]


def _first(values: Mapping[str, Any], *names: str) -> Any:
    return next((values[name] for name in names if name in values), None)


def _text(value: Any) -> str | None:
    return None if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _markdown_table(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, float_format="%.6f", lineterminator="\n")
