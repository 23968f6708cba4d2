import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
from eval_helpers import QUICK_SUITE
from eval_helpers import make_scores as scores_of_suite
from scipy.stats import bootstrap, spearmanr

from bdkit.utils.errors import InputError
from dreambench.registry import load_suite
from eval.report import statistics as stats
from eval.score.metrics import METRICS
from eval.score.scores_file import COLUMNS

SUBJECTS = ("dog", "vase", "cat", "can", "toy", "boot")


def make_scores(methods=("a", "b"), metrics=("dino",), seed_sets=2):
    rng = np.random.default_rng(5)
    keys = product(methods, range(seed_sets), SUBJECTS, range(3), range(2), metrics)
    rows = [(*key, float(rng.random() + 0.3 * (key[0] == "b"))) for key in keys]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def plain_means(scores: pd.DataFrame, method: str, metric: str) -> dict[tuple[int, str], float]:
    by_subject: dict[tuple[int, str], list[float]] = {}
    for row in scores.itertuples(index=False):
        if row.method == method and row.metric == metric:
            by_subject.setdefault((row.seed_set, row.subject), []).append(row.value)
    return {key: sum(values) / len(values) for key, values in by_subject.items()}


def test_estimate_is_mean_over_images_then_subjects_then_seed_sets_if_there_are_any() -> None:
    scores = make_scores()
    means = plain_means(scores, "a", "dino")
    by_seed_set = [sum(means[seed_set, subject] for subject in SUBJECTS) / 6 for seed_set in range(2)]
    figure = stats.estimates(stats.subject_means(scores))["a", "dino"]
    assert figure.mean == pytest.approx(sum(by_seed_set) / 2, abs=1e-12)
    middle = sum(by_seed_set) / 2
    assert figure.spread == pytest.approx(math.sqrt(sum((value - middle) ** 2 for value in by_seed_set)), abs=1e-12)
    assert (figure.n_subjects, figure.n_seed_sets, figure.n_images) == (6, 2, 72)
    scores = make_scores(seed_sets=1)
    figure = stats.estimates(stats.subject_means(scores))["a", "dino"]
    assert figure.spread is None
    assert figure.low is not None
    alone = stats.estimates(stats.subject_means(scores[scores["subject"] == "dog"]))["a", "dino"]
    assert (alone.low, alone.high) == (None, None)
    assert stats.estimates(stats.subject_means(scores)).get(("a", "clip_t")) is None


def test_differences_are_paired_over_subjects() -> None:
    scores = make_scores()
    table = stats.differences(stats.subject_means(scores)).set_index(["method", "minus", "metric"])
    one, other = plain_means(scores, "b", "dino"), plain_means(scores, "a", "dino")
    deltas = [sum(one[seed, subject] - other[seed, subject] for seed in range(2)) / 2 for subject in sorted(SUBJECTS)]
    row = table.loc[("b", "a", "dino")]
    assert row["difference"] == pytest.approx(sum(deltas) / 6, abs=1e-12)
    assert (row["low"], row["high"]) == pytest.approx(stats.interval(np.array(deltas)), abs=1e-12)
    assert (row["n_subjects"], row["n_better"]) == (6, sum(delta > 0 for delta in deltas))
    mirrored = table.loc[("a", "b", "dino")]
    assert (mirrored["low"], mirrored["high"]) == pytest.approx(stats.interval(-np.array(deltas)), abs=1e-12)
    assert (mirrored["difference"], mirrored["low"], mirrored["high"]) == (
        -row["difference"],
        -row["high"],
        -row["low"],
    )


def test_pairing_narrows_the_interval() -> None:
    """Two methods that differ by a constant on subjects that differ much: the paired interval has no width."""
    scores = make_scores(methods=("a",), seed_sets=1)
    shifted = scores.assign(method="b", value=scores["value"] + 0.25)
    table = stats.differences(stats.subject_means(pd.concat([scores, shifted]))).set_index(["method", "minus"])
    assert table.loc[("b", "a"), "low"] == pytest.approx(0.25, abs=1e-12)
    assert table.loc[("b", "a"), "high"] == pytest.approx(0.25, abs=1e-12)


def test_unpaired_methods_are_left_out_and_uneven_seed_sets_refused() -> None:
    scores = make_scores()
    scores = scores[~((scores["method"] == "b") & (scores["subject"] == "dog"))]
    assert stats.differences(stats.subject_means(scores)).empty
    scores = make_scores()
    with pytest.raises(InputError, match="of a, dino are not complete"):
        stats.subject_means(scores.drop(index=0))


def test_prompt_right_is_split_by_kind() -> None:
    suite = load_suite("mini-quick")
    rows = []
    for subject in suite.subjects:
        for prompt in suite.prompts(subject):
            rows.append(("a", 0, subject.name, prompt.index, 0, "prompt_right", float(prompt.kind == "context")))
    split = stats.split_prompt_kinds(pd.DataFrame(rows, columns=list(COLUMNS)), suite)
    by_metric = split.groupby("metric")["value"].agg(["mean", "count"])
    assert by_metric.loc["prompt_right_context", "mean"] == 1
    assert by_metric.loc["prompt_right_property", "mean"] == 0
    assert by_metric.loc["prompt_right", "count"] == len(rows)
    assert by_metric.drop(index="prompt_right")["count"].sum() == len(rows)


def test_rank_correlations_against_a_plain_loop() -> None:
    scores = make_scores(methods=("a", "b", "c"), metrics=("dino", "clip_i", "clip_t", "identity"), seed_sets=1)
    hits = scores[scores["metric"] == "dino"].assign(metric="prompt_right")
    hits["value"] = (hits["value"] > 0.6).astype(float)
    oracle = scores.assign(method="real-images", prompt=-1, value=99.0)
    truth = scores.assign(method="ground-truth", value=-99.0)
    found = stats.rank_correlations(pd.concat([scores, hits, oracle, truth]))
    assert set(found["over"]) == {"methods", "subjects", "images"}
    for metric, other, over in [
        ("clip_t", "identity", "images"),
        ("dino", "prompt_right", "images"),
        ("dino", "identity", "subjects"),
    ]:
        groups: dict[tuple, dict[str, list[float]]] = {}
        for row in pd.concat([scores, hits]).itertuples(index=False):
            key = (row.method, row.subject) if over == "subjects" else (row.method, row.subject, row.prompt, row.sample)
            groups.setdefault(key, {}).setdefault(row.metric, []).append(row.value)
        one, two = ([sum(group[name]) / len(group[name]) for group in groups.values()] for name in (metric, other))
        line = found[(found["metric"] == metric) & (found["truth"] == other) & (found["over"] == over)].iloc[0]
        assert (line["rho"], line["n"]) == (pytest.approx(spearmanr(one, two).statistic, abs=1e-9), len(groups))


def test_constant_or_absent_truth_has_no_correlation() -> None:
    scores = make_scores(metrics=("dino", "identity"))
    flat = scores.assign(value=np.where(scores["metric"] == "identity", 1.0, scores["value"]))
    assert stats.rank_correlations(flat).empty
    assert stats.rank_correlations(scores[scores["metric"] == "dino"]).empty


def test_interval_is_scipys_and_wants_two_values() -> None:
    for n in (2, 5, 30):
        values = np.random.default_rng(n).normal(size=n)
        found = bootstrap(
            (values,),
            np.mean,
            n_resamples=stats.N_RESAMPLES,
            method="percentile",
            rng=np.random.default_rng(stats.SEED),
        ).confidence_interval
        assert stats.interval(values) == pytest.approx((found.low, found.high), abs=1e-12)
    assert stats.N_RESAMPLES >= 2000
    assert (stats.SEED, stats.interval(np.array([1.0]))) == (0, (None, None))
    assert stats.interval(np.array([3.0, 3.0, 3.0])) == (3.0, 3.0)
    one_training = np.array([1.0, 4.0, 2.0])
    assert stats.interval(one_training[:, None]) == stats.interval(one_training)


def test_missing_images_are_refused_or_counted() -> None:
    scores = scores_of_suite()
    some = scores["method"].eq("base") & scores["subject"].eq("dog") & scores["seed_set"].eq(1)
    fewer = scores[~(some & scores["prompt"].eq(scores[some]["prompt"].min()) & scores["sample"].eq(0))]
    with pytest.raises(InputError, match="of base, clip_i are not complete"):
        stats.subject_means(fewer)
    found = stats.coverage(fewer, QUICK_SUITE)
    n = 2 * QUICK_SUITE.n_images
    assert (found["base"].n_images, found["base"].n_expected, found["base"].complete) == (n - 1, n, False)
    assert found["dreambooth"].complete
    assert found["real-images"].complete
    figure = stats.estimates(stats.subject_means(fewer, allow_missing=True))["base", "dino"]
    assert figure.n_images == n - 1


def test_pairs_over_the_subjects_that_both_have_where_images_may_be_missing() -> None:
    scores = make_scores()
    fewer = scores[~((scores["method"] == "b") & (scores["subject"] == "dog"))]
    table = stats.differences(stats.subject_means(fewer, True), True).set_index(["method", "minus"])
    one, other = plain_means(fewer, "b", "dino"), plain_means(fewer, "a", "dino")
    deltas = [one[seed, name] - other[seed, name] for seed in range(2) for name in SUBJECTS if name != "dog"]
    assert table.loc[("b", "a"), "n_subjects"] == 5
    assert table.loc[("b", "a"), "difference"] == pytest.approx(sum(deltas) / len(deltas), abs=1e-12)


def test_metric_without_a_value_for_every_image_is_no_missing_image() -> None:
    scores = make_scores(metrics=("dino", "ssim_outside"))
    assert METRICS["ssim_outside"].partial
    fewer = scores.drop(index=int(scores.index[scores["metric"] == "ssim_outside"][0]))
    assert stats.estimates(stats.subject_means(fewer)).get(("a", "ssim_outside")) is not None


def plain_mean(scores: pd.DataFrame, **wanted: object) -> float:
    """Mean over a seed set's values, then over seed sets, by a plain loop."""
    found: dict[int, list[float]] = {}
    for row in scores.to_dict("records"):
        if all(row[name] == value for name, value in wanted.items()):
            found.setdefault(row["seed_set"], []).append(row["value"])
    means = [sum(values) / len(values) for values in found.values()]
    return sum(means) / len(means)


def test_prompt_table_against_plain_loops() -> None:
    scores, suite = scores_of_suite(), QUICK_SUITE
    fewer = scores.drop(index=scores.index[-3:])  # the last image
    table = stats.prompt_table(fewer, suite)
    assert len(table) == 2 * sum(len(suite.prompts(subject)) for subject in suite.subjects)
    assert list(table["subject"].drop_duplicates()) == [subject.name for subject in suite.subjects]
    for line in table.to_dict("records"):
        wanted = {name: line[name] for name in ("method", "subject", "prompt")}
        assert line["clip_t"] == pytest.approx(plain_mean(fewer, metric="clip_t", **wanted), abs=1e-12)
        subject = next(subject for subject in suite.subjects if subject.name == line["subject"])
        prompt = next(prompt for prompt in suite.prompts(subject) if prompt.index == line["prompt"])
        assert (line["kind"], line["text"]) == (prompt.kind, prompt.text(subject.class_noun))
    assert set(table["n_expected"]) == {2 * suite.samples_per_prompt}
    assert table["n_images"].sum() == table["n_expected"].sum() - 1


def test_subject_table_against_plain_loops() -> None:
    scores, suite = scores_of_suite(), QUICK_SUITE
    table = stats.subject_table(scores, suite).set_index(["method", "subject"])
    per_subject = 4 * suite.samples_per_prompt
    for (method, name), line in table.iterrows():  # type: ignore[misc]
        oracle = method.startswith("real")
        for metric in ("dino",) if oracle else ("dino", "clip_t"):
            expected = plain_mean(scores, method=method, subject=name, metric=metric)
            assert line[metric] == pytest.approx(expected, abs=1e-12)
        if not oracle:
            both = [plain_mean(scores, method=method, subject=name, metric="dino", seed_set=k) for k in (0, 1)]
            assert line["dino_spread"] == pytest.approx(abs(both[0] - both[1]) / math.sqrt(2), abs=1e-12)
            assert (line["n_images"], line["n_expected"]) == (2 * per_subject, 2 * per_subject)
        assert line["live"] == (name == "dog")


@pytest.mark.parametrize("by", ["live", "type"])
def test_splits_have_every_image_once(by: str) -> None:
    scores, suite = scores_of_suite(), QUICK_SUITE
    parts = stats.split_scores(scores, suite, by)
    kept = scores if by == "live" else scores[scores["prompt"] != -1]
    assert sorted(index for part in parts.values() for index in part.index) == list(kept.index)
    assert set(parts) == ({"live", "object"} if by == "live" else {"context", "outfit", "property"})
    table = stats.split_table(scores, suite)
    assert set(table["split"]) == {"live", "type"}
    table = table[table["split"] == by].set_index(["part", "method", "metric"])
    subjects = {subject.name: subject for subject in suite.subjects}
    for (part, method, metric), line in table.iterrows():  # type: ignore[misc]
        values = []
        for subject in suite.subjects:
            if by == "live" and subject.live != (part == "live"):
                continue
            there = scores[(scores["subject"] == subject.name) & (scores["method"] == method)]
            if by == "type":
                kinds = {prompt.index: prompt.kind for prompt in suite.prompts(subjects[subject.name])}
                there = there[[kinds.get(prompt) == part for prompt in there["prompt"]]]
            if (there["metric"] == metric).any():
                values.append(plain_mean(there, metric=metric))
        assert line["mean"] == pytest.approx(sum(values) / len(values), abs=1e-12)
        assert line["n_subjects"] == len(values)


def test_unknown_splits_are_refused() -> None:
    scores = scores_of_suite()
    with pytest.raises(InputError, match="unknown split 'colour'; known are live, type, category"):
        stats.split_scores(scores, QUICK_SUITE, "colour")
    with pytest.raises(InputError, match="has no categories"):
        stats.split_scores(scores, QUICK_SUITE, "category")
