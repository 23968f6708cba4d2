import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from bdkit.utils.env import commit
from bdkit.utils.errors import InputError
from dreambench.editing import EditMiniConfig
from eval.paper import combination
from eval.paper.config import ReproduceConfig
from eval.paper.results_files import read_csv, show
from eval.results_dir import update_run


def test_photos_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`bdkit edit`"):
        combination.run(ReproduceConfig(experiment="combination", suite="dreambench", out=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_another_suite_is_refused_and_the_development_suite_is_another_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="mini@0 and mini-dev alone"):
        combination.run(ReproduceConfig(experiment="combination", suite="mini-quick", out=tmp_path))
    splits = []

    def measure(scenes: EditMiniConfig, *_: object) -> Path:
        splits.append(scenes.split)
        raise InputError("stop")

    monkeypatch.setattr("eval.mini.structure.run_control_mini", measure)
    for suite in ("mini", "mini-dev"):
        with pytest.raises(InputError, match="stop"):
            combination.run(ReproduceConfig(experiment="combination", suite=suite, out=tmp_path))
    assert splits == ["test", "dev"]


@pytest.mark.slow
@pytest.mark.weights
def test_both_benches_end_in_one_csv_that_says_who_made_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setitem(combination.SCENES, "small", 2)
    config = ReproduceConfig(experiment="combination", out=tmp_path)
    path = combination.run(config)
    frame = read_csv(path, "combination")
    figures = frame[frame["kind"] == "figure"].set_index(["part", "scenes", "row"])
    compared = frame[frame["kind"] == "comparison"].set_index(["part", "scenes", "row", "minus"])
    for part, scenes in (("control", "same class"), ("editing", "generated")):
        table = pd.read_csv(tmp_path / "combination" / part / "table.csv")
        for line in table[table.iloc[:, :2].eq(scenes).any(axis=1)].to_dict("records"):
            own = figures.loc[(part, scenes, line["row"])]
            assert own[line["metric"]] == pytest.approx(line["mean"], nan_ok=True)
    ratio = compared.loc[("control", "all", "subject + edges", "subject")]
    both = (figures.loc[("control", "all", row), "edge_f1"] for row in ("subject + edges", "subject"))
    assert ratio["edge_f1"] == pytest.approx(next(both) / next(both), abs=1e-3)
    difference = compared.loc[("editing", "real", "fixed", "lavis"), "identity"]
    fixed, lavis = (figures.loc[("editing", "real", row), "identity"] for row in ("fixed", "lavis"))
    assert difference == pytest.approx(fixed - lavis, abs=1e-3)
    assert set(frame["commit"]) == {commit()}
    assert figures.loc[("control", "all", "text"), "n_images"] == 4
    assert figures.loc[("editing", "real", "fixed"), "n_images"] == 2
    whole = path.read_text().replace(str(commit()), "drew")
    for part in ("control", "editing"):
        update_run(tmp_path / "combination" / part, commit="drew")
    images = {name: name.stat().st_mtime_ns for name in (tmp_path / "combination").rglob("*/images/**/*.png")}
    assert len(images) == 2 * 2 * 4 + 2 * (6 + 7 + 2)  # rows and samples; rows of both kinds, and sources
    assert combination.run(config).read_text() == whole
    assert images == {name: name.stat().st_mtime_ns for name in images}
    for lost in ("masks/fixed/real", "images/lavis/generated"):
        shutil.rmtree(tmp_path / "combination/editing" / lost)
        combination.run(config)
        assert path.read_text().replace(str(commit()), "drew") == whole
    (tmp_path / "combination/editing/run.json").unlink()
    with pytest.raises(InputError, match=r"holds images without run\.json"):
        combination.run(config)
    assert path.read_text().replace(str(commit()), "drew") == whole
    text = show(path)
    for part in ("control", "editing"):
        grid = tmp_path / "combination" / part / "grid.png"
        assert (tmp_path / f"combination-{part}.png").read_bytes() == grid.read_bytes()
    for words in ("2 scenes", "subject + edges", "PSNR outside the mask", "| real | fixed | lavis |"):
        assert words in text
