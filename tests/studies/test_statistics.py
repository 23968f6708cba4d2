"""The study's statistics against scipy and cases that can be checked by hand; damage to pixels against plain loops."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from studies.metric_validity import statistics as stats
from studies.metric_validity.damage import blur, crossfade

IDENTITY, PROMPT, PLACE = "true_identity", "true_prompt", "true_place"


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studies.metric_validity.statistics.N_RESAMPLES", 200)


def drift(noise: float) -> pd.DataFrame:
    """12 subjects, 5 steps of identity, obeyed or not, 3 images each; `good` follows identity, `blind` nothing."""
    rng = np.random.default_rng(0)
    rows = []
    for subject in range(12):
        for step in range(5):
            for obeyed in (0, 1):
                for _ in range(3):
                    identity = 1 - step / 5 - 0.1 * rng.random()
                    rows.append(
                        (f"s{subject:02d}", "context" if rng.random() < 0.5 else "outfit", step, identity, obeyed)
                    )
    frame = pd.DataFrame(rows, columns=["subject", "kind", "step", IDENTITY, PROMPT])
    frame["good"] = frame[IDENTITY] ** 3 + noise * rng.standard_normal(len(frame))
    frame["blind"] = rng.standard_normal(len(frame))
    frame["obedient"] = np.where(frame["kind"] == "context", frame[PROMPT] + rng.random(len(frame)), np.nan)
    frame["constant"] = 1.0
    return frame


def test_correlations_are_scipys() -> None:
    frame = drift(0.3)
    found = stats.correlations(frame, ["good", "blind", "obedient", "constant"], [IDENTITY, PROMPT])
    for row in found.to_dict("records"):
        part = frame if row["prompts"] == "all" else frame[frame["kind"] == row["prompts"]]
        part = part.dropna(subset=[row["metric"]])
        assert row["n"] == len(part)
        if row["metric"] == "constant":
            assert math.isnan(row["rho"])
            continue
        assert row["rho"] == pytest.approx(spearmanr(part[row["metric"]], part[row["truth"]]).statistic, abs=1e-12)
        assert row["low"] < row["rho"] < row["high"]
        assert row["n_subjects"] == 12
    table = found[found["prompts"] == "all"].set_index(["metric", "truth"])
    assert table.loc[("good", IDENTITY), "low"] > 0.5
    assert abs(table.loc[("blind", IDENTITY), "rho"]) < 0.15
    # of outfits it has no value, so no row
    assert set(found[found["metric"] == "obedient"]["prompts"]) == {"all", "context"}


def test_intervals_resample_subjects_and_cover_the_truth() -> None:
    """Over draws of 12 subjects with a random offset each, the interval holds the correlation of very many subjects."""
    rng = np.random.default_rng(1)

    def world(subjects: int) -> pd.DataFrame:
        names = np.repeat(np.arange(subjects), 10)
        truth = rng.random(len(names))
        values = truth + 0.5 * rng.standard_normal(subjects)[names] + 0.2 * rng.standard_normal(len(names))
        return pd.DataFrame({"subject": names.astype(str), "kind": "context", "metric": values, IDENTITY: truth})

    large = world(2000)
    true_rho = spearmanr(large["metric"], large[IDENTITY]).statistic
    held = 0
    for _ in range(25):
        row = stats.correlations(world(12), ["metric"], [IDENTITY]).iloc[0]
        held += row["low"] <= true_rho <= row["high"]
    # 95% of 25 is 24; with 12 subjects the percentile bootstrap is a little narrow
    assert held >= 20


def test_within_subjects_is_the_mean_of_scipys() -> None:
    """An offset for each subject hides from the pooled correlation what each subject's own shows."""
    frame = drift(0.05)
    frame["good"] += 5 * frame["subject"].str[1:].astype(int)
    pooled = stats.correlations(frame, ["good"], [IDENTITY]).iloc[0]["rho"]
    found = stats.correlations_within(frame, ["good", "constant"], [IDENTITY]).iloc[0]
    own = [spearmanr(part["good"], part[IDENTITY]).statistic for _, part in frame.groupby("subject")]
    assert found["rho"] == pytest.approx(sum(own) / len(own), abs=1e-12)
    assert found["low"] < found["rho"] < found["high"]
    assert pooled < 0.3 < 0.8 < found["rho"]
    assert found["metric"] == "good"
    assert len(stats.correlations_within(frame, ["constant"], [IDENTITY])) == 0


def test_method_means_are_a_plain_loop() -> None:
    frame = drift(0.3)
    found = stats.method_correlations(frame, ["good", "blind"]).set_index(["metric", "truth"])
    by_cell = {key: own.to_dict("list") for key, own in frame.groupby(["subject", "step", PROMPT])}
    means: dict[str, list[float]] = {"good": [], "blind": [], IDENTITY: [], PROMPT: []}
    for step in range(5):
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            for name in ("good", "blind", IDENTITY):
                of_subjects = []
                for subject in sorted(set(frame["subject"])):
                    values = [by_cell[subject, step, obeyed][name] for obeyed in (0, 1)]
                    ignored, followed = (sum(some) / len(some) for some in values)
                    of_subjects.append((1 - share) * ignored + share * followed)
                means[name].append(sum(of_subjects) / len(of_subjects))
            means[PROMPT].append(share)
    for metric in ("good", "blind"):
        for truth in (IDENTITY, PROMPT):
            assert found.loc[(metric, truth), "rho"] == pytest.approx(spearmanr(means[metric], means[truth]).statistic)
    assert found.loc[("good", IDENTITY), "rho"] > 0.95
    assert found.loc[("good", IDENTITY), "n"] == 25


def harmed() -> pd.DataFrame:
    """What each damage does to the truth and to four metrics, at full strength and half of it."""
    effects = {
        "stranger": (-1.0, 0.0, {"sharp": -0.8, "blind": 0.0, "fooled": -0.8, "text": 0.0}),
        "elsewhere": (0.0, -1.0, {"sharp": 0.0, "blind": 0.0, "fooled": -0.4, "text": -0.5}),
        "trick": (-1.0, -1.0, {"sharp": -0.8, "blind": 0.0, "fooled": 0.1, "text": -0.5}),
        "copy": (0.0, -1.0, {"sharp": 0.0, "blind": 0.0, "fooled": 0.5, "text": -0.05}),
    }
    rng = np.random.default_rng(2)
    rows = []
    for number in range(40):
        base = rng.random(4) * 0.1
        for damage, (identity, prompt, by) in {"none": (0.0, 0.0, {}), **effects}.items():
            for strength in (0.0,) if damage == "none" else (0.5, 1.0):
                values = {
                    m: base[i] + strength * by.get(m, 0.0) + 0.01 * rng.standard_normal() for i, m in enumerate(METRICS)
                }
                truth = {IDENTITY: 1 + strength * identity, PROMPT: 1 + strength * prompt, PLACE: 1.0}
                rows.append(
                    {"subject": number // 2, "case": number, "damage": damage, "strength": strength, **truth, **values}
                )
    return pd.DataFrame(rows)


METRICS = ("sharp", "blind", "fooled", "text")
TARGETS = {"sharp": IDENTITY, "blind": IDENTITY, "fooled": IDENTITY, "text": PROMPT}


def test_reactions_are_paired_means_over_subjects() -> None:
    frame = harmed()
    found = stats.reactions(frame, METRICS).set_index(["damage", "strength", "metric"])
    whole = {row["case"]: row for row in frame[frame["strength"] == 0].to_dict("records")}
    part = frame[(frame["damage"] == "trick") & (frame["strength"] == 1)].to_dict("records")
    differences: dict[int, list[float]] = {}
    for row in part:
        differences.setdefault(row["subject"], []).append(row["fooled"] - whole[row["case"]]["fooled"])
    wanted = sum(sum(values) / len(values) for values in differences.values()) / len(differences)
    row = found.loc[("trick", 1.0, "fooled")]
    assert row["change"] == pytest.approx(wanted, abs=1e-12)
    assert row["low"] < wanted < row["high"]
    assert row["preferred"] == pytest.approx(np.mean([r["fooled"] > whole[r["case"]]["fooled"] for r in part]))
    assert (row["n"], row["n_subjects"]) == (40, 20)
    assert row[IDENTITY] == pytest.approx(-1)
    assert found.loc[("stranger", 0.5, "sharp"), "change"] == pytest.approx(-0.4, abs=0.02)


def test_verdicts_and_ties() -> None:
    rows = [
        ("a", 0, "none", 0.0, 1.0, 1.0, 1.0, 0.5),
        ("a", 0, "x", 1.0, 1.0, 1.0, 1.0, 0.5),
        ("b", 1, "none", 0.0, 1.0, 1.0, 1.0, 0.5),
        ("b", 1, "x", 1.0, 1.0, 1.0, 1.0, 0.7),
    ]
    frame = pd.DataFrame(rows, columns=["subject", "case", "damage", "strength", IDENTITY, PROMPT, PLACE, "m"])
    assert stats.reactions(frame, ["m"])["preferred"].tolist() == [0.75]
    yardsticks = {IDENTITY: "stranger", PROMPT: "elsewhere"}
    found = stats.verdicts(stats.reactions(harmed(), METRICS), TARGETS, yardsticks).set_index(["damage", "metric"])[
        "verdict"
    ]
    assert found["trick", "sharp"] == found["elsewhere", "sharp"] == found["copy", "sharp"] == "right"
    assert (found["trick", "fooled"], found["elsewhere", "fooled"]) == ("fooled", "distracted")
    assert (found["copy", "fooled"], found["copy", "text"]) == ("rewarded", "weak")
    assert found["stranger", "text"] == "right"
    assert set(found.xs("blind", level="metric")) == {"no yardstick"}


def test_crossfade_is_a_plain_loop_and_blur_spreads_a_dot() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 256, (3, 4, 3)).astype(np.uint8) for _ in range(2))
    shares = rng.random((3, 4))
    found = crossfade(first, second, shares)
    for y in range(3):
        for x in range(4):
            for c in range(3):
                wanted = (1 - shares[y, x]) * int(first[y, x, c]) + shares[y, x] * int(second[y, x, c])
                assert abs(int(found[y, x, c]) - wanted) <= 0.5 + 1e-9
    np.testing.assert_array_equal(crossfade(first, second, 0.0), first)
    np.testing.assert_array_equal(crossfade(first, second, 1.0), second)
    image = np.zeros((21, 21, 3), np.uint8)
    image[10, 10] = 255
    found = blur(image, 1.0).astype(float)
    assert found[10, 10, 0] == pytest.approx(255 / (2 * math.pi), abs=1)
    assert found[10, 11, 0] == pytest.approx(255 / (2 * math.pi) * math.exp(-0.5), abs=1)
    np.testing.assert_array_equal(blur(image, 0.0), image)
    flat = np.full((5, 5, 3), 90, np.uint8)
    np.testing.assert_array_equal(blur(flat, 2.0), flat)
