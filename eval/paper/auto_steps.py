"""Steps that each fit chooses from its subject's images (`--steps auto`) against fixed numbers of steps."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from eval.experiments import AUTO_STEPS, Row
from eval.paper.results_files import lines_of
from eval.paper.search import judged_by
from eval.report.statistics import interval, subject_means, subject_values
from eval.report.summary import METRIC_TITLES, Results, fit_steps
from eval.report.tables import NOT_MEASURED, markdown_table

AUTO, AGAINST = "auto", "auto-against"


def against_fixed(results: Results, auto: Row, fixed: Sequence[Row]) -> list[dict[str, Any]]:
    """One line for each fixed number of steps, `target_steps`, paired over subjects.

    score and target are auto's and the number's mean over subjects of fidelity x obedience (the metrics that the
    columns fidelity_metric and prompt_metric name), difference is score - target with its 95% bootstrap interval low
    and high, n_better counts the subjects on which auto is above, and chosen marks the best number, in hindsight on
    these images. steps, least and most are the mean, the least and the most of auto's steps.
    """
    fidelity, prompt = judged_by(results)
    means = subject_means(results.scores)

    def score(row: Row) -> pd.Series:
        return subject_values(means, row.name, fidelity) * subject_values(means, row.name, prompt)

    ours, steps = score(auto), fit_steps(results.run, auto.name)
    taken = {"steps": sum(steps) / len(steps), "least": min(steps), "most": max(steps)} if steps else {}
    lines: list[dict[str, Any]] = []
    for row in fixed:
        theirs = score(row)
        change = (ours - theirs).to_numpy()
        low, high = interval(change)
        lines.append({
            "source": AGAINST, "name": AUTO_STEPS, "fidelity_metric": fidelity, "prompt_metric": prompt, **taken,
            "target_steps": row.snapshot, "score": ours.mean(), "target": theirs.mean(), "difference": change.mean(),
            "low": low, "high": high, "n_better": int((change > 0).sum()), "n_subjects": len(change),
            "checkpoint": None, "n_images": None,
        })  # fmt: skip
    best = max((line["target"] for line in lines), default=None)
    return [{**line, "chosen": line["target"] == best} for line in lines]


def auto_part(found: pd.DataFrame) -> list[str]:
    """The table of `against_fixed` as Markdown, and a note, from the CSV alone."""
    first = found.iloc[0]
    judged = " x ".join(METRIC_TITLES[first[name]] for name in ("fidelity_metric", "prompt_metric"))
    taken = "" if pd.isna(first["steps"]) else f", {first['least']:.0f} to {first['most']:.0f} of them"
    lines = []
    for line in lines_of(found):
        change = "" if pd.isna(line["low"]) else f" [{line['low']:+.3f}, {line['high']:+.3f}]"
        lines.append(
            [f"{line['target_steps']:.0f}{' (best)' if line['chosen'] else ''}", f"{line['target']:.3f}",
             f"{line['difference']:+.3f}{change}", f"{line['n_better']:.0f} of {line['n_subjects']:.0f}"]
        )  # fmt: skip
    steps = NOT_MEASURED if pd.isna(first["steps"]) else f"{first['steps']:.0f}"
    head = ["Fixed steps", "Score", "Auto's score minus it", "Subjects on which auto is above"]
    return [
        f"Auto: {steps} steps in the mean{taken}, score {first['score']:.3f}.",
        markdown_table(head, lines),
        f"Score: {judged}, the mean over subjects; differences are paired, with 95% bootstrap intervals. The best "
        "number is the best in hindsight, on these same images, which no rule could know.",
    ]
