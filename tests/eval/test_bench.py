import csv
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from eval_helpers import METHODS, ROWS
from eval_helpers import tiny_evaluators as evaluators
from PIL import Image

from dreambench.registry import load_suite
from eval.bench import BenchConfig, run_bench
from eval.report.statistics import estimates, subject_means
from eval.report.tables import format_figure, make_tables, markdown, summarise
from eval.results_dir import REAL

FILES = {
    "suite.json", "references", "images", "run.json", "scores.csv", "scores.parquet", "table.csv",
    "table.md", "differences.csv", "correlations.csv", "by_subject.csv", "by_prompt.csv", "by_split.csv", "grid.png",
    "plots", "report.html", "nearest.csv",
}  # fmt: skip


def run(out: Path, **named: object) -> Path:
    config = BenchConfig(
        **{"suite": "mini-quick", "out": out, "rows": ROWS, "prompts": 2, "seed_sets": (0, 1), **named}
    )
    return run_bench(config, methods=METHODS, evaluators=evaluators(), show_progress=False)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("bench"))


def test_leaves_exactly_the_named_files_and_the_same_again(out: Path) -> None:
    assert {path.name for path in out.iterdir()} == FILES
    before = {name: (out / name).read_bytes() for name in ("scores.csv", "table.csv", "grid.png")}
    run(out)
    assert {name: (out / name).read_bytes() for name in before} == before


def test_table_holds_the_figures_and_what_they_were_made_with(out: Path) -> None:
    table = pd.read_csv(out / "table.csv", dtype={"learning_rate": str}).set_index("row")
    assert list(table.index) == [REAL, "real-images-with-self-pairs", "ground-truth", "tiny-2", "tiny", "plain"]
    scores = pd.read_csv(out / "scores.csv")
    figure = estimates(subject_means(scores))["tiny", "dino"]
    for part, name in (("mean", "dino"), ("spread", "dino_spread"), ("low", "dino_low"), ("high", "dino_high")):
        assert table.loc["tiny", name] == pytest.approx(getattr(figure, part), abs=1e-6)
    suite = load_suite("mini-quick").limited(prompts=2)
    row = table.loc["tiny-2"]
    assert (row["method"], row["steps"], row["learning_rate"], row["seed_sets"]) == ("tiny", 2, "0.2", "0 1")
    assert (row["n_images"], row["n_subjects"]) == (2 * suite.n_images, len(suite.subjects))
    assert (row["protocol"], row["suite_hash"], row["checkpoint"]) == ("mini", suite.hash, "a")
    assert table.loc["tiny", "steps"] == 6
    assert row["device"]
    assert "torch=" in row["versions"]
    assert pd.isna(table.loc[REAL, "clip_t"])
    assert pd.isna(table.loc[REAL, "dino_spread"])


def test_markdown_has_every_row_and_the_paper(out: Path) -> None:
    text = (out / "table.md").read_text()
    for words in ("Real images (no self-pairs)", "tiny-2", "±", "[0.", "Retrieval", "0.670 ±0.004", "ρ"):
        assert words in text
    results = summarise(out)
    assert markdown(results) == text
    line = next(line for line in text.splitlines() if line.startswith("| tiny |"))
    assert format_figure(results.estimates["tiny", "dino"]) in line


def test_shards_make_images_and_the_whole_command_scores_them(out: Path, tmp_path: Path) -> None:
    for shard in ("2/2", "1/2"):
        run(tmp_path, shard=shard)
        assert not {"scores.csv", "table.md", "report.html"} & {path.name for path in tmp_path.iterdir()}
    run(tmp_path)
    for name in ("scores.csv", "table.csv"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def test_report_needs_no_other_file_and_the_grid_has_every_tile(out: Path) -> None:
    page = (out / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert all(source.startswith("#") for source in sources)
    assert page.count("data-image=") == 5 * 6
    assert "://" not in page.partition('id="pack"')[0].replace("http-equiv", "")
    grid = Image.open(out / "grid.png")
    # a reference and four kinds of images; every subject with two prompts
    assert grid.width == 6 + 5 * (128 + 6)
    assert grid.height > 2 * len(load_suite("mini-quick").subjects) * 128
    assert len(grid.convert("RGB").getcolors(maxcolors=2**24) or []) > 1000


def test_run_record_is_complete(out: Path) -> None:
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "complete"
    assert set(record["wall_seconds"]) == {"generate", "score", "report"}
    assert record["config"]["prompts"] == 2
    assert record["scoring"]["evaluators"]["dino"] == {"file": "tiny", "sha256": "1"}
    assert set(record["rows"]) == {"tiny", "tiny-2", "plain"}
    assert {"device", "versions", "commit", "fit_seconds", "draw_seconds"} <= set(record)


def test_chosen_methods_only(tmp_path: Path) -> None:
    run(tmp_path, methods=("plain",), subjects=1, seed_sets=(0,), ground_truth=False)
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert set(scores["method"]) == {REAL, "real-images-with-self-pairs", "plain"}
    table = pd.read_csv(tmp_path / "table.csv")
    assert table["dino_low"].isna().all()
    assert "There is no ±" in (tmp_path / "table.md").read_text()


def test_tables_of_scores_from_elsewhere(out: Path, tmp_path: Path) -> None:
    """Only suite.json and scores.csv are needed."""
    for name in ("suite.json", "scores.csv"):
        (tmp_path / name).write_bytes((out / name).read_bytes())
    results = make_tables(tmp_path)
    assert "tiny" in results.rows
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert {row["steps"] for row in rows} == {""}
