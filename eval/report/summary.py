"""Scored folders -> everything that their tables, plots and report show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import pandas as pd

from bdkit.utils.errors import InputError
from dreambench.suites import Suite
from eval.report.statistics import (
    Coverage,
    Estimate,
    coverage,
    differences,
    estimates,
    rank_correlations,
    split_prompt_kinds,
    subject_means,
)
from eval.results_dir import GROUND_TRUTH, REAL, REAL_WITH_SELF, ImageId, load_saved_suite, read_run
from eval.score.metrics import METRICS
from eval.score.protocols import PROTOCOLS, check_one_protocol
from eval.score.scores_file import COLUMNS, ORACLE_ROWS, read_nearest, read_scores

NOT_STATED = "not stated"
TITLES = {
    REAL: "Real images (no self-pairs), headline",
    REAL_WITH_SELF: "Real images (with self-pairs)",
    GROUND_TRUTH: "Ground truth (drawn by the mini world)",
    "base": "Base model, not personalised",
    "textual-inversion": "Textual Inversion",
    "dreambooth-100": "DreamBooth, 100 steps",
    "dreambooth-300": "DreamBooth, 300 steps",
    "dreambooth": "DreamBooth",
    "dreambooth-from-base-100": "DreamBooth from the base, 100 steps",
    "dreambooth-from-base-300": "DreamBooth from the base, 300 steps",
    "dreambooth-from-base": "DreamBooth from the base",
    "dreambooth-prior": "DreamBooth with prior preservation",
    "dreambooth-lora": "DreamBooth-LoRA",
    "custom-diffusion": "Custom Diffusion",
    "re-imagen": "Re-Imagen",
    "blip-diffusion": "BLIP-Diffusion",
    "blip-diffusion-zero-shot": "BLIP-Diffusion, zero-shot",
    "blip-diffusion-finetuned": "BLIP-Diffusion, fine-tuned",
}
KIND_TITLES = {
    "prompt_right_context": "Context right",
    "prompt_right_outfit": "Outfit right",
    "prompt_right_property": "Property right",
}
METRIC_TITLES = {**{name: metric.title for name, metric in METRICS.items()}, **KIND_TITLES}


@dataclass(frozen=True, kw_only=True)
class Results:
    """Scored folders, summed up.

    suite, run: of the first folder; scores: of all folders together
    rows: in the table's order; estimates: (row, metric) -> figure; coverage: row -> how much of it was scored
    runs: row -> run.json of its own folder
    nearest: image -> the place of the reference that is most like it, where its folder's scoring wrote that
    """

    suite: Suite
    run: dict[str, Any]
    runs: dict[str, dict[str, Any]]
    scores: pd.DataFrame
    rows: list[str]
    metrics: list[str]
    estimates: dict[tuple[str, str], Estimate]
    coverage: dict[str, Coverage]
    differences: pd.DataFrame
    correlations: pd.DataFrame
    nearest: dict[ImageId, int]

    @property
    def protocol(self) -> str:
        """The name of the protocol that all figures were made with."""
        return str(self.run.get("scoring", {}).get("protocol", NOT_STATED))


@dataclass(frozen=True)
class _Folder:
    out: Path
    suite: Suite
    run: dict[str, Any]
    scores: pd.DataFrame
    protocols: tuple[str, ...]


def summarise(*outs: Path) -> Results:
    """Everything the table and the report need, of one scored folder or of several together.

    A row name of several folders gets its folder's name before it; equal oracles are listed once.

    Raises InputError when two folders differ in suite or protocol, and when images are missing that were not allowed
    to be.
    """
    folders = [_read_folder(out) for out in outs]
    suite = folders[0].suite
    for other in folders[1:]:
        if other.suite != suite:
            raise InputError(
                f"{outs[0]} answers suite {suite.name} ({suite.hash}), {other.out} suite {other.suite.name} "
                f"({other.suite.hash}); one table is of one suite"
            )
    check_one_protocol({str(folder.out): folder.protocols for folder in folders})
    allow_missing = any(folder.run.get("scoring", {}).get("allow_missing") for folder in folders)
    scores, runs = _join(folders)
    covered = coverage(scores, suite)
    for row, row_coverage in covered.items():
        if not row_coverage.complete and not allow_missing:
            raise InputError(
                f"the scores of {row} hold {row_coverage.n_images} of {row_coverage.n_expected} images; score again, "
                "with --allow-missing if images are missing"
            )
    means = subject_means(split_prompt_kinds(scores, suite), allow_missing)
    order = [REAL, REAL_WITH_SELF, GROUND_TRUTH, *runs]
    return Results(
        suite=suite,
        run=folders[0].run,
        runs=runs,
        scores=scores,
        rows=[row for row in dict.fromkeys(order) if row in covered],
        metrics=[metric for metric in METRIC_TITLES if metric in set(means["metric"])],
        estimates=estimates(means),
        coverage=covered,
        differences=differences(means, allow_missing),
        correlations=rank_correlations(scores),
        nearest=read_nearest(outs[0]) if len(outs) == 1 else {},
    )


def folder_key(out: Path) -> tuple[str, str, str]:
    """A scored folder's suite, the suite's hash and the protocol: what two folders must share to stand in one table."""
    folder = _read_folder(out)
    check_one_protocol({str(out): folder.protocols})
    return folder.suite.name, folder.suite.hash, folder.protocols[0]


def provenance(results: Results, row: str) -> dict[str, Any]:
    """What a row was made with; None where its program left no record."""
    run, row_coverage = results.runs[row], results.coverage[row]
    entry = run.get("rows", {}).get(row.rpartition("/")[2], {})
    settings: Mapping[str, Any] = entry.get("settings", {})
    scoring = run.get("scoring", {})
    steps = settings.get("steps") if entry.get("snapshot") is None else entry["snapshot"]
    steps = steps if isinstance(steps, int) else None  # a class of one's own may call anything "steps"
    if chosen := fit_steps(run, row.rpartition("/")[2]):
        steps = round(mean(chosen))  # each fit's own
    seeds = run.get("seed_sets") if entry or row == GROUND_TRUTH else None
    versions = run.get("versions") or scoring.get("versions", {})
    return {
        "method": entry.get("method"),
        "n_images": row_coverage.n_images,
        "n_expected": row_coverage.n_expected,
        "n_subjects": row_coverage.n_subjects,
        "seed_sets": None if seeds is None else " ".join(map(str, seeds)),
        "steps": steps,
        "learning_rate": _text(_first(settings, "learning_rate", "lr")) if steps else None,
        "guidance": _text(_first(settings, "guidance_scale", "guidance")),
        "scheduler": _text(settings.get("scheduler")),
        "checkpoint": _text(_first(settings, "checkpoint_hash", "checkpoint")),
        "protocol": scoring.get("protocol"),
        "suite": results.suite.name,
        "suite_hash": results.suite.hash,
        "device": run.get("device") if entry else None,
        "versions": " ".join(f"{name}={number}" for name, number in versions.items()),
    }


def fit_steps(run: Mapping[str, Any], row: str) -> list[int]:
    """The steps that each fit of a row chose itself, of the run's seed sets; empty for fixed steps."""
    found = run.get("fit_steps", {}).get(row, {})
    now = {f"seed{seed_set}" for seed_set in run.get("seed_sets", ())}
    return [steps for fit, steps in found.items() if fit.partition("/")[0] in now]


def row_seconds(results: Results, row: str) -> float | None:
    """Seconds from a subject's references to the images of one prompt, None where the run did not measure them: the
    median fit, and the median drawing of an image times the suite's images a prompt. Of a snapshot the fit is counted
    in proportion to its steps.
    """
    run, name = results.runs[row], row.rpartition("/")[2]
    fits, draws = (run.get(key, {}).get(name) for key in ("fit_seconds", "draw_seconds"))
    if not fits or not draws:
        return None
    entry = run["rows"][name]
    steps = entry.get("settings", {}).get("steps")
    share = entry["snapshot"] / steps if entry.get("snapshot") is not None and steps else 1.0
    return float(median(fits) * share + median(draws) * results.suite.samples_per_prompt)


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


def title(row: str) -> str:
    """A row's name as people read it; a folder before it stays."""
    folder, slash, name = row.rpartition("/")
    return f"{folder}{slash}{TITLES.get(name, name)}"


def _read_folder(out: Path) -> _Folder:
    suite, run, scores = load_saved_suite(out), read_run(out), read_scores(out)
    if strange := sorted(set(scores["subject"]) - {subject.name for subject in suite.subjects}):
        raise InputError(f"{out} has scores of {strange[0]!r}, which is no subject of {suite.name}; score it again")
    stated = run.get("scoring", {}).get("protocol", NOT_STATED)
    protocols = tuple(scores["protocol"].unique()) if "protocol" in scores else (stated,)
    if len(protocols) == 1 and protocols[0] in PROTOCOLS:
        suite = PROTOCOLS[protocols[0]].apply_to(suite)
    return _Folder(out, suite, run, scores[list(COLUMNS)], protocols)


def _join(folders: Sequence[_Folder]) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """All scores in one frame, and each row's run.json, in the order of the runs."""
    parts: dict[str, list[tuple[_Folder, pd.DataFrame]]] = {}
    for folder in folders:
        by_row = {str(row): part.reset_index(drop=True) for row, part in folder.scores.groupby("method", sort=True)}
        for row in dict.fromkeys([*folder.run.get("rows", {}), *by_row]):
            known = parts.setdefault(row, []) if row in by_row else []
            if row in by_row and not any(by_row[row].equals(other) for _, other in known):
                known.append((folder, by_row[row]))
    frames, runs = [], {}
    for row, versions in parts.items():
        if row in ORACLE_ROWS and len(versions) > 1:
            raise InputError(
                f"the real images score differently in {versions[0][0].out} and {versions[1][0].out}: other photos or "
                "other weights; score one of them again"
            )
        for folder, part in versions:
            name = row if len(versions) == 1 else f"{folder.out.resolve().name}/{row}"
            if name in runs:
                raise InputError(f"two folders have the same name and both a row {row!r}; rename one folder")
            frames.append(part.assign(method=name))
            runs[name] = folder.run
    return pd.concat(frames, ignore_index=True), runs


def _first(values: Mapping[str, Any], *names: str) -> Any:
    return next((values[name] for name in names if name in values), None)


def _text(value: Any) -> str | None:
    return None if value is None else f"{value:g}" if isinstance(value, float) else str(value)
