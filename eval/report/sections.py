"""The tables that people read: headed sections of text, for table.md, report.html and the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bdkit.utils.errors import InputError
from eval.report.literature import PAPER_METRICS, format_published, read_paper, read_published
from eval.report.statistics import Coverage, Estimate, split_scores
from eval.report.summary import KIND_TITLES, METRIC_TITLES, NOT_STATED, Results, provenance, title
from eval.results_dir import REAL, REAL_WITH_SELF

DIFFERENCES_CSV = "differences.csv"
NOT_MEASURED = "–"

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
CLAIM_METRICS = ("dino", "clip_i", "clip_t", "identity")
# Of honest images 1% are taken for copies (`eval.score.metrics.copied`); a row with this share or more is named
COPIES_NAMED = 0.05
PART_TITLES = {
    "live": "live subjects",
    "object": "objects",
    "context": "prompts for a context",
    "outfit": "prompts for an outfit",
    "property": "prompts for a property",
    "photorealistic": "photorealistic prompts",
    "style_transfer": "prompts for a style",
    "imaginative": "imaginative prompts",
    "animal": "animals",
    "human": "humans",
    "style": "styles",
}


@dataclass(frozen=True)
class Section:
    """A heading, a line of explanation, and a table as text."""

    heading: str
    note: str
    head: list[str]
    lines: list[list[str]]


def sections(
    results: Results, *, split: str | None = None, against: str | None = None, published: bool = False
) -> list[Section]:
    """The tables to show; those with nothing in them left out.

    split: every figure once more for each part, "live", "type" or "category"
    against: the differences of every row from that one, in place of the paper's claims
    published: all published results beside ours, in place of the paper's table

    Raises InputError for a row that is not there, and a split that the suite does not have.
    """
    made = [
        _main_section(results),
        *(_split_sections(results, split) if split else []),
        _against_section(results, against) if against else _claims_section(results),
        _provenance_section(results),
        _correlations_section(results),
        _published_section(results) if published else _paper_section(),
    ]
    return [section for section in made if section.lines]


def markdown(results: Results, **chosen: Any) -> str:
    """table.md; chosen: what `sections` takes."""
    parts = [f"# {results.suite.name}, protocol {results.protocol}"]
    for section in sections(results, **chosen):
        parts += [f"## {section.heading}", section.note, _markdown_table(section.head, section.lines)]
    return "\n\n".join(part for part in parts if part) + "\n"


def format_figure(figure: Estimate | None, there: Coverage | None = None) -> str:
    """ "0.594 ±0.004 [0.571, 0.615]"; "± n/a" with one seed set; " (97/100)" where images of the row are missing."""
    if figure is None:
        return NOT_MEASURED
    spread = "± n/a" if figure.spread is None else f"±{figure.spread:.3f}"
    interval = "" if figure.low is None or figure.high is None else f" [{figure.low:.3f}, {figure.high:.3f}]"
    missing = "" if there is None or there.complete else f" ({there.n_images}/{there.n_expected})"
    return f"{figure.mean:.3f} {spread}{interval}{missing}"


def format_difference(row: Mapping[str, Any], n_subjects: int | None = None) -> str:
    """ "+0.029 [-0.007, +0.062]", with " (n=4)" where the number of subjects is not what the table says."""
    interval = "" if pd.isna(row["low"]) else f" [{row['low']:+.3f}, {row['high']:+.3f}]"
    other = "" if n_subjects in (None, row["n_subjects"]) else f" (n={row['n_subjects']})"
    return f"{row['difference']:+.3f}{interval}{other}"


def _row_title(results: Results, row: str) -> str:
    there = results.coverage[row]
    if there.complete:
        return title(row)
    short = there.n_subjects < there.n_subjects_expected
    subjects = f", {there.n_subjects}/{there.n_subjects_expected} subjects" if short else ""
    return f"{title(row)} ({there.n_images}/{there.n_expected} images{subjects})"


def _main_section(results: Results) -> Section:
    suite = results.suite
    note = (
        f"{len(suite.subjects)} subjects, {suite.n_images} images a method and seed set. Each figure is the mean "
        "over a subject's images, then over subjects; ± standard deviation over seed sets (n/a with one); [95% "
        "bootstrap interval over subjects]."
    )
    if {REAL, REAL_WITH_SELF} <= set(results.rows):
        note += " The oracle stands without self-pairs, which is the headline, and with them."
    if not all(there.complete for there in results.coverage.values()):
        note += " Images are missing: a figure marked n/N is the mean over n of N images, and compares with care."
    note += _copies(results)
    lines = [
        [
            _row_title(results, row),
            *(
                format_figure(results.estimates.get((row, metric)), _metric_coverage(results, row, metric))
                for metric in results.metrics
            ),
        ]
        for row in results.rows
    ]
    return Section("Results", note, ["Method", *_metric_heads(results.metrics)], lines)


def _copies(results: Results) -> str:
    """What "Copied" is, and the rows whose fidelity is in doubt for it; empty where it was not measured."""
    if "copied" not in results.metrics:
        return ""
    shares = {
        title(row): figure.mean
        for row in results.rows
        if row not in (REAL, REAL_WITH_SELF) and (figure := results.estimates.get((row, "copied")))
    }
    named = [f"{name} ({share:.0%})" for name, share in shares.items() if share >= COPIES_NAMED]
    text = (
        " Copied: the share of images that are nearer to a reference, as DINO sees the whole image, than 99% of "
        "the references are to each other."
    )
    if named:
        text += f" WARNING, copies of the input: {', '.join(named)}; their DINO and CLIP-I are no sign of fidelity."
    return text


def _metric_coverage(results: Results, row: str, metric: str) -> Coverage | None:
    """The row's coverage; for the columns of one kind of prompt the row's title tells it."""
    return None if metric in KIND_TITLES else results.coverage[row]


def _split_sections(results: Results, split: str) -> list[Section]:
    made = []
    for part, scores in split_scores(results.scores, results.suite, split).items():
        table = results.splits[(results.splits["split"] == split) & (results.splits["part"] == part)]
        figures = {(line.method, line.metric): line for line in table.itertuples(index=False)}
        metrics = [metric for metric in results.metrics if any(key[1] == metric for key in figures)]
        lines = []
        for row in results.rows:
            if any(key[0] == row for key in figures):
                cells = [_part_figure(figures.get((row, metric))) for metric in metrics]
                lines.append([_row_title(results, row), *cells])
        note = f"{scores['subject'].nunique()} subjects; intervals resample them."
        made.append(Section(f"Split: {PART_TITLES[part]}", note, ["Method", *_metric_heads(metrics)], lines))
    return made


def _part_figure(line: Any) -> str:
    if line is None:
        return NOT_MEASURED
    spread, low, high = (None if pd.isna(value) else float(value) for value in (line.spread, line.low, line.high))
    return format_figure(Estimate(mean=line.mean, spread=spread, low=low, high=high, n_subjects=line.n_subjects,
                                  n_seed_sets=0, n_images=line.n_images))  # fmt: skip


def _provenance_section(results: Results) -> Section:
    scoring = results.run.get("scoring", {})
    versions = ", ".join(f"{name} {number}" for name, number in scoring.get("versions", {}).items())
    generated = f"Generated on {results.run['device']}. " if "device" in results.run else ""
    note = (
        f"Suite hash {results.suite.hash}, protocol {results.protocol}. {generated}"
        f"Scored on {scoring.get('device', 'an unknown device')} with {versions or 'unknown versions'}."
    )
    columns = ["seed_sets", "steps", "learning_rate", "guidance", "scheduler", "checkpoint"]
    lines = []
    for row in results.rows:
        made, there = provenance(results, row), results.coverage[row]
        pictures = str(there.n_images) if there.complete else f"{there.n_images}/{there.n_expected}"
        values = [NOT_MEASURED if made[name] is None else str(made[name])[:16] for name in columns]
        lines.append([title(row), pictures, *values])
    head = ["Method", "Pictures", "Seed sets", "Steps", "Learning rate", "Guidance", "Scheduler", "Checkpoint"]
    return Section("Made with", note, head, lines)


def _claims_section(results: Results) -> Section:
    note = f"The difference with its 95% bootstrap interval over subjects. {DIFFERENCES_CSV} has every pair."
    return _differences_section(results, CLAIMS, CLAIM_METRICS, "Differences, paired over subjects", note)


def _against_section(results: Results, against: str) -> Section:
    names = {title(row): row for row in results.rows}
    against = names.get(against, against)
    if against not in results.rows:
        raise InputError(f"no row {against!r} to compare with; there are {', '.join(results.rows)}")
    pairs = [(row, against) for row in results.rows if row not in (against, REAL, REAL_WITH_SELF)]
    note = f"Each row minus {title(against)}, with its 95% bootstrap interval over subjects."
    metrics = [metric for metric in results.metrics if metric not in KIND_TITLES]
    return _differences_section(results, pairs, metrics, f"Differences from {title(against)}, paired", note)


def _differences_section(
    results: Results, pairs: Sequence[tuple[str, str]], wanted: Sequence[str], heading: str, note: str
) -> Section:
    records: list[dict[str, Any]] = results.differences.to_dict("records")  # type: ignore[assignment]
    found = {(record["method"], record["minus"], record["metric"]): record for record in records}
    metrics = [metric for metric in wanted if metric in results.metrics]
    lines = []
    for method, minus in pairs:
        there = [found.get((method, minus, metric)) for metric in metrics]
        if any(there):
            n_subjects = next(record["n_subjects"] for record in there if record)
            cells = [format_difference(record, n_subjects) if record else NOT_MEASURED for record in there]
            lines.append([f"{title(method)} − {title(minus)}", *cells, str(n_subjects)])
    return Section(heading, note, ["Difference", *_metric_heads(metrics), "Subjects"], lines)


def _correlations_section(results: Results) -> Section:
    lines = [
        [METRIC_TITLES[str(metric)], METRIC_TITLES[str(truth)], str(over), f"{rho:+.2f}", str(n)]
        for metric, truth, over, rho, n in results.correlations.itertuples(index=False)
    ]
    note = (
        "Spearman's rank correlation with the mini world's ground truth, over the means of methods, of each method's "
        "subjects, or over single images."
    )
    heading = "Do the metrics follow the ground truth?"
    return Section(heading, note, ["Metric", "Truth", "Over", "ρ", "n"], lines)


def _paper_section() -> Section:
    paper = read_paper()
    lines = [[row["title"], *(format_published(row, name) or NOT_MEASURED for name in PAPER_METRICS)] for row in paper]
    note = f"Real photos and full-size models: not comparable with the above. Source: {paper[0]['source']}."
    return Section("The paper's table", note, ["Method", *_metric_heads(PAPER_METRICS)], lines)


def _published_section(results: Results) -> Section:
    """Ours first, then what papers report on the same benchmark, or on DreamBench for the other suites."""
    there = [row for row in read_published() if row["suite"] == results.suite.name]
    rows = there or [row for row in read_published() if row["suite"] == "dreambench"]
    metrics = [metric for metric in PAPER_METRICS if metric in results.metrics]
    own = f"ours: {results.protocol}" if results.protocol != NOT_STATED else "ours, protocol not stated"
    lines = []
    for row in results.rows:
        if row != REAL_WITH_SELF:
            cells = [format_figure(results.estimates.get((row, metric)), results.coverage[row]) for metric in metrics]
            lines.append([_row_title(results, row), *cells, f"{own}, suite {results.suite.name}", "this table"])
    for published in rows:
        cells = [format_published(published, metric) or NOT_MEASURED for metric in metrics]
        lines.append([published["title"], *cells, published["protocol"], published["source"]])
    note = "Published figures as printed. Protocols differ, so a difference of 0.04 to 0.20 DINO may be the protocol's."
    if not there:
        note += f" They are for DreamBench's photos and full-size models: not comparable with {results.suite.name}."
    return Section("Published results", note, ["Method", *_metric_heads(metrics), "Protocol", "Source"], lines)


def _metric_heads(metrics: Sequence[str]) -> list[str]:
    return [METRIC_TITLES[metric] for metric in metrics]


def _markdown_table(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
