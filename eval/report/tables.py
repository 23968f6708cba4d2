"""Scores -> tables: per method, subject, prompt and split as CSV, and the tables that people read (table.md).

`published/*.csv` holds what papers report, as printed, with source and protocol. A protocol is named where it is known;
else the file says that the figure was copied from paper to paper, or that the scoring code was not published.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from bdkit.utils.errors import InputError
from bdkit.utils.io import write_text
from eval.report import statistics, summary
from eval.report.statistics import Coverage, Estimate
from eval.report.summary import KIND_TITLES, METRIC_TITLES, Results, provenance, summarise, title
from eval.results_dir import ONE_COLOUR, REAL, REAL_WITH_SELF
from eval.score.scores_file import ORACLE_ROWS

DIFFERENCES_CSV = "differences.csv"
TABLE_MD = "table.md"
PUBLISHED = Path(__file__).parent / "published"
PAPER_FILE = "paper.csv"
NOT_MEASURED = "–"
PAPER_METRICS = ("dino", "clip_i", "clip_t")
# The first table's columns; the other metrics have a table of their own
MAIN_METRICS = (*PAPER_METRICS, "identity", "prompt_right")
# Differences that the paper's claims rest on, shown in table.md; differences.csv has all
CLAIMS = (
    ("blip-diffusion-zero-shot", "base"), ("blip-diffusion-finetuned", "blip-diffusion-zero-shot"),
    ("blip-diffusion-finetuned", "dreambooth"), ("blip-diffusion-finetuned", "dreambooth-300"),
    ("blip-diffusion-finetuned", "dreambooth-100"), ("blip-diffusion-finetuned", "textual-inversion"),
    ("dreambooth", "dreambooth-300"), ("dreambooth-300", "dreambooth-100"),
)  # fmt: skip
# Of honest images 1% are taken for copies (the metric `copied`); a row with this share or more is named
COPIES_NAMED = 0.05
PROVENANCE_TITLES = {
    "seed_sets": "Seed sets", "steps": "Steps", "learning_rate": "Learning rate", "guidance": "Guidance",
    "scheduler": "Scheduler", "checkpoint": "Checkpoint",
}  # fmt: skip


@dataclass(frozen=True)
class Section:
    """A heading, a table as text, and what to know about it, printed below it."""

    heading: str
    note: str
    head: list[str]
    lines: list[list[str]]


def make_tables(out: Path) -> Results:
    """Writes table.csv, by_subject.csv, by_prompt.csv, by_split.csv, differences.csv, correlations.csv and table.md
    from OUT's scores.
    """
    results = summarise(out)
    write_tables(results, out)
    return results


def write_tables(results: Results, out: Path, **chosen: Any) -> None:
    """Writes every table as CSV, figures with 6 decimals, and table.md; chosen: what `sections` takes."""
    tables = {
        "table.csv": summary.wide_table(results),
        "by_subject.csv": statistics.subject_table(results.scores, results.suite),
        "by_prompt.csv": statistics.prompt_table(results.scores, results.suite),
        "by_split.csv": statistics.split_table(results.scores, results.suite),
        DIFFERENCES_CSV: results.differences,
        "correlations.csv": results.correlations,
    }
    for name, table in tables.items():
        write_text(table.to_csv(index=False, float_format="%.6f", lineterminator="\n"), out / name)
    write_text(markdown(results, **chosen), out / TABLE_MD)


def read_paper() -> list[dict[str, str]]:
    """The paper's own table, one dict a row with its figures as printed, its protocol and its source."""
    return _read_csv(PUBLISHED / PAPER_FILE)


def read_published(suite: str | None = None) -> list[dict[str, str]]:
    """Every published result: the paper's table first, then the other files' by name.

    suite: only the results on this suite, or on DreamBench where there are none
    """
    others = sorted(path for path in PUBLISHED.glob("*.csv") if path.name != PAPER_FILE)
    rows = [row for path in (PUBLISHED / PAPER_FILE, *others) for row in _read_csv(path)]
    if suite is None:
        return rows
    return [row for row in rows if row["suite"] == suite] or [row for row in rows if row["suite"] == "dreambench"]


def format_figure(figure: Estimate | None, coverage: Coverage | None = None, *, signed: bool = False) -> str:
    """ "0.594 ±0.004 [0.571, 0.615]", signed "+0.594"; no ± with one seed set; " (97/100)" where images are missing."""
    if figure is None:
        return NOT_MEASURED
    spread = "" if figure.spread is None else f" ±{figure.spread:.3f}"
    form = "+z.3f" if signed else "z.3f"  # z: no "-0.000"
    interval = "" if figure.low is None or figure.high is None else f" [{figure.low:{form}}, {figure.high:{form}}]"
    missing = "" if coverage is None or coverage.complete else f" ({coverage.n_images}/{coverage.n_expected})"
    return f"{figure.mean:{form}}{spread}{interval}{missing}"


def format_difference(pair: Mapping[str, Any], n_subjects: int | None = None) -> str:
    """ "+0.029 [-0.007, +0.062]", with " (n=4)" where the number of subjects is not what the table says."""
    interval = "" if pd.isna(pair["low"]) else f" [{pair['low']:+.3f}, {pair['high']:+.3f}]"
    other = "" if n_subjects in (None, pair["n_subjects"]) else f" (n={pair['n_subjects']})"
    return f"{pair['difference']:+.3f}{interval}{other}"


def markdown(results: Results, **chosen: Any) -> str:
    """table.md; chosen: what `sections` takes."""
    parts = [f"# {results.suite.name}, protocol {results.protocol}"]
    for section in sections(results, **chosen):
        parts += [f"## {section.heading}", markdown_table(section.head, section.lines), section.note]
    return "\n\n".join(part for part in parts if part) + "\n"


def sections(
    results: Results, *, split: str | None = None, against: str | None = None, published: bool = False
) -> list[Section]:
    """The tables to show, without empty columns and empty tables.

    split: the main figures once more for each part, "live", "type" or "category"
    against: the differences of every row from that one, in place of the paper's claims
    published: all published results beside ours, in place of the paper's table
    """
    shown = [
        _main_section(results),
        _further_section(results),
        *(split_sections(results, split) if split else []),
        _against_section(results, against) if against else _differences_section(results, CLAIMS, MAIN_METRICS),
        _provenance_section(results),
        _correlations_section(results),
        _published_section(results) if published else _paper_section(),
    ]
    return [_without_empty_columns(section) for section in shown if section.lines]


def split_sections(results: Results, split: str) -> list[Section]:
    """A table of the main figures for each part of a split; by_split.csv has every figure."""
    parts = []
    for part, scores in statistics.split_scores(results.scores, results.suite, split).items():
        figures = statistics.estimates(statistics.subject_means(scores, allow_missing=True))
        n_subjects = scores["subject"].nunique()
        note = f"{n_subjects} subjects; intervals resample them." if n_subjects > 1 else "1 subject, so no intervals."
        columns = _figures(results, _main_metrics(results), figures)
        parts.append(Section(f"Split: {part.replace('_', ' ')}", note, *columns))
    return parts


def _main_section(results: Results) -> Section:
    suite = results.suite
    note = (
        f"{len(suite.subjects)} subjects, {suite.n_images} images a method and seed set. Each figure is the mean "
        "over a subject's images, then over subjects; in brackets its 95% bootstrap interval over subjects. "
    )
    if any(figure.spread is not None for figure in results.estimates.values()):
        note += "±: standard deviation over seed sets; a row of one seed set has none."
    else:
        note += "There is no ± (standard deviation over seed sets) because there is one seed set."
    if {REAL, REAL_WITH_SELF} <= set(results.rows):
        note += " The oracle is listed without self-pairs, which is the headline, and with them."
    if not all(coverage.complete for coverage in results.coverage.values()):
        note += " Images are missing: a figure marked n/N is the mean over n of N images; compare it with care."
    return Section(
        "Results", note + _copy_warning(results) + _colour_warning(results), *_figures(results, _main_metrics(results))
    )


def _main_metrics(results: Results) -> list[str]:
    return [metric for metric in results.metrics if metric in MAIN_METRICS] or results.metrics


def _further_section(results: Results) -> Section:
    metrics = [metric for metric in results.metrics if metric not in _main_metrics(results)]
    copied = (
        "Copied: the share of images that are nearer to a reference, as DINO sees the whole image, than 99% of the "
        "references are to each other."
    )
    return Section("Further metrics", copied if "copied" in metrics else "", *_figures(results, metrics))


def _figures(
    results: Results, metrics: Sequence[str], part: dict[tuple[str, str], Estimate] | None = None
) -> tuple[list[str], list[list[str]]]:
    """Head and lines of the figures of every row that has any. part: those of a part of the images."""
    figures, lines = part or results.estimates, []
    for row in results.rows:
        # of a part, or of one kind of prompt, the row's title alone tells what is missing
        marked = {metric: results.coverage[row] for metric in metrics if part is None and metric not in KIND_TITLES}
        if any((row, metric) in figures for metric in metrics):
            cells = [format_figure(figures.get((row, metric)), marked.get(metric)) for metric in metrics]
            lines.append([_row_title(results, row), *cells])
    return ["Method", *_titles(metrics)], lines


def _row_title(results: Results, row: str) -> str:
    coverage = results.coverage[row]
    if coverage.complete:
        return title(row)
    short = coverage.n_subjects < coverage.n_subjects_expected
    subjects = f", {coverage.n_subjects}/{coverage.n_subjects_expected} subjects" if short else ""
    return f"{title(row)} ({coverage.n_images}/{coverage.n_expected} images{subjects})"


def _copy_warning(results: Results) -> str:
    """Names the rows whose fidelity is in doubt because they copy references; empty where there are none."""
    shares = {
        row: results.estimates[row, "copied"].mean for row in results.rows if (row, "copied") in results.estimates
    }
    copiers = [row for row, share in shares.items() if share >= COPIES_NAMED and row not in ORACLE_ROWS]
    named = ", ".join(f"{title(row)} ({shares[row]:.0%})" for row in copiers)
    return named and f" WARNING, copies of the input: {named}; their DINO and CLIP-I are no sign of fidelity."


def _colour_warning(results: Results) -> str:
    """Names the rows that have images of one colour; empty where there are none."""
    named = []
    for row, run in results.runs.items():
        count = run.get("scoring", {}).get("images", {}).get(row.rpartition("/")[2], {})
        if row in results.rows and count.get(ONE_COLOUR):
            named.append(f"{title(row)} ({count[ONE_COLOUR]} of {count['scored']})")
    text = "; as a safety checker leaves them, and scored like the others"
    return f" WARNING, images of one colour: {', '.join(named)}{text}." if named else ""


def _provenance_section(results: Results) -> Section:
    scoring = results.run.get("scoring", {})
    versions = ", ".join(f"{name} {number}" for name, number in scoring.get("versions", {}).items())
    generated = f"Generated on {results.run['device']}. " if "device" in results.run else ""
    note = (
        f"Suite hash {results.suite.hash}, protocol {results.protocol}. {generated}"
        f"Scored on {scoring.get('device', 'an unknown device')} with {versions or 'unknown versions'}."
    )
    settings = {row: provenance(results, row) for row in results.rows}
    values = {name: {row[name] for row in settings.values()} - {None} for name in PROVENANCE_TITLES}
    made = [row for row in settings.values() if row["method"] is not None]
    shared_by_all = [name for name in ("seed_sets", "guidance", "scheduler") if None not in {row[name] for row in made}]
    common = [name for name in shared_by_all if len(values[name]) == 1]
    if common:
        shared = ", ".join(f"{PROVENANCE_TITLES[name].lower()} {values[name].pop()}" for name in common)
        note += f" The same in every row: {shared}."
    columns = [name for name in PROVENANCE_TITLES if name not in common]
    lines = []
    for row, of_row in settings.items():
        coverage = results.coverage[row]
        n_images = str(coverage.n_images) if coverage.complete else f"{coverage.n_images}/{coverage.n_expected}"
        cells = [NOT_MEASURED if of_row[name] is None else str(of_row[name])[:16] for name in columns]
        lines.append([title(row), n_images, *cells])
    return Section("Made with", note, ["Method", "Images", *(PROVENANCE_TITLES[name] for name in columns)], lines)


def _against_section(results: Results, against: str) -> Section:
    against = {title(row): row for row in results.rows}.get(against, against)
    if against not in results.rows:
        raise InputError(f"no row {against!r} to compare with; there are {', '.join(results.rows)}")
    pairs = [(row, against) for row in results.rows if row not in (against, *ORACLE_ROWS)]
    metrics = [metric for metric in results.metrics if metric not in KIND_TITLES]
    return _differences_section(results, pairs, metrics, f"Differences from {title(against)}, paired")


def _differences_section(
    results: Results,
    rows: Sequence[tuple[str, str]],
    metrics: Sequence[str],
    heading: str = "Differences, paired over subjects",
) -> Section:
    pairs_of_rows: list[dict[str, Any]] = results.differences.to_dict("records")  # type: ignore[assignment]
    by_pair = {(pair["method"], pair["minus"], pair["metric"]): pair for pair in pairs_of_rows}
    metrics = [metric for metric in metrics if metric in results.metrics]
    lines = []
    for method, minus in rows:
        pairs = [by_pair.get((method, minus, metric)) for metric in metrics]
        if any(pairs):
            n_subjects = next(pair["n_subjects"] for pair in pairs if pair)
            cells = [format_difference(pair, n_subjects) if pair else NOT_MEASURED for pair in pairs]
            lines.append([f"{title(method)} − {title(minus)}", *cells, str(n_subjects)])
    note = f"Each difference with its 95% bootstrap interval over subjects. {DIFFERENCES_CSV} has every pair."
    return Section(heading, note, ["Difference", *_titles(metrics), "Subjects"], lines)


def _correlations_section(results: Results) -> Section:
    rho: dict[tuple[str, str], dict[str, str]] = {}
    for metric, truth, over, value, n in results.correlations.itertuples(index=False):
        rho.setdefault((str(metric), str(truth)), {})[str(over)] = f"{value:+.2f} ({n})"
    levels = ("methods", "subjects", "images")
    lines = [
        [METRIC_TITLES[metric], METRIC_TITLES[truth], *(cells.get(level, NOT_MEASURED) for level in levels)]
        for (metric, truth), cells in rho.items()
    ]
    note = (
        "Spearman's rank correlation ρ with the mini world's ground truth, over the means of methods, of each method's "
        "subjects, or over single images; in brackets how many values."
    )
    head = ["Metric", "Truth", *(f"Over {level}" for level in levels)]
    return Section("Do the metrics follow the ground truth?", note, head, lines)


def _paper_section() -> Section:
    paper = read_paper()
    lines = [[row["title"], *(_as_printed(row, name) for name in PAPER_METRICS)] for row in paper]
    note = f"Real photos and full-size models: not comparable with the above. Source: {paper[0]['source']}."
    return Section("The paper's table", note, ["Method", *_titles(PAPER_METRICS)], lines)


def _published_section(results: Results) -> Section:
    """Ours first, then what papers report on the same benchmark, or on DreamBench for the other suites."""
    suite, metrics = results.suite.name, [metric for metric in PAPER_METRICS if metric in results.metrics]
    ours = f"ours: {results.protocol}" if results.protocol != summary.NOT_STATED else "ours, protocol not stated"
    head, figures = _figures(replace(results, rows=[row for row in results.rows if row != REAL_WITH_SELF]), metrics)
    lines = [[*line, f"{ours}, suite {suite}", "this table"] for line in figures]
    published = read_published(suite)
    for row in published:
        lines.append([row["title"], *(_as_printed(row, name) for name in metrics), row["protocol"], row["source"]])
    note = "Published figures as printed. Protocols differ, so a difference of 0.04 to 0.20 DINO may be the protocol's."
    if published[0]["suite"] != suite:
        note += f" They are for DreamBench's photos and full-size models: not comparable with {suite}."
    return Section("Published results", note, [*head, "Protocol", "Source"], lines)


def _without_empty_columns(section: Section) -> Section:
    kept = [number for number, cells in enumerate(zip(*section.lines, strict=True)) if set(cells) != {NOT_MEASURED}]
    lines = [[line[number] for number in kept] for line in section.lines]
    return replace(section, head=[section.head[number] for number in kept], lines=lines)


def _as_printed(row: dict[str, str], metric: str) -> str:
    """A published figure, with its spread where the paper has one."""
    spread = row[f"{metric}_spread"]
    return row[metric] + (f" ±{spread}" if spread else "") or NOT_MEASURED


def _titles(metrics: Sequence[str]) -> list[str]:
    return [METRIC_TITLES[metric] for metric in metrics]


def markdown_table(head: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
