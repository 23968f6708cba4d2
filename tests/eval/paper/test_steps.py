import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from eval_helpers import QUICK_SUITE, make_folder, make_scores

from bdkit.checkpoints.load import checkpoint_hash
from bdkit.cli import main
from bdkit.utils.errors import InputError
from eval.experiments import RATE_FACTORS, STEP_BUDGETS, STEP_METHODS, step_budget, step_rows
from eval.paper import search, steps
from eval.paper.config import ReproduceConfig
from eval.paper.results_files import read_csv, show, write_csv
from eval.paper.speed_up import Curve, first_reached, speed_up
from eval.report.statistics import N_RESAMPLES, SEED
from eval.report.summary import summarise
from eval.report.tables import NOT_MEASURED
from eval.score.scores_file import NO_PROMPT

BUDGETS = (0, 40, 80)
METRICS = ("dino", "clip_i", "clip_t", "identity", "prompt_right")


def made_up(methods: tuple[str, ...], **named: Any) -> pd.DataFrame:
    scores = make_scores(methods, metrics=METRICS, **named)
    return scores[(scores["prompt"] != NO_PROMPT) | (scores["metric"] != "prompt_right")]


def reached_by_loop(axis: tuple[int, ...], scores: list[float], target: float) -> float:
    """Walks along the line in small exact pieces: the first point that is not below the target."""
    if scores[0] >= target:
        return float(axis[0])
    for (x0, y0), (x1, y1) in zip(zip(axis, scores), list(zip(axis, scores))[1:]):  # noqa: B905
        if y1 >= target:
            return x0 + (target - y0) / (y1 - y0) * (x1 - x0)
    return math.inf


def test_first_reached_is_that_of_a_plain_walk() -> None:
    rng = np.random.default_rng(0)
    axis = (0, 5, 10, 40, 100)
    scores, targets = rng.random((300, 5)), rng.random(300) * 1.2
    expected = [reached_by_loop(axis, line.tolist(), target) for line, target in zip(scores, targets, strict=True)]
    assert math.inf in expected
    assert 0.0 in expected
    np.testing.assert_allclose(first_reached(axis, scores, targets), expected, rtol=1e-12)


def test_speed_up_and_its_interval_are_those_of_plain_loops() -> None:
    rng = np.random.default_rng(1)
    n, axis = 4, (0, 10, 20, 40)
    faster = Curve(steps=axis, values=np.sort(rng.random((n, 4)), axis=1))
    slower = Curve(steps=(0, 100, 200), values=np.sort(rng.random((n, 3)), axis=1))
    found = speed_up(faster, slower, 20)
    draws = np.random.default_rng(SEED).integers(0, n, (N_RESAMPLES, n))
    low, high, hits = [], [], 0
    for drawn in draws[:N_RESAMPLES]:
        one = [sum(faster.values[subject, k] for subject in drawn) / n for k in range(4)]
        other = [sum(slower.values[subject, k] for subject in drawn) / n for k in range(3)]
        own, needed = reached_by_loop(axis, one, one[2]), reached_by_loop((0, 100, 200), other, one[2])
        hits += needed < math.inf
        low.append(min(needed, 200) / own)
        high.append(needed / own)
    low.sort()
    high.sort()
    assert found.low == pytest.approx(low[math.ceil(0.025 * N_RESAMPLES) - 1], rel=1e-9)
    assert found.high == pytest.approx(high[math.ceil(0.975 * N_RESAMPLES) - 1], rel=1e-9)
    assert found.reached == pytest.approx(hits / N_RESAMPLES)
    means = faster.values.mean(axis=0), slower.values.mean(axis=0)
    needed = reached_by_loop((0, 100, 200), means[1].tolist(), means[0][2])
    assert found.steps == pytest.approx(needed)
    assert found.factor == pytest.approx(needed / found.own_steps)
    assert found.own_steps == pytest.approx(reached_by_loop(axis, means[0].tolist(), means[0][2]))


def test_a_score_that_is_never_reached_gives_a_lower_bound() -> None:
    faster = Curve(steps=(0, 20, 40), values=np.array([[0.1, 0.8, 0.9]] * 3))
    slower = Curve(steps=(0, 100, 300), values=np.array([[0.0, 0.2, 0.3]] * 3))
    found = speed_up(faster, slower, 20)
    assert (found.steps, found.own_steps, found.factor) == (None, 20.0, 15.0)
    assert (found.low, found.high, found.reached) == (15.0, math.inf, 0.0)
    alone = speed_up(Curve(steps=(0, 20), values=faster.values[:1, :2]), slower, 20)
    assert (alone.low, alone.high, alone.reached) == (None, None, None)


def test_a_score_that_is_there_before_the_first_step_has_no_factor() -> None:
    faster = Curve(steps=(0, 20, 40), values=np.array([[0.8, 0.7, 0.6], [0.9, 0.7, 0.9]]))
    slower = Curve(steps=(0, 100), values=np.array([[0.1, 0.9], [0.2, 0.9]]))
    found = speed_up(faster, slower, 20)
    assert (found.own_steps, found.steps) == (0.0, pytest.approx(100 * 0.55 / 0.75))
    assert (found.factor, found.low, found.high, found.reached) == (None, None, None, None)
    line = pd.Series({**vars(found), "factor": math.nan, "low": math.nan})
    assert steps.factor_text(line) == NOT_MEASURED


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [(name, row) for name in ("blip-diffusion", "dreambooth-from-base") for row in step_rows(name, BUDGETS)]
    scores = made_up(tuple(row.name for _, row in rows), value=rising)
    entries = {
        row.name: {"method": row.method, "snapshot": row.snapshot, "settings": {"steps": 80, "learning_rate": 1e-3}}
        for _, row in rows
    }
    seconds = {row.name: [8.0, 9.0, 30.0] if name == "blip-diffusion" else [4.5] for name, row in rows}
    out = make_folder(tmp_path_factory.mktemp("steps") / "steps", scores, commit="abc", device="CPU", rows=entries,
                      fit_seconds=seconds, seed_sets=[0, 1])  # fmt: skip
    path = out.parent / "steps.csv"
    write_csv(steps.steps_frame(summarise(out), rows), path, {"commit": "abc", "suite_hash": "x"})
    return path


def rising(rng: np.random.Generator, method: str, metric: str) -> float:
    name, _, step = method.rpartition("-")
    slope = 0.005 if name == "blip-diffusion" else 0.002
    return round(float(slope * int(step) + 0.01 * rng.random()), 6)


def test_csv_holds_the_curves_and_the_speed_up(csv: Path) -> None:
    frame = read_csv(csv)
    curves = frame[frame["source"] == "curve"]
    assert list(curves["steps"]) == [*BUDGETS, *BUDGETS]
    assert list(curves["seconds"]) == [0.0, 4.5, 9.0, 0.0, 2.25, 4.5]  # a share of the median fit
    found = frame[(frame["source"] == "speed-up") & (frame["metric"] == "identity")].set_index("target_steps")
    assert found.loc[40, "factor"] == 2.0  # never reached: 80 steps over 40
    assert pd.isna(found.loc[40, "steps"])
    assert found.loc[40, "factor_seconds"] == pytest.approx(2.0 * 4.5 / 9.0)
    assert math.isinf(found.loc[40, "high"])
    assert set(frame["commit"]) == {"abc"}


def test_table_and_plot_come_from_the_csv_alone(csv: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.csv"
    moved.write_bytes(csv.read_bytes())
    text = show(moved)
    assert "| DreamBooth from the base | Identity | 0.40" in text
    assert ">= 1.0 [1.0, inf]" in text
    assert "| Identity: times the steps for its score after | 40 | 80 |\n" in text
    assert "\n| DreamBooth from the base | >= 2.0 [2.0, inf] | >= 1.0 [1.0, inf] |\n" in text
    before = (tmp_path / "moved.png").read_bytes()
    assert show(moved) == text
    assert (tmp_path / "moved.png").read_bytes() == before


@pytest.mark.weights
def test_search_judges_every_trial_by_fidelity_times_obedience(tmp_path: Path) -> None:
    names, entries = {}, {}
    rates = (1.25e-6, 0.2)
    for rate in rates:
        for row in step_rows("dreambooth", (20, 80), learning_rate=rate):
            names[row.name] = "dreambooth"
            entries[row.name] = {"method": row.method, "snapshot": row.snapshot, "settings": dict(row.overrides)}
    scores = made_up(tuple(names))
    out = make_folder(tmp_path / "search", scores, commit="abc", device="CPU", rows=entries, seed_sets=[0, 1])
    trials = search.search_frame(summarise(out), names).set_index("learning_rate")
    for rate in rates:
        products, means = [], {metric: scores[scores["metric"] == metric] for metric in METRICS}
        for step in (20, 80):
            two = []
            for metric in ("identity", "prompt_right"):
                part = means[metric][means[metric]["method"] == f"dreambooth-learning-rate-{rate:g}-{step}"]
                of_subjects = [part[part["subject"] == one.name]["value"].mean() for one in QUICK_SUITE.subjects]
                two.append(sum(of_subjects) / len(of_subjects))
            products.append(two[0] * two[1])
        assert trials.loc[repr(rate), "score"] == pytest.approx(sum(products) / 2, abs=1e-6)
    assert trials["chosen"].sum() == 1
    assert trials["score"].idxmax() == trials["chosen"].idxmax()
    config = ReproduceConfig(experiment="steps", out=tmp_path)
    assert search.chosen_rates(config) == {}
    made_with = {"commit": "a", "suite": "mini-dev", "suite_hash": "b", "protocol": "mini", "seed_sets": "0"}
    write_csv(trials.reset_index().assign(checkpoint="0e1"), config.search_csv, {**made_with, "device": "CPU"})
    with pytest.raises(InputError, match=r"for other weights \(0e1\) than mini; run `bdkit reproduce search`"):
        search.chosen_rates(config)
    trials["checkpoint"] = checkpoint_hash("mini") + "+b"
    write_csv(trials.reset_index(), config.search_csv, {**made_with, "device": "CPU"})
    assert search.chosen_rates(config) == {"dreambooth": float(trials["score"].idxmax())}
    assert set(read_csv(config.search_csv)["learning_rate"].astype(float)) == set(rates)  # of full size: not rounded
    for damage in (
        lambda frame: frame.assign(chosen="maybe"),
        lambda frame: frame.assign(learning_rate=None),
        lambda frame: frame.assign(learning_rate="0,1"),
        lambda frame: frame.drop(columns="checkpoint"),
    ):
        (tmp_path / "damaged").mkdir(exist_ok=True)
        damage(pd.read_csv(config.search_csv, dtype={"learning_rate": str})).to_csv(
            tmp_path / "damaged/search.csv", index=False
        )
        with pytest.raises(InputError, match=r"search\.csv is damaged, or of another version"):
            search.chosen_rates(replace(config, out=tmp_path / "damaged"))
    text = show(config.search_csv)
    assert "| DreamBooth from stage 2 | 1.25e-06 |" in text
    assert "Of DreamBooth from stage 2 the best rate is the lowest or highest tried" in text
    within = pd.DataFrame(
        {"name": "dreambooth", "learning_rate": ["9e-05", "2e-4", "4e-3"], "chosen": [False, True, False]}
    )
    assert search.at_an_end(within) == []
    assert search.at_an_end(within.assign(chosen=[False, False, True])) == ["dreambooth"]


def test_small_budget_goes_on_with_dreambooth_alone() -> None:
    assert step_budget("dreambooth-from-base", "small") == step_budget("dreambooth", "small") == STEP_BUDGETS["small"]
    assert step_budget("blip-diffusion", "small") == (0, 10, 40, 80, 200)
    assert all(step_budget(name, "full") == STEP_BUDGETS["full"] for name in STEP_METHODS)
    assert steps.HEADLINE_STEPS in step_budget("blip-diffusion", "small")


def test_search_refuses_a_suite_that_is_reported_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="never on a suite that is reported on"):
        search.run(ReproduceConfig(experiment="search", suite="mini", out=tmp_path))
    with pytest.raises(InputError, match=r"^--steps without 0: a speed-up needs the scores before the first step"):
        steps.run(ReproduceConfig(experiment="steps", steps=(40, 80), out=tmp_path))
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="unknown method 'base'"):
        ReproduceConfig(experiment="steps", methods=("base",)).chosen_step_methods()


@pytest.mark.slow
@pytest.mark.weights
def test_measures_steps_with_the_rates_that_were_searched(tmp_path: Path) -> None:
    few = ["--out", str(tmp_path), "--subjects", "1", "--prompts", "1", "--workers", "1"]
    few += ["--methods", "textual-inversion"]
    assert main(["reproduce", "search", *few, "--steps", "1"]) == 0
    tuned = search.chosen_rates(ReproduceConfig(experiment="steps", out=tmp_path))
    assert main(["reproduce", "steps", *few, "--steps", "0,2"]) == 0
    assert {path.name for path in tmp_path.glob("steps.*")} == {"steps.csv", "steps.md", "steps.png"}
    frame = read_csv(tmp_path / "steps.csv")
    curves = frame[frame["source"] == "curve"].set_index("steps")
    assert float(curves.loc[2, "learning_rate"]) == tuned["textual-inversion"]
    assert (curves.loc[2, "seconds"] > 0, curves.loc[0, "seconds"]) == (True, 0)
    assert (frame["source"] == "trial").sum() == len(RATE_FACTORS)
    assert frame["commit"].notna().all()  # the trials have theirs, the curves their own
    assert frame[frame["source"] == "trial"]["suite"].unique().tolist() == ["mini-dev"]


def test_the_note_names_the_methods_whose_rates_were_not_searched(csv: Path) -> None:
    frame = read_csv(csv)
    trial = {"source": "trial", "suite": "mini-dev", "learning_rate": "0.1"}
    note = "Learning rates: the best of 1 trials on mini-dev (search.csv)"
    for name, text in (
        ("textual-inversion", "Learning rates are the preset's; `bdkit reproduce search` tunes them"),  # not measured
        ("blip-diffusion", f"{note}; of DreamBooth from the base the preset's, which was not searched."),
    ):
        assert text in steps.table(pd.concat([frame, pd.DataFrame([{**trial, "name": name}])], ignore_index=True))
    both = [{**trial, "name": name} for name in ("blip-diffusion", "dreambooth-from-base")]
    assert note.replace(" 1 ", " 2 ") + ".\n" in steps.table(pd.concat([frame, pd.DataFrame(both)], ignore_index=True))
