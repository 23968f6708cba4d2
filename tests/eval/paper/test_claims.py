import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copy2
from typing import Any

import pandas as pd
import pytest

from bdkit.cli import main
from bdkit.utils.errors import InputError
from eval.paper.claims import (
    ENDS_EARLY,
    HOLDS,
    LEVEL,
    NO_GAIN,
    NOT_HERE,
    ORDER_CLAIMS,
    PARTLY,
    QUESTIONS,
    TOO_SHORT,
    UNDECIDED,
    VERDICTS,
    ablation_verdicts,
    above,
    combination_verdicts,
    kept,
    level,
    share_of,
    speed_up_verdicts,
    write_claims,
)
from eval.paper.config import ALL, EXPERIMENTS, ReproduceConfig
from eval.paper.results_files import draw, read_csv, write_csv
from eval.paper.table1 import ORDER
from eval.report.statistics import Estimate

MADE_WITH = {"commit": "123", "checkpoint": "0e1", "suite": "mini@0", "suite_hash": "1e2", "protocol": "mini",
             "seed_sets": "0", "n_images": 3, "device": "CPU"}  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.02, 0.2, HOLDS),
        (-0.02, 0.2, UNDECIDED),
        (-0.2, -0.02, NOT_HERE),
        (-0.2, 0.0, UNDECIDED),
        (None, None, UNDECIDED),  # one subject has no interval
        (0.1, None, UNDECIDED),
    ],
)
def test_a_difference_is_above_zero_by_its_interval(low: float | None, high: float | None, verdict: str) -> None:
    assert above(low, high) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-LEVEL, LEVEL, HOLDS),
        (-0.2, 0.01, UNDECIDED),  # wide
        (0.001, LEVEL, HOLDS),  # surely above, and level all the same
        (LEVEL + 0.001, 0.2, NOT_HERE),
        (-0.2, -LEVEL - 0.001, NOT_HERE),
        (None, None, UNDECIDED),
    ],
)
def test_two_methods_are_level_within_a_margin(low: float | None, high: float | None, verdict: str) -> None:
    assert level(low, high) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.9, 1.1, HOLDS), (0.85, 0.95, UNDECIDED), (0.7, 0.89, NOT_HERE), (None, None, UNDECIDED)],
)
def test_a_score_is_kept_but_for_a_tenth(low: float | None, high: float | None, verdict: str) -> None:
    assert kept(figure(1.0, low, high)) == verdict


def test_a_share_is_of_what_is_above_zero_alone() -> None:
    share = share_of(figure(-0.1, -0.2, 0.1), 0.4)
    assert share is not None
    assert (share.mean, share.low, share.high) == pytest.approx((0.75, 0.5, 1.25))
    for of in (0.0, -0.1, math.nan):
        assert share_of(figure(-0.1, -0.2, 0.1), of) is None


def figure(mean: float, low: float | None, high: float | None) -> Estimate:
    return Estimate(mean=mean, spread=None, low=low, high=high, n_subjects=3, n_seed_sets=1, n_images=3)


def test_the_prompt_is_ignored_where_more_than_a_tenth_of_its_score_is_lost() -> None:
    line = {"row": "frozen-text-encoder", "budget": "full", "clip_t": 0.4, "clip_t_change": -0.1}
    for low, high, verdict in ((-0.2, -0.06, HOLDS), (-0.2, 0.0, UNDECIDED), (-0.04, -0.01, NOT_HERE)):
        frame = pd.DataFrame([{**line, "clip_t_change_low": low, "clip_t_change_high": high}])
        (found,) = ablation_verdicts(frame)
        assert (found.claim, found.verdict) == ("With a frozen text encoder the prompt is ignored", verdict)


def test_more_faithful_and_less_faithful_are_told_apart() -> None:
    for low, high, more, less in ((0.02, 0.08, HOLDS, NOT_HERE), (-0.08, -0.02, NOT_HERE, HOLDS)):
        change = {"dino": 0.3, "dino_change": (low + high) / 2, "dino_change_low": low, "dino_change_high": high}
        for row, verdict in (("frozen-text-encoder", more), ("without-stage-1", less)):
            (found,) = ablation_verdicts(pd.DataFrame([{"row": row, "budget": "full", **change}]))
            assert found.verdict == verdict


def test_page_judges_the_claims_that_were_measured(tmp_path: Path) -> None:
    rows = ("blip-diffusion-zero-shot", "base", "dreambooth-from-base", "dreambooth-from-base-300")
    order = [
        {"source": "order", "row": rows[0], "minus": "base", "dino": 0.1, "dino_low": 0.05, "dino_high": 0.2},
        {"source": "order", "row": rows[2], "minus": rows[3], "dino": -0.01, "dino_low": -0.05, "dino_high": 0.01},
    ]
    write_csv(
        pd.DataFrame([{"source": "measured", "row": row} for row in rows] + order), tmp_path / "table1.csv", MADE_WITH
    )
    lines = [
        {"source": "speed-up", "name": "dreambooth-from-base", "metric": "identity", "target_steps": step,
         "steps": steps, "factor": factor, "low": low, "high": high}
        for step, steps, factor, low, high in ((10, 900.0, 90.0, 50.0, 99.0), (80, math.nan, 10.0, 10.0, math.inf))
    ]  # fmt: skip
    write_csv(pd.DataFrame(lines), tmp_path / "steps.csv", MADE_WITH)
    ablated = {"row": "without-stage-1", "dino_change": -0.02, "dino_change_low": -0.03, "dino_change_high": -0.01}
    write_csv(pd.DataFrame([ablated]), tmp_path / "ablations.csv", MADE_WITH)
    text = write_claims(tmp_path).read_text()
    assert f"against 0.566) | DINO | -0.020 [-0.030, -0.010] | {HOLDS} |" in text
    write_csv(pd.DataFrame([{**ablated, "budget": "small"}]), tmp_path / "ablations.csv", MADE_WITH)
    text = write_claims(tmp_path).read_text()
    assert f"against 0.566) | DINO | -0.020 [-0.030, -0.010] | {TOO_SHORT} |" in text
    assert f"which the base does not | DINO | +0.100 [+0.050, +0.200] | {HOLDS} |" in text
    assert f"needs more than 300 steps | DINO | -0.010 [-0.050, +0.010] | {UNDECIDED} |" in text
    assert f"| Identity | >= 10.0 times [10.0, inf], for the score after 80 steps | {PARTLY} |" in text
    assert "Not measured: combination, preservation." in text
    assert "Textual Inversion" not in text


def test_combination_is_judged_by_ratios_and_by_differences() -> None:
    def line(
        part: str, scenes: str, row: str, minus: str | None, **figures: tuple[float, float, float]
    ) -> dict[str, Any]:
        named = {f"{name}{end}": value for name, three in figures.items()
                 for end, value in zip(("", "_low", "_high"), three, strict=True)}  # fmt: skip
        return {
            "part": part,
            "kind": "comparison" if minus else "figure",
            "scenes": scenes,
            "row": row,
            "minus": minus,
        } | named

    frame = pd.DataFrame([
        line("control", "all", "subject + edges", "subject", edge_f1=(2.0, 1.8, 2.2), dino=(0.8, 0.75, 0.85),
             identity=(0.95, 0.92, 0.98)),
        line("control", "same class", "subject + edges", "subject", edge_f1=(0.5, 0.4, 0.6)),
        line("editing", "real", "from-scratch", None, identity=(0.8, 0.7, 0.9)),
        line("editing", "real", "fixed", "from-scratch", psnr_outside=(5.0, -1.0, 9.0), identity=(-0.1, -0.12, -0.06)),
        line("editing", "real", "fixed", "lavis", psnr_outside=(-5.0, -6.0, -4.0)),
    ])  # fmt: skip
    found = [(one.metric, one.figure, one.verdict) for one in combination_verdicts(frame)]
    assert found == [
        ("Edge F1", "2.000 [1.800, 2.200] times that without it", HOLDS),
        ("DINO", "0.800 [0.750, 0.850] times that without it", NOT_HERE),
        ("Identity", "0.950 [0.920, 0.980] times that without it", HOLDS),
        ("PSNR outside the mask, dB", "+5.000 [-1.000, +9.000]", UNDECIDED),
        ("Identity", "0.875 [0.850, 0.925] times zero-shot's", UNDECIDED),
    ]


def test_every_claim_has_its_experiment() -> None:
    assert set(ORDER_CLAIMS) <= set(ORDER)
    assert set(QUESTIONS) == set(VERDICTS) <= set(ALL) < set(EXPERIMENTS)


def test_an_experiment_that_cannot_run_is_left_out_with_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/drift.csv").touch()
    assert main(["reproduce", "all", "--model", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    output = capsys.readouterr()
    assert output.err.count(f"; claims.md judges it by {tmp_path / 'out/drift.csv'}, of an earlier run") == 1
    for name in ALL:
        assert f"warning: {name} is left out: " in output.err
    assert "error: no experiment could run" in output.err
    assert not (tmp_path / "out/claims.md").exists()
    assert f"Not measured: {', '.join(VERDICTS)}." in write_claims(tmp_path / "out").read_text()


@pytest.mark.parametrize(
    ("experiment", "options", "flag"),
    [
        ("all", {"methods": ("base",)}, "--methods"),
        ("table1", {"steps": (5,)}, "--steps"),
        ("ablations", {"steps": (5,)}, "--steps"),
        ("preservation", {"methods": ("base",)}, "--methods"),
        ("preservation", {"batch_size": 4}, "--batch-size"),
        ("drift", {"samples": 2}, "--samples"),
        ("drift", {"dtype": "float16"}, "--dtype"),
        ("drift", {"seed_sets": (0, 1)}, "--seed-sets"),
        ("combination", {"subjects": 2}, "--subjects"),
        ("ablations", {"base": "theirs", "model": "mine"}, "--model"),
    ],
)
def test_an_option_without_a_use_is_refused(experiment: str, options: dict[str, Any], flag: str) -> None:
    with pytest.raises(InputError, match=flag):
        ReproduceConfig(experiment=experiment, **options)


def test_all_gives_every_experiment_what_it_has_a_use_for() -> None:
    whole = ReproduceConfig(experiment="all", steps=(0, 40), dtype="float16", samples=2, seed_sets=(3, 4))
    assert whole.of("steps") == replace(whole, experiment="steps")
    assert (whole.of("table1").steps, whole.of("table1").dtype, whole.of("table1").samples) == (None, "float16", 2)
    drift = whole.of("drift")
    assert (drift.steps, drift.dtype, drift.samples, drift.seed_sets) == (None, "float32", None, (3,))
    for name in ALL:
        assert whole.of(name).experiment == name
    assert replace(whole, base="theirs", model="mine").of("ablations").base == "theirs"


@pytest.mark.parametrize(
    ("experiment", "steps"), [("steps", (0,)), ("steps", (2, 2)), ("steps", (-1, 4)), ("search", (0, 2))]
)
def test_steps_that_make_no_curve_are_refused(experiment: str, steps: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=f"^--steps {','.join(map(str, steps))}: give different whole numbers"):
        ReproduceConfig(experiment=experiment, steps=steps)


def test_speed_up_without_an_interval_never_holds() -> None:
    line = {"source": "speed-up", "name": "dreambooth-from-base", "metric": "dino", "target_steps": 80, "steps": 2400.0,
            "factor": 30.0, "low": 25.0, "high": 40.0}  # fmt: skip
    for changes, verdict in (
        ({}, HOLDS),
        ({"low": math.nan, "high": math.nan}, UNDECIDED),
        ({"low": math.nan, "high": math.nan, "factor": math.nan}, NO_GAIN),
        ({"low": 0.9, "factor": 1.5}, UNDECIDED),
        ({"low": 19.0}, PARTLY),
        ({"low": 0.3, "high": 0.9, "factor": 0.5}, NOT_HERE),
        ({"low": 1.0, "high": math.inf, "factor": 1.0, "steps": math.nan}, ENDS_EARLY),  # a lower bound
        ({"low": 4.0, "high": math.inf, "factor": 4.0, "steps": math.nan}, PARTLY),
    ):
        (found,) = speed_up_verdicts(pd.DataFrame([{**line, **changes}]))
        assert found.verdict == verdict


@pytest.mark.parametrize(
    "damage",
    [
        lambda frame: frame.drop(columns="dino"),
        lambda frame: frame.drop(columns="source"),
        lambda frame: frame.assign(dino_low="much"),
        lambda frame: frame[:0],
        lambda frame: frame.assign(device=None),
        lambda frame: pd.concat([frame, frame[:1]]),
        lambda frame: pd.concat([frame, frame[frame["source"] == "measured"].assign(suite_hash="0")]),
    ],
)
def test_a_damaged_csv_is_one_line_and_nothing_is_written(
    damage: Callable[[pd.DataFrame], pd.DataFrame], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = pd.read_csv(Path(__file__).parents[3] / "results/paper/table1.csv", dtype=str)
    damage(whole).to_csv(tmp_path / "table1.csv", index=False)
    for path in (tmp_path / "table1.csv", tmp_path):
        assert main(["table", str(path)]) in (0, 2)  # the page has no use for every column
        if path.suffix:
            assert capsys.readouterr().err.startswith(f"bdkit: error: {path} ")
    assert {path.name for path in tmp_path.iterdir()} <= {"table1.csv", "claims.md"}


def test_a_csv_under_another_experiments_name_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy2(Path(__file__).parents[3] / "results/paper/steps.csv", tmp_path / "table1.csv")
    assert main(["table", str(tmp_path)]) == 2
    assert "table1.csv is the result of steps, not of table1; give it another name" in capsys.readouterr().err
    assert main(["table", str(tmp_path / "table1.csv")]) == 2
    assert "table1.csv is the result of steps" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["table1.csv"]


def test_nothing_is_written_when_one_of_several_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published = Path(__file__).parents[3] / "results/paper"
    copy2(published / "search.csv", tmp_path / "good.csv")
    whole = pd.read_csv(published / "drift.csv", dtype=str)
    whole.assign(dino_distance=None).to_csv(tmp_path / "damaged.csv", index=False)
    for other, reason in (
        ("damaged.csv", "is damaged, or of another version"),
        ("nothere.csv", "is missing; check the path"),
    ):
        assert main(["table", str(tmp_path / "good.csv"), str(tmp_path / other)]) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith(f"bdkit: error: {tmp_path / other} {reason}")
        assert printed.out == ""
    assert {path.name for path in tmp_path.iterdir()} == {"good.csv", "damaged.csv"}


def test_wrong_names_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "table2"]) == 2
    assert capsys.readouterr().err.startswith("bdkit: error: unknown experiment 'table2'; known are table1, ")


def test_published_results_are_what_their_csvs_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published = Path(__file__).parents[3] / "results/paper"
    for path in published.glob("*.csv"):
        copy2(path, tmp_path)
        assert draw(read_csv(path))[0] == path.with_suffix(".md").read_text(), path.name
    assert main(["table", str(tmp_path)]) == 0
    page = (published / "claims.md").read_text()
    assert (tmp_path / "claims.md").read_text() == page
    assert page in capsys.readouterr().out
    assert main(["table", str(tmp_path), "--split", "live"]) == 2
    assert "--split is not for the CSVs of `bdkit reproduce`" in capsys.readouterr().err
