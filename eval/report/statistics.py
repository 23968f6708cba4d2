"""From scores to figures: means over subjects, their spread and intervals, paired differences, rank correlations.

A figure is the mean over a subject's images, then over subjects, then over seed sets. ± is the standard deviation
over independent seed sets. Intervals resample subjects, never images, so they speak of new subjects.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from bdkit.utils.errors import InputError
from dreambench.suites import Prompt, Suite
from eval.results_dir import GROUND_TRUTH
from eval.score.edit_metrics import FloatArray
from eval.score.metrics import METRICS
from eval.score.scores_file import NO_PROMPT, ORACLE_ROWS

N_RESAMPLES = 10_000
CONFIDENCE = 0.95
SEED = 0
# Which of the paper's metrics should follow which ground truth
CORRELATED = (("dino", "clip_i", "clip_t"), ("identity", "prompt_right"))
SPLITS = ("live", "type", "category")
IMAGE_KEYS = ["method", "seed_set", "subject", "prompt", "sample"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One figure. spread: None with one seed set; low and high: the 95% interval, None with one subject."""

    mean: float
    spread: float | None
    low: float | None
    high: float | None
    n_subjects: int
    n_seed_sets: int
    n_images: int


@dataclass(frozen=True)
class Coverage:
    """How many of a row's images and subjects were scored, and how many there should be."""

    n_images: int
    n_expected: int
    n_subjects: int
    n_subjects_expected: int

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.n_images >= self.n_expected


def split_prompt_kinds(scores: pd.DataFrame, suite: Suite) -> pd.DataFrame:
    """The scores with `prompt_right` given once more for each kind of prompt, as prompt_right_context, ..._outfit and
    ..._property.
    """
    judged = scores[scores["metric"] == "prompt_right"]
    names = [f"prompt_right_{prompt.kind}" for prompt in _prompts_of(judged, suite)]
    return pd.concat([scores, judged.assign(metric=names)], ignore_index=True)


def subject_means(scores: pd.DataFrame, allow_missing: bool = False) -> pd.DataFrame:
    """Mean over each subject's images: columns method, metric, seed_set, subject, value, n.

    Raises InputError when two seed sets of a method do not have the same subjects and numbers of images, unless
    images may be missing or the metric is not defined for every image.
    """
    keys = ["method", "metric", "seed_set", "subject"]
    means = scores.groupby(keys, sort=True)["value"].agg(value="mean", n="count").reset_index()
    if allow_missing:
        return means
    for (method, metric), part in means[~means["metric"].isin(_partial_metrics())].groupby(["method", "metric"]):
        counts = part.pivot(index="subject", columns="seed_set", values="n")
        if counts.isna().any(axis=None) or (counts.nunique(axis=1) > 1).any():
            raise InputError(f"the scores of {method}, {metric} are not complete; score the folder again")
    return means


def subject_values(means: pd.DataFrame, method: str, metric: str) -> pd.Series:
    """One method's value for each subject (index), the mean over its seed sets; empty when it has none."""
    part = means[(means["method"] == method) & (means["metric"] == metric)]
    return part.groupby("subject", sort=True)["value"].mean()


def estimates(means: pd.DataFrame) -> dict[tuple[str, str], Estimate]:
    """(method, metric) -> figure, for all that `subject_means` holds."""
    return {(str(key[0]), str(key[1])): _estimate(part) for key, part in means.groupby(["method", "metric"], sort=True)}


def _estimate(part: pd.DataFrame) -> Estimate:
    by_seed_set = part.groupby("seed_set", sort=True)["value"].mean().to_numpy()
    values = part.groupby("subject", sort=True)["value"].mean().to_numpy()
    low, high = interval(values)
    return Estimate(
        mean=float(values.mean()),
        spread=float(by_seed_set.std(ddof=1)) if len(by_seed_set) > 1 else None,
        low=low,
        high=high,
        n_subjects=len(values),
        n_seed_sets=len(by_seed_set),
        n_images=int(part["n"].sum()),
    )


def interval(values: FloatArray) -> tuple[float | None, float | None]:
    """The 95% percentile bootstrap interval of the mean of (n,) values, seeded; (None, None) for fewer than 2.

    Of (n, k) values, of k trainings, a resample takes k of the trainings with replacement, too.
    """
    if len(values) < 2:
        return None, None
    means = resampled_means(values)
    if means.ndim == 2:
        chosen = np.random.default_rng(SEED).integers(means.shape[1], size=means.shape)
        means = np.take_along_axis(means, chosen, axis=1).mean(axis=1)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def resampled_means(values: FloatArray) -> FloatArray:
    """(N_RESAMPLES, ...) the means over subjects of (n, ...) values in each resample; of several arrays with the same n
    each resample takes the same subjects.
    """
    means: FloatArray = _resamplings(len(values)) @ np.asarray(values, dtype=np.float64) / len(values)
    return means


def ratio_interval(values: FloatArray, over: FloatArray) -> tuple[float | None, float | None]:
    """The same for mean(values) / mean(over), both (n,) and paired: each resample takes the same subjects of both."""
    if len(values) < 2:
        return None, None
    counts = _resamplings(len(values))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile((counts @ values) / (counts @ over), [tail, 100 - tail])
    return float(low), float(high)


@lru_cache(maxsize=4)
def _resamplings(n: int) -> FloatArray:
    """(N_RESAMPLES, n): how often each of n subjects was drawn; the same for every method and metric."""
    drawn = np.random.default_rng(SEED).integers(0, n, (N_RESAMPLES, n))
    counts = np.zeros((N_RESAMPLES, n))
    np.add.at(counts, (np.arange(N_RESAMPLES)[:, None], drawn), 1.0)
    return counts


def differences(means: pd.DataFrame, allow_missing: bool = False) -> pd.DataFrame:
    """Every pair of methods and every metric, paired over subjects: columns method, minus, metric, difference, low,
    high, n_subjects, n_better (subjects on which `method` is above `minus`).

    Every pair is listed in both directions. A pair is left out where the two were not measured on the same subjects;
    with allow_missing it is taken over those subjects that both have.
    """
    rows = []
    for metric, part in means.groupby("metric", sort=True):
        values = {method: subject_values(part, str(method), str(metric)) for method in part["method"].unique()}
        for (method, first), (minus, second) in combinations(values.items(), 2):
            one, other = first, second
            if allow_missing or metric in _partial_metrics():
                both = one.index.intersection(other.index, sort=True)
                one, other = one[both], other[both]
            if one.empty or not one.index.equals(other.index):
                continue
            delta = (one - other).to_numpy()
            low, high = interval(delta)
            mirrored = (None, None) if low is None or high is None else (0.0 - high, 0.0 - low)
            n, mean = len(delta), float(delta.mean())
            rows.append((method, minus, metric, mean, low, high, n, int((delta > 0).sum())))
            rows.append((minus, method, metric, 0.0 - mean, *mirrored, n, int((delta < 0).sum())))
    columns = ["method", "minus", "metric", "difference", "low", "high", "n_subjects", "n_better"]
    return pd.DataFrame(rows, columns=columns).sort_values(columns[:3], ignore_index=True)


def _partial_metrics() -> set[str]:
    return {name for name, metric in METRICS.items() if metric.partial}


def coverage(scores: pd.DataFrame, suite: Suite) -> dict[str, Coverage]:
    """Row -> what was scored of it, over all its seed sets. The oracle's images are references and cannot be missing:
    a subject with one has no pair without itself.
    """
    counts = {}
    for row, part in scores.groupby("method", sort=True):
        images = part[IMAGE_KEYS].drop_duplicates()
        n_images, n_subjects = len(images), images["subject"].nunique()
        expected = (suite.n_images * images["seed_set"].nunique(), len(suite.subjects))
        if row in ORACLE_ROWS:
            expected = (n_images, n_subjects)
        counts[str(row)] = Coverage(n_images, expected[0], n_subjects, expected[1])
    return counts


def prompt_table(scores: pd.DataFrame, suite: Suite) -> pd.DataFrame:
    """Per row, subject and prompt: its kind and text, n images of n_expected, and a column a metric with the mean
    over samples, then over seed sets. The oracle has no prompts and no lines.
    """
    scores = scores[scores["prompt"] != NO_PROMPT]
    keys = ["method", "subject", "prompt"]
    values = scores.groupby([*keys, "metric", "seed_set"], sort=True)["value"].mean()
    table = _with_counts(values.groupby(level=[*keys, "metric"]).mean().unstack("metric"), scores, suite)
    nouns = {subject.name: subject.class_noun for subject in suite.subjects}
    prompts = _prompts_of(table, suite)
    texts = [prompt.text(nouns[name]) for prompt, name in zip(prompts, table["subject"], strict=True)]
    table.insert(3, "kind", [prompt.kind for prompt in prompts])
    table.insert(4, "text", texts)
    return table


def subject_table(scores: pd.DataFrame, suite: Suite) -> pd.DataFrame:
    """Per row and subject: whether it is a live one, n images of n_expected, and for each metric the mean over its
    images, then over seed sets, and the standard deviation over seed sets (METRIC_spread; empty with one).
    """
    by_seed_set = subject_means(scores, allow_missing=True).groupby(["method", "subject", "metric"], sort=True)["value"]
    table = by_seed_set.mean().unstack("metric")
    spreads = by_seed_set.std(ddof=1).unstack("metric")
    for number, metric in enumerate(list(table.columns)):
        table.insert(2 * number + 1, f"{metric}_spread", spreads[metric])
    table = _with_counts(table, scores, suite)
    live = {subject.name: subject.live for subject in suite.subjects}
    table.insert(2, "live", table["subject"].map(live))
    return table


def _with_counts(table: pd.DataFrame, scores: pd.DataFrame, suite: Suite) -> pd.DataFrame:
    """A table by method, subject and perhaps prompt, with n_images and n_expected, subjects in the suite's order. The
    oracle has all that it can have.
    """
    keys = [str(name) for name in table.index.names]
    images = scores[IMAGE_KEYS].drop_duplicates()
    n_seed_sets = images.groupby("method")["seed_set"].nunique()
    n_prompts = {subject.name: len(suite.prompts(subject)) for subject in suite.subjects}
    table.insert(0, "n_images", images.groupby(keys).size())
    table = table.reset_index()
    expected = table["method"].map(n_seed_sets) * suite.samples_per_prompt
    if "prompt" not in keys:
        expected *= table["subject"].map(n_prompts)
    oracle = table["method"].isin(ORACLE_ROWS)
    table.insert(len(keys) + 1, "n_expected", expected.where(~oracle, table["n_images"]))
    order = {subject.name: number for number, subject in enumerate(suite.subjects)}
    by_suite = table.sort_values(keys, key=lambda values: values.map(order) if values.name == "subject" else values)
    return by_suite.reset_index(drop=True).rename_axis(columns=None)


def _prompts_of(frame: pd.DataFrame, suite: Suite) -> list[Prompt]:
    """The prompt of each line, by its columns subject and prompt."""
    prompts = {(subject.name, prompt.index): prompt for subject in suite.subjects for prompt in suite.prompts(subject)}
    return [prompts[key] for key in zip(frame["subject"], frame["prompt"], strict=True)]


def splits_of(suite: Suite) -> list[str]:
    """The splits that a suite has, of SPLITS."""
    categorised = all(subject.category for subject in suite.subjects)
    return [split for split in SPLITS if split != "category" or categorised]


def split_scores(scores: pd.DataFrame, suite: Suite, by: str) -> dict[str, pd.DataFrame]:
    """The scores in parts that together have every image once.

    by: "live", live subjects ("live") and the others ("object"); "type", the kinds of prompts (without the oracle,
        which has none); "category", DreamBench++'s categories of subjects
    """
    if by not in SPLITS:
        raise InputError(f"unknown split {by!r}; known are {', '.join(SPLITS)}")
    if by not in splits_of(suite):
        raise InputError(f"the suite {suite.name} has no categories of subjects; split it by live or type")
    if by == "type":
        scores = scores[scores["prompt"] != NO_PROMPT]
        kinds = [prompt.kind for prompt in _prompts_of(scores, suite)]
        parts = pd.Series(kinds, index=scores.index, dtype=object)
    else:
        names = {
            subject.name: subject.category if by == "category" else "live" if subject.live else "object"
            for subject in suite.subjects
        }
        parts = scores["subject"].map(names)
    return {part: scores[parts == part] for part in dict.fromkeys(parts.tolist())}


def split_table(scores: pd.DataFrame, suite: Suite) -> pd.DataFrame:
    """Every figure of every part of every split that the suite has: columns split, part, method, metric, mean, spread,
    low, high, n_subjects, n_images. Intervals resample the part's subjects.
    """
    names = ["mean", "spread", "low", "high", "n_subjects", "n_images"]
    rows = []
    for split in splits_of(suite):
        for part, part_scores in split_scores(scores, suite, split).items():
            for key, figure in estimates(subject_means(part_scores, allow_missing=True)).items():
                rows.append((split, part, *key, *(getattr(figure, name) for name in names)))
    return pd.DataFrame(rows, columns=["split", "part", "method", "metric", *names])


def rank_correlations(scores: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation of DINO, CLIP-I and CLIP-T with the ground truth (identity, prompt right).

    Columns metric, truth, over ("methods", "subjects" or "images"), rho, n. The oracle's and the ground truth's own
    images are left out. "methods" compares the means of methods, "subjects" those of every method on every subject,
    "images" every image. Fewer than 3 values, or all the same, have no row.
    """
    generated = scores[(scores["prompt"] != NO_PROMPT) & ~scores["method"].isin([*ORACLE_ROWS, GROUND_TRUTH])]
    levels = {"methods": ["method"], "subjects": ["method", "subject"], "images": IMAGE_KEYS}
    wide = generated.pivot_table(index=IMAGE_KEYS, columns="metric", values="value", sort=True)
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
