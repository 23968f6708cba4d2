from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from eval_helpers import QUICK_SUITE, make_folder, make_scores

from bdkit.cli import main
from bdkit.utils.errors import InputError
from eval.experiments import TABLE1, TABLE1_FURTHER
from eval.paper import held_out, table1
from eval.paper.config import EXPERIMENTS, ReproduceConfig
from eval.paper.held_out import gaps
from eval.paper.results_files import PROVENANCE, read_csv, show, write_csv
from eval.report.summary import summarise
from eval.results_dir import REAL

METRICS = ("dino", "clip_i", "clip_t", "identity")
METHODS = ("base", "dreambooth", "dreambooth-from-base", "blip-diffusion-finetuned", "blip-diffusion-zero-shot")
MADE_WITH = {"commit": "123", "checkpoint": "0e1", "suite": "s", "suite_hash": "1e2", "protocol": "mini",
             "seed_sets": "0", "n_images": 3, "device": "CPU"}  # fmt: skip


def per_subject(scores: pd.DataFrame, method: str, metric: str) -> list[float]:
    """The mean over a subject's images of each seed set, then over seed sets, by plain loops."""
    values = []
    for subject in QUICK_SUITE.subjects:
        by_seed_set = []
        for seed_set in sorted(set(scores["seed_set"])):
            numbers = [
                value
                for row, seed, name, *_, what, value in scores.itertuples(index=False)
                if (row, seed, name, what) == (method, seed_set, subject.name, metric)
            ]
            by_seed_set += [sum(numbers) / len(numbers)] if numbers else []
        values.append(sum(by_seed_set) / len(by_seed_set))
    return values


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scores = make_scores(METHODS, metrics=METRICS)
    out = make_folder(tmp_path_factory.mktemp("table1") / "table1", scores, commit="abc", device="CPU")
    results = summarise(out)
    seen, unseen = (make_scores(METHODS, metrics=METRICS, seed=seed) for seed in (1, 2))
    path = out.parent / "table1.csv"
    frame = table1.table1_frame(results, gaps(seen, unseen))
    frame.loc[frame["source"] == "measured", "device"] = "CPU"  # of generated rows; these have no record of their own
    write_csv(frame, path, {"commit": "abc", "checkpoint": None, "suite_hash": "x"})
    return path


def test_order_is_the_paired_difference_of_subjects(csv: Path) -> None:
    scores = make_scores(METHODS, metrics=METRICS)
    order = read_csv(csv).query("source == 'order'").set_index(["row", "minus"])
    first, second = (per_subject(scores, row, "dino") for row in ("blip-diffusion-finetuned", "dreambooth"))
    expected = sum(a - b for a, b in zip(first, second, strict=True)) / len(first)
    assert order.loc[("blip-diffusion-finetuned", "dreambooth"), "dino"] == pytest.approx(expected, abs=2e-6)
    line = order.loc[("blip-diffusion-finetuned", "dreambooth")]
    assert line["dino_low"] <= line["dino"] <= line["dino_high"]
    assert (REAL, "blip-diffusion-finetuned") in order.index
    assert ("blip-diffusion-zero-shot", "re-imagen") not in order.index  # was not measured


def test_gap_of_held_out_references_is_unseen_minus_seen() -> None:
    seen, unseen = (make_scores(("base",), metrics=METRICS, seed=seed) for seed in (1, 2))
    line = gaps(seen.query("method == 'base'"), unseen.query("method == 'base'")).set_index("row").loc["base"]
    for metric in ("dino", "clip_i", "identity"):
        one, other = per_subject(seen, "base", metric), per_subject(unseen, "base", metric)
        assert line[f"{metric}_seen"] == pytest.approx(np.mean(one), abs=1e-12)
        assert line[f"{metric}_unseen"] == pytest.approx(np.mean(other), abs=1e-12)
        assert line[f"{metric}_gap"] == pytest.approx(np.mean(other) - np.mean(one), abs=1e-12)
        assert line[f"{metric}_gap_low"] <= line[f"{metric}_gap"] <= line[f"{metric}_gap_high"]
    assert line["held_out_subjects"] == len(QUICK_SUITE.subjects)


def test_published_rows_and_the_papers_figures_stand_beside_ours(csv: Path) -> None:
    frame = read_csv(csv)
    row = frame[frame["source"] == "measured"].set_index("row")
    assert row.loc["blip-diffusion-finetuned", "paper_dino"] == 0.670
    assert row.loc["dreambooth-from-base", "paper_dino"] == 0.668
    assert pd.isna(row.loc["dreambooth", "paper_dino"])  # the paper's starts from the base
    assert frame.set_index("row").loc["uso", ["dino", "protocol"]].tolist() == [0.777, "copied, protocol unknown"]


def test_table_and_plot_come_from_the_csv_alone(csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = tmp_path / "any-name.csv"
    moved.write_bytes(csv.read_bytes())
    assert main(["table", str(moved)]) == 0
    text = capsys.readouterr().out
    assert "BLIP-Diffusion, fine-tuned" in text
    assert "Not measured: textual-inversion, dreambooth-100, dreambooth-300, re-imagen," in text
    assert "custom-diffusion; --methods names rows to measure." in text
    assert f"\n{len(QUICK_SUITE.subjects)} subjects, spread evenly over the suite" in text
    assert (tmp_path / "any-name.md").read_text() == text.rstrip("\n") + "\n"
    before = (tmp_path / "any-name.png").read_bytes()
    assert show(moved) + "\n" == text
    assert (tmp_path / "any-name.png").read_bytes() == before
    assert main(["table", str(moved), "--published"]) == 2
    assert "--published is not for the CSVs" in capsys.readouterr().err


def test_csv_says_what_it_was_made_with_and_reads_back(tmp_path: Path) -> None:
    frame = pd.DataFrame({"row": ["a"], "dino": [0.25], "n_images": [7]})
    write_csv(frame, tmp_path / "table1.csv", MADE_WITH)
    back = read_csv(tmp_path / "table1.csv")
    assert list(back) == ["experiment", "row", "dino", *PROVENANCE]
    assert back.loc[0, ["commit", "checkpoint", "suite_hash", "n_images"]].tolist() == ["123", "0e1", "1e2", 7]
    with pytest.raises(InputError, match="does not say its commit"):
        write_csv(frame, tmp_path / "table1.csv", {name: MADE_WITH[name] for name in PROVENANCE if name != "commit"})
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no result of `bdkit reproduce`"):
        read_csv(tmp_path / "other.csv")
    with pytest.raises(InputError, match="bdkit reproduce steps"):
        read_csv(tmp_path / "steps.csv")


def test_rows_without_their_model_are_left_out_with_a_line(tmp_path: Path) -> None:
    config = ReproduceConfig(experiment="table1", model=str(tmp_path / "mine"))
    with pytest.warns(UserWarning, match="dreambooth-from-base is left out: no mini-base is beside"):
        rows = table1.available_rows(config)
    from_base = ("base", "textual-inversion")
    assert [row.name for row in rows if row in TABLE1] == [row.name for row in TABLE1 if row.name not in from_base]
    given = ReproduceConfig(experiment="table1", model=str(tmp_path / "mine"), base="theirs")
    starts = {row.name: row.overrides.get("start") for row in given.bench((*TABLE1, *TABLE1_FURTHER)).rows}
    of_model = {name for name, start in starts.items() if start is None}
    assert of_model == {
        *("blip-diffusion-zero-shot", "blip-diffusion-finetuned"),
        *("dreambooth-100", "dreambooth-300", "dreambooth", "dreambooth-prior"),
    }
    assert {start for name, start in starts.items() if name not in of_model} == {"theirs"}
    with pytest.raises(InputError, match="no mini-base is beside"):
        config.bench(TABLE1)


def test_the_costly_rows_are_measured_at_the_full_budget_or_where_they_are_named(tmp_path: Path) -> None:
    given = {"experiment": "table1", "model": str(tmp_path / "mine"), "base": "theirs"}
    small, full = (ReproduceConfig(**given, budget=budget) for budget in ("small", "full"))
    with pytest.warns(UserWarning, match="(dreambooth-prior|custom-diffusion) is left out: --budget small") as told:
        rows = table1.available_rows(small)
    assert sum("--budget small" in str(line.message) for line in told) == len(table1.COSTLY) == 2
    assert not {*table1.COSTLY} & {row.name for row in rows}
    assert {*table1.COSTLY} <= {row.name for row in table1.available_rows(full)}
    named = ReproduceConfig(**given, methods=("base", *table1.COSTLY))
    assert [row.name for row in table1.available_rows(named)] == ["base", *table1.COSTLY]
    with pytest.raises(InputError, match=r"^unknown row 'nope'; known are base, textual-inversion,"):
        table1.available_rows(ReproduceConfig(**given, methods=("base", "nope")))
    assert set(table1.HELD_OUT_ROWS) <= {row.name for row in (*TABLE1, *TABLE1_FURTHER)}


def test_a_finished_table_is_not_cut_in_half_by_a_second_run(csv: Path, tmp_path: Path) -> None:
    frame, made_with = read_csv(csv), {"suite_hash": "x", "seed_sets": "0 1", "protocol": "mini"}
    frame = frame.assign(suite_hash="x", seed_sets="0 1", protocol="mini")
    write_csv(frame.drop(columns="experiment"), tmp_path / "table1.csv", MADE_WITH)
    assert table1._is_of_run(tmp_path / "table1.csv", frame, made_with)
    assert not table1._is_of_run(tmp_path / "table1.csv", frame[frame["row"] != "base"], made_with)
    for name in made_with:
        assert not table1._is_of_run(tmp_path / "table1.csv", frame, {**made_with, name: "another"})
    assert not table1._is_of_run(tmp_path / "none.csv", frame, made_with)


def test_a_suite_with_few_references_has_no_second_half(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = ReproduceConfig(experiment="table1", suite="mini-quick").bench(TABLE1[:1])
    found = table1._held_out_bench(bench, 1)
    assert found is not None
    assert (found.results_dir, found.subjects, found.seed_sets) == (bench.results_dir / "held-out", 1, (0,))
    monkeypatch.setattr(held_out, "HELD_OUT", 5)
    with pytest.warns(UserWarning, match="held-out references are left out: .* has too few images"):
        assert table1._held_out_bench(bench, 1) is None


def test_budget_and_limits() -> None:
    small, full = (ReproduceConfig(experiment="table1", budget=budget).bench(TABLE1) for budget in ("small", "full"))
    assert (small.seed_sets, small.subjects, small.prompts, small.samples) == ((0,), 5, 5, 1)
    assert (full.seed_sets, full.subjects, full.prompts, full.samples) == ((0, 1, 2), None, None, None)
    given = ReproduceConfig(experiment="table1", budget="full", samples=1, seed_sets=(4,)).bench(TABLE1)
    assert (given.seed_sets, given.subjects, given.samples) == ((4,), None, 1)
    with pytest.raises(InputError, match="unknown experiment 'table2'; known are table1"):
        ReproduceConfig(experiment="table2")
    assert "table1" in EXPERIMENTS


@pytest.mark.slow
@pytest.mark.weights
def test_measures_a_small_table_and_the_same_again(tmp_path: Path) -> None:
    arguments = ["reproduce", "table1", "--out", str(tmp_path), "--subjects", "1", "--prompts", "1", "--workers", "1",
                 "--methods", "base,blip-diffusion-zero-shot"]  # fmt: skip
    assert main(arguments) == 0
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert set(files) == {"table1.csv", "table1.md", "table1.png"}
    frame = read_csv(tmp_path / "table1.csv").query("source == 'measured'").set_index("row")
    assert frame.loc["blip-diffusion-zero-shot", "identity"] > frame.loc["base", "identity"]
    assert frame.loc["base", ["n_images", "held_out_subjects"]].tolist() == [1, 1]
    # the base draws the same images, whichever references there are
    images = [
        sorted((folder / "images/seed0/base").rglob("*.png"))
        for folder in (tmp_path / "table1", tmp_path / "table1/held-out")
    ]
    assert [path.read_bytes() for path in images[0]] == [path.read_bytes() for path in images[1]]
    for folder, count in (("seen", 3), ("unseen", 2)):
        references = tmp_path / "table1/held-out" / folder / "references"
        assert min(len(list(one.iterdir())) for one in references.iterdir()) >= min(count, 2)
    next((tmp_path / "table1/images/seed0/base").rglob("*.png")).unlink()  # a run that was stopped resumes
    assert main(arguments) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == files
    assert main([*arguments[:-1], "base"]) == 0  # fewer rows in the same folder: the CSV is of these
    assert list(read_csv(tmp_path / "table1.csv").query("source == 'measured' and method == method")["row"]) == ["base"]
