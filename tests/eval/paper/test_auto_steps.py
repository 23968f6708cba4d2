"""`--steps auto` in a benchmark: its fits record their steps, and it is set against fixed numbers over subjects."""

from pathlib import Path

import numpy as np
import pytest
from eval_helpers import QUICK_SUITE, make_folder, make_scores

from bdkit.testing.tiny_model import tiny_model
from bdkit.utils.errors import InputError
from eval.experiments import BenchConfig, Row, auto_row, step_rows
from eval.generate.run import generate
from eval.paper import steps
from eval.paper.auto_steps import against_fixed
from eval.paper.results_files import read_csv, show, write_csv
from eval.report.statistics import N_RESAMPLES, SEED
from eval.report.summary import Results, summarise
from eval.results_dir import read_run
from eval.score.scores_file import NO_PROMPT

METRICS = ("dino", "clip_i", "clip_t", "identity", "prompt_right")
FIXED = step_rows("blip-diffusion", (0, 40, 80))
AUTO = auto_row()
TAKEN = {"seed0/dog": 40, "seed0/vase": 60, "seed1/dog": 120, "seed1/vase": 50}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    rows = (*FIXED, AUTO)
    scores = make_scores(tuple(row.name for row in rows), metrics=METRICS)
    scores = scores[(scores["prompt"] != NO_PROMPT) | (scores["metric"] != "prompt_right")]
    entries = {
        row.name: {"method": row.method, "snapshot": row.snapshot, "settings": {**row.overrides, "learning_rate": 1e-3}}
        for row in rows
    }
    seconds = {row.name: [8.0] for row in FIXED} | {AUTO.name: [5.0, 7.0, 6.0]}
    out = make_folder(
        tmp_path_factory.mktemp("auto"), scores, commit="abc", device="CPU", rows=entries, fit_seconds=seconds,
        fit_steps={AUTO.name: TAKEN}, seed_sets=[0, 1],
    )  # fmt: skip
    return summarise(out)


def test_auto_against_fixed_numbers_is_that_of_plain_loops(results: Results) -> None:
    def products(name: str) -> list[float]:
        values = []
        for subject in QUICK_SUITE.subjects:
            two = []
            for metric in ("identity", "prompt_right"):
                of = results.scores
                of = of[(of["method"] == name) & (of["metric"] == metric) & (of["subject"] == subject.name)]
                two.append(float(np.mean([of[of["seed_set"] == number]["value"].mean() for number in (0, 1)])))
            values.append(two[0] * two[1])
        return values

    lines = against_fixed(results, AUTO, FIXED[1:])
    ours, n = products(AUTO.name), len(QUICK_SUITE.subjects)
    drawn = np.random.default_rng(SEED).integers(0, n, (N_RESAMPLES, n))
    for line, row in zip(lines, FIXED[1:], strict=True):
        theirs = products(row.name)
        change = [one - other for one, other in zip(ours, theirs, strict=True)]
        assert line["target_steps"] == row.snapshot
        assert (line["score"], line["target"]) == (pytest.approx(np.mean(ours)), pytest.approx(np.mean(theirs)))
        assert line["difference"] == pytest.approx(np.mean(change))
        means = [np.mean([change[number] for number in sample]) for sample in drawn]
        assert [line["low"], line["high"]] == pytest.approx(list(np.percentile(means, [2.5, 97.5])))
        assert line["n_better"] == sum(one > 0 for one in change)
        assert (line["steps"], line["least"], line["most"]) == (67.5, 40, 120)
    best = max(line["target"] for line in lines)
    assert [line["chosen"] for line in lines] == [line["target"] == best for line in lines]


def test_the_table_is_made_from_the_csv_alone(results: Results, tmp_path: Path) -> None:
    rows = [("blip-diffusion", row) for row in FIXED]
    path = tmp_path / "steps.csv"
    write_csv(steps.steps_frame(results, rows, AUTO), path, {"commit": "abc", "suite_hash": "x"})
    text = show(path)
    assert "Auto: 68 steps in the mean, 40 to 120 of them, score" in text
    assert "| BLIP-Diffusion | auto: 68 | 6.0 | 0.001 |" in text
    assert text.count("(best)") == 1
    assert text.count(" of 3 |") == 2
    (line,) = read_csv(path).query("source == 'auto'").to_dict("records")
    assert (line["steps"], line["seconds"]) == (68, 6.0)
    (star,) = [one for one in steps.plot(read_csv(path)).axes[0].lines if one.get_label() == steps.AUTO_LABEL]
    assert star.get_xdata().tolist() == [68]
    with_auto = path.with_suffix(".png").read_bytes()
    write_csv(steps.steps_frame(results, rows), path, {"commit": "abc", "suite_hash": "x"})
    assert "auto" not in show(path)
    assert path.with_suffix(".png").read_bytes() != with_auto


def test_a_bench_records_the_steps_of_each_fit_and_resumes_with_them(tmp_path: Path) -> None:
    model = tiny_model().save_pretrained(tmp_path / "model")
    small = {"learning_rate": 1e-3, "batch_size": 1, "mixed_precision": "no", "num_inference_steps": 1}
    row = auto_row(**small)

    def run(*rows: Row) -> dict[str, bytes]:
        config = BenchConfig(
            suite="mini-quick", model=str(model), out=tmp_path / "out", rows=rows, subjects=1, prompts=1,
            ground_truth=False, workers=1, held_out=4,
        )  # fmt: skip
        assert generate(config, show_progress=False)
        images = sorted((tmp_path / "out" / "images").rglob("*.png"))
        return {path.name: path.read_bytes() for path in images}

    first = run(row)
    taken = read_run(tmp_path / "out")["fit_steps"]
    assert list(taken) == ["blip-diffusion-auto"]
    ((task, steps_taken),) = taken["blip-diffusion-auto"].items()
    assert task == "seed0/dog"
    assert steps_taken in range(40, 121, 10)
    next((tmp_path / "out" / "images").rglob("*.png")).unlink()
    assert run(row) == first
    record = read_run(tmp_path / "out")
    assert record["fit_steps"] == taken
    assert record["rows"][row.name]["settings"]["steps"] == "auto"
    kept = Row(name="kept", method=row.method, overrides=row.overrides, snapshot=40)
    with pytest.raises(InputError, match="row 'kept': with steps auto the last weights alone are kept"):
        run(kept)
