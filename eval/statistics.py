"""From scores to figures: means over subjects, their spread and intervals, paired differences, rank correlations.

A figure is the mean over a subject's pictures, then over subjects, then over seed sets. ± is the standard deviation
over independent seed sets. Intervals resample subjects, never pictures, so they speak of new subjects.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, spearmanr

from dreambench.errors import InputError
from dreambench.suites import Suite
from eval.layout import GROUND_TRUTH
from eval.metrics.base import FloatArray
from eval.score import NO_PROMPT, ORACLE_ROWS

N_RESAMPLES = 10_000
CONFIDENCE = 0.95
SEED = 0
# Which of the paper's metrics should follow which ground truth
CORRELATED = (("dino", "clip_i", "clip_t"), ("identity", "prompt_right"))


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One figure. spread: None with one seed set; low and high: the 95% interval, None with one subject."""

    mean: float
    spread: float | None
    low: float | None
    high: float | None
    n_subjects: int
    n_seed_sets: int
    n_pictures: int


def split_prompt_kinds(scores: pd.DataFrame, suite: Suite) -> pd.DataFrame:
    """The scores with `prompt_right` given once more for each kind of prompt, as prompt_right_context, ..._outfit and
    ..._property.
    """
    kinds = {
        (subject.name, prompt.index): prompt.kind for subject in suite.subjects for prompt in suite.prompts(subject)
    }
    judged = scores[scores["metric"] == "prompt_right"]
    keys = zip(judged["subject"], judged["prompt"], strict=True)
    return pd.concat([scores, judged.assign(metric=[f"prompt_right_{kinds[key]}" for key in keys])], ignore_index=True)


def subject_means(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean over each subject's pictures: columns method, metric, seed_set, subject, value, n.

    Raises InputError when two seed sets of a method do not have the same subjects and numbers of pictures.
    """
    keys = ["method", "metric", "seed_set", "subject"]
    means = scores.groupby(keys, sort=True)["value"].agg(value="mean", n="count").reset_index()
    for (method, metric), part in means.groupby(["method", "metric"]):
        counts = part.pivot(index="subject", columns="seed_set", values="n")
        if counts.isna().any(axis=None) or (counts.nunique(axis=1) > 1).any():
            raise InputError(f"the scores of {method}, {metric} are not complete; score the folder again")
    return means


def subject_values(means: pd.DataFrame, method: str, metric: str) -> pd.Series:
    """One method's value for each subject (index), the mean over its seed sets; empty when there is none."""
    part = means[(means["method"] == method) & (means["metric"] == metric)]
    return part.groupby("subject", sort=True)["value"].mean()


def estimate(means: pd.DataFrame, method: str, metric: str) -> Estimate | None:
    """The figure of one method and metric from `subject_means`; None where it was not measured."""
    part = means[(means["method"] == method) & (means["metric"] == metric)]
    if part.empty:
        return None
    by_seed_set = part.groupby("seed_set", sort=True)["value"].mean().to_numpy()
    values = subject_values(means, method, metric).to_numpy()
    low, high = interval(values)
    return Estimate(
        mean=float(values.mean()),
        spread=float(by_seed_set.std(ddof=1)) if len(by_seed_set) > 1 else None,
        low=low,
        high=high,
        n_subjects=len(values),
        n_seed_sets=len(by_seed_set),
        n_pictures=int(part["n"].sum()),
    )


def interval(values: FloatArray) -> tuple[float | None, float | None]:
    """The 95% percentile bootstrap interval of the mean of (n,) values, seeded; (None, None) for fewer than 2."""
    if len(values) < 2:
        return None, None
    found = bootstrap(
        (np.asarray(values, dtype=np.float64),),
        np.mean,
        n_resamples=N_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def differences(means: pd.DataFrame) -> pd.DataFrame:
    """Every pair of methods and every metric, paired over subjects: columns method, minus, metric, difference, low,
    high, n_subjects, n_better (subjects on which `method` is above `minus`).

    Pairs stand in both directions. A pair is left out where the two were not measured on the same subjects.
    """
    rows = []
    for metric, part in means.groupby("metric", sort=True):
        values = {method: subject_values(part, str(method), str(metric)) for method in part["method"].unique()}
        for (method, one), (minus, other) in combinations(values.items(), 2):
            if not one.index.equals(other.index):
                continue
            delta = (one - other).to_numpy()
            low, high = interval(delta)
            mirrored = (None, None) if low is None or high is None else (-high, -low)
            n, mean = len(delta), float(delta.mean())
            rows.append((method, minus, metric, mean, low, high, n, int((delta > 0).sum())))
            rows.append((minus, method, metric, -mean, *mirrored, n, int((delta < 0).sum())))
    columns = ["method", "minus", "metric", "difference", "low", "high", "n_subjects", "n_better"]
    return pd.DataFrame(rows, columns=columns).sort_values(columns[:3], ignore_index=True)


def rank_correlations(scores: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation of DINO, CLIP-I and CLIP-T with the ground truth (identity, prompt right).

    Columns metric, truth, over ("methods", "subjects" or "pictures"), rho, n. The oracle's and the ground truth's own
    pictures are left out. "methods" compares the means of methods, "subjects" those of every method on every subject,
    "pictures" every picture. Fewer than 3 values, or all the same, have no row.
    """
    made = scores[(scores["prompt"] != NO_PROMPT) & ~scores["method"].isin([*ORACLE_ROWS, GROUND_TRUTH])]
    keys = ["method", "seed_set", "subject", "prompt", "sample"]
    levels = {"methods": ["method"], "subjects": ["method", "subject"], "pictures": keys}
    wide = made.pivot_table(index=keys, columns="metric", values="value", sort=True)
    rows = []
    for metric in CORRELATED[0]:
        for truth in CORRELATED[1]:
            if metric not in wide or truth not in wide:
                continue
            for level, by in levels.items():
                pairs = wide[[metric, truth]].dropna().groupby(level=by, sort=True).mean()
                if len(pairs) >= 3 and (pairs.nunique() > 1).all():
                    rho = float(spearmanr(pairs[metric], pairs[truth]).statistic)
                    rows.append((metric, truth, level, rho, len(pairs)))
    return pd.DataFrame(rows, columns=["metric", "truth", "over", "rho", "n"])
