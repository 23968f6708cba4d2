"""References that no fit saw: fit on all of a subject's images but the last two, score on those two.

The same images are scored against the references that were seen and against those that were not. The two sets of
references differ, too; the base, which sees neither, shows by how much.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd

from bdkit.utils.env import pick_device
from dreambench.suites import Suite
from eval.experiments import BenchConfig, protocol_of
from eval.generate.run import generate
from eval.paper.results_files import pairs_of
from eval.report.statistics import differences, estimates, subject_means
from eval.results_dir import IMAGES, REFERENCES, reference_paths, save_suite
from eval.score.features import default_cache
from eval.score.images import read_tree
from eval.score.score import ScoreOptions, load_evaluators, score_images
from eval.score.scores_file import ORACLE_ROWS

HELD_OUT = 2
SCORED = ("seen", "unseen")
METRICS = ("dino", "clip_i", "identity")


def run_held_out(config: BenchConfig) -> pd.DataFrame:
    """Fits without the last HELD_OUT references, and scores the images against both parts of the references.

    Returns one line a row of the table: for each metric METRIC_seen, METRIC_unseen, and METRIC_gap (unseen - seen,
    paired over subjects) with METRIC_gap_low and _high; and held_out_subjects, how many they were. OUT/seen and
    OUT/unseen are scored folders.
    """
    config = replace(config, held_out=HELD_OUT, ground_truth=False)
    suite, out = config.load_suite(), config.results_dir
    generate(config)
    evaluators = load_evaluators(protocol_of(config, suite), pick_device())
    rows = [(row.name, seed_set) for row in config.chosen_rows for seed_set in config.seed_sets]
    tree = read_tree(out, suite, IMAGES).of_rows(rows)
    parts = []
    for part in SCORED:
        scored = _split_references(config, suite, part)
        scores = score_images(
            tree, scored, evaluators, out / part, rows=rows, options=ScoreOptions(cache=default_cache())
        )
        parts.append(scores[~scores["method"].isin(ORACLE_ROWS) & scores["metric"].isin(METRICS)])
    return gaps(*parts)


def too_few_references(suite: Suite) -> str | None:
    """The first subject whose references are too few to hold some out of the fit."""
    return next((one.name for one in suite.subjects if one.n_references <= HELD_OUT), None)


def gaps(seen: pd.DataFrame, unseen: pd.DataFrame) -> pd.DataFrame:
    """The two scorings of the same images side by side, see `run_held_out`; column `row` names the row."""
    scores = pd.concat([seen.assign(part="seen"), unseen.assign(part="unseen")])
    lines = []
    for row, of_row in scores.groupby("method", sort=False):
        means = subject_means(of_row.assign(method=of_row["part"]))
        figures = estimates(means)
        pairs = pairs_of(differences(means))
        line: dict[str, object] = {"row": row, "held_out_subjects": of_row["subject"].nunique()}
        for metric in METRICS:
            if ("seen", metric) in figures:
                gap = pairs["unseen", "seen", metric]
                line |= {f"{metric}_{part}": figures[part, metric].mean for part in SCORED}
                line |= {f"{metric}_gap": gap["difference"]}
                line |= {f"{metric}_gap_{end}": gap[end] for end in ("low", "high")}
        lines.append(line)
    return pd.DataFrame(lines)


def _split_references(config: BenchConfig, suite: Suite, part: str) -> Suite:
    """Copies one part of the references to OUT/PART/references, and returns the suite with so many."""
    subjects = []
    for subject in suite.subjects:
        paths = reference_paths(config.results_dir, suite, subject, config.photos)
        first = len(paths) - HELD_OUT
        chosen = paths[:first] if part == "seen" else paths[first:]
        _copy(chosen, config.results_dir / part / REFERENCES / subject.name)
        subjects.append(replace(subject, n_references=len(chosen)))
    limited = replace(suite, subjects=tuple(subjects))
    save_suite(limited, config.results_dir / part)
    return limited


def _copy(paths: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        shutil.copyfile(path, folder / path.name)
