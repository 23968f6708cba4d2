"""Do the metrics mean what they should? Their rank correlation with a known truth, and how they react to damage.

Everything here works on a table of images, one row each, with the truth and the metrics' values in columns.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from eval.report.statistics import interval
from eval.score.edit_metrics import FloatArray

N_RESAMPLES = 1000
CONFIDENCE = 0.95
SEED = 0
# The truths of an image: is it the subject, are the prompt's noun and place both there, is the place there
TRUTHS = ("true_identity", "true_prompt", "true_place")
# shares of images that obey the prompt, of the made-up methods
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
# A metric reacts where it moves by more than this part of what it moves when its target is lost altogether
PART = 0.25
# A truth that moves by less stays as it is
STAYS = 0.05


def correlations(images: pd.DataFrame, metrics: Sequence[str], truths: Sequence[str]) -> pd.DataFrame:
    """Spearman's rank correlation of every metric with every truth, over single images.

    images: columns subject, kind (of prompt), the truths and the metrics

    Columns metric, truth, prompts ("all" or one kind), over ("images"), rho, low, high (95% bootstrap over subjects),
    n, n_subjects. NaN values of a metric are left out; where a metric or a truth does not vary, rho is NaN.
    """
    rows = []
    for kind in ("all", *sorted(images["kind"].unique())):
        part = images if kind == "all" else images[images["kind"] == kind]
        # metrics with values for the same images are ranked together
        by_images: dict[bytes, list[str]] = {}
        for metric in metrics:
            by_images.setdefault(part[metric].notna().to_numpy().tobytes(), []).append(metric)
        for together in by_images.values():
            known = part[part[together[0]].notna()]
            if len(known):
                rows += _correlate(known, together, truths, kind)
    return pd.DataFrame(rows, columns=_COLUMNS)


def correlations_within(images: pd.DataFrame, metrics: Sequence[str], truths: Sequence[str]) -> pd.DataFrame:
    """The same over one subject's images at a time: the mean of the subjects' rank correlations, with its 95%
    bootstrap interval over subjects ("within subjects"). Subjects whose values do not vary are left out.

    A metric whose level depends on the subject can follow the truth for each of them and not over all.
    """
    rows = []
    for metric in metrics:
        known = images.dropna(subset=[metric])
        groups = [part[[metric, *truths]].to_numpy(dtype=np.float64) for _, part in known.groupby("subject")]
        rho = np.concatenate([_spearman(table, 1) for table in groups])
        for t, truth in enumerate(truths):
            finite = rho[np.isfinite(rho[:, t]), t]
            if len(finite):
                line = (metric, truth, "all", "within subjects", finite.mean(), *interval(finite))
                rows.append((*line, len(known), len(finite)))
    return pd.DataFrame(rows, columns=_COLUMNS)


def method_correlations(images: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """The same over the means of made-up methods: one for each step of identity and each share of obeyed prompts.

    images: columns subject, step (of identity), true_identity, true_prompt (0 or 1) and the metrics; every subject
        has each step both with obeyed and with ignored prompts

    The truths are the means of true_identity and of true_prompt. A benchmark ranks methods by such means, so this is
    what its table rests on.
    """
    subjects = sorted(images["subject"].unique())
    columns = [*metrics, "true_identity"]
    cells = images.groupby(["subject", "step", "true_prompt"])[columns].mean().reindex(subjects, level="subject")
    steps = sorted(images["step"].unique())
    values = cells.to_numpy(dtype=np.float64).reshape(len(subjects), len(steps), 2, len(columns))
    shares = np.tile(SHARES, len(steps))

    def rho(rows: np.ndarray) -> FloatArray:
        means = np.nanmean(values[rows], axis=0)
        methods = np.concatenate([[(1 - share) * step[0] + share * step[1] for share in SHARES] for step in means])
        truths = np.stack([methods[:, -1], shares], axis=1)
        return _spearman(np.column_stack([methods[:, :-1], truths]), len(metrics))

    everyone = np.arange(len(subjects))
    point, rng = rho(everyone), np.random.default_rng(SEED)
    drawn = np.stack([rho(rng.choice(everyone, len(everyone))) for _ in range(N_RESAMPLES)])
    rows = []
    for m, metric in enumerate(metrics):
        for t, truth in enumerate(TRUTHS[:2]):
            low, high = _percentiles(drawn[:, m, t])
            rows.append((metric, truth, "all", "methods", point[m, t], low, high, len(shares), len(subjects)))
    return pd.DataFrame(rows, columns=_COLUMNS)


def reactions(images: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """How each metric reacts to each damage: the paired difference to the undamaged image.

    images: columns subject, case (one undamaged image each), damage, strength (0: undamaged), the truths and the
        metrics

    Columns damage, strength, metric, change with low and high (mean over subjects, 95% bootstrap over them), preferred
    (how often the metric sets the damaged image above the undamaged one; a tie is half), the changes of the truths, n
    (images), n_subjects.
    """
    whole = images[images["strength"] == 0].set_index("case")
    rows = []
    damaged = images[images["strength"] > 0]
    for (damage, strength), part in damaged.groupby(["damage", "strength"], sort=False):
        before = whole.loc[part["case"]]
        truth = [float((part[name].to_numpy() - before[name].to_numpy()).mean()) for name in TRUTHS]
        for metric in metrics:
            delta = pd.Series(part[metric].to_numpy() - before[metric].to_numpy(), index=part["subject"].to_numpy())
            delta = delta.dropna()
            if delta.empty:
                continue
            by_subject = delta.groupby(level=0).mean().to_numpy()
            low, high = interval(by_subject)
            preferred = float(np.where(np.abs(delta) < 1e-9, 0.5, delta > 0).mean())
            line = (damage, strength, metric, float(by_subject.mean()), low, high, preferred)
            rows.append((*line, *truth, len(delta), len(by_subject)))
    names = ["damage", "strength", "metric", "change", "low", "high", "preferred", *TRUTHS]
    return pd.DataFrame(rows, columns=[*names, "n", "n_subjects"])


def verdicts(reacted: pd.DataFrame, targets: dict[str, str], yardsticks: dict[str, str]) -> pd.DataFrame:
    """What each metric makes of each damage at full strength.

    targets: metric -> the truth that it should follow, of TRUTHS
    yardsticks: truth -> the damage that takes that truth, and little else, away

    Columns damage, metric, target, truth (its change), change, low, high, relative (the change of truth that the
    metric's change stands for, by the yardstick), preferred, verdict:

    - right: the truth falls and so does the metric, or the truth stays and the metric moves by no more than PART of
      what it moves under the yardstick
    - fooled: the truth falls, the metric does not (its interval reaches 0 or above)
    - weak: it falls, but by less than PART of what it loses for the same loss of truth under the yardstick
    - distracted: the truth stays, the metric falls by more than PART of the yardstick
    - rewarded: the truth stays, the metric rises by more than PART of the yardstick
    - no yardstick: the metric does not react to the yardstick itself (its interval reaches 0)
    """
    strongest = reacted[reacted["strength"] == reacted.groupby("damage")["strength"].transform("max")]
    table = {(row["damage"], row["metric"]): row for row in strongest.to_dict("records")}
    rows = []
    for damage in dict.fromkeys(strongest["damage"]):
        for metric, target in targets.items():
            change, unit = table.get((damage, metric)), table.get((yardsticks[target], metric))
            if change is None or unit is None:
                continue
            truth = change[target]
            usable = unit["high"] is not None and unit["high"] < 0
            per_truth = unit["change"] / unit[target]
            relative = change["change"] / per_truth if usable else float("nan")
            verdict = _verdict(truth, change, relative, unit[target]) if usable else "no yardstick"
            line = (damage, metric, target, truth, change["change"], change["low"], change["high"], relative)
            rows.append((*line, change["preferred"], verdict))
    names = ["damage", "metric", "target", "truth", "change", "low", "high", "relative", "preferred", "verdict"]
    return pd.DataFrame(rows, columns=names)


def _verdict(truth: float, change: dict, relative: float, lost: float) -> str:
    """relative: the change of truth that the metric's change would stand for; lost: the yardstick's change of truth."""
    enough = PART * abs(lost)
    if truth < -STAYS:
        if change["high"] >= 0:
            return "fooled"
        return "weak" if relative > PART * truth else "right"
    if relative < -enough and change["high"] < 0:
        return "distracted"
    return "rewarded" if relative > enough and change["low"] > 0 else "right"


def _correlate(part: pd.DataFrame, metrics: Sequence[str], truths: Sequence[str], kind: str) -> list[tuple]:
    codes = pd.factorize(part["subject"])[0]
    table = part[[*metrics, *truths]].to_numpy(dtype=np.float64)
    point = _spearman(table, len(metrics))
    drawn = np.stack([_spearman(table[index], len(metrics)) for index in _resampled_rows(codes)])
    rows = []
    for m, metric in enumerate(metrics):
        for t, truth in enumerate(truths):
            low, high = _percentiles(drawn[:, m, t])
            rows.append((metric, truth, kind, "images", point[m, t], low, high, len(part), len(np.unique(codes))))
    return rows


_COLUMNS = ["metric", "truth", "prompts", "over", "rho", "low", "high", "n", "n_subjects"]


def _spearman(table: FloatArray, n_metrics: int) -> FloatArray:
    """(m, t) rank correlation of the first m columns of (n, m + t) with the other t; NaN where one is constant."""
    ranks = rankdata(table, axis=0)
    ranks -= ranks.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        ranks /= np.sqrt((ranks**2).sum(axis=0))
    return np.asarray(ranks[:, :n_metrics].T @ ranks[:, n_metrics:])


def _resampled_rows(codes: np.ndarray) -> list[np.ndarray]:
    """Rows of N_RESAMPLES bootstrap samples of whole subjects."""
    rows = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
    rng = np.random.default_rng(SEED)
    drawn = rng.integers(0, len(rows), (N_RESAMPLES, len(rows)))
    return [np.concatenate([rows[subject] for subject in sample]) for sample in drawn]


def _percentiles(values: FloatArray) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return float("nan"), float("nan")
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
