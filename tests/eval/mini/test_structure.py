"""control-mini: its ratios against closed forms, and a run from end to end with the shipped ControlNet."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from bdkit import cli
from bdkit.utils.io import read_json
from dreambench.editing import EditMiniConfig
from eval.mini.structure import CONTROLLED, RECONSTRUCTION, TEXT, TEXT_CONTROLLED, ZERO_SHOT, ratios, run_control_mini
from eval.report.statistics import ratio_interval


def test_a_ratio_is_that_of_means_paired_over_scenes() -> None:
    first = np.array([0.2, 0.4, 0.9])
    assert ratio_interval(3 * first, first) == pytest.approx((3, 3))
    assert ratio_interval(first[:1], first[:1]) == (None, None)
    low, high = ratio_interval(first, np.ones(3))
    assert low < first.mean() < high
    lines = [
        {"row": row, "scene": scene, "same_class": scene != "c", "sample": sample, "edge_f1": f1 + sample / 10}
        | {"dino": 0.5, "identity": 0.5, "clip_t": 0.5}
        for row, gain in ((CONTROLLED, 2.0), (ZERO_SHOT, 1.0))
        for scene, f1 in (("a", 0.1 * gain), ("b", 0.3 * gain), ("c", 0.3 * gain))
        for sample in range(2)
    ]
    table = ratios(pd.DataFrame(lines)).set_index(["scenes", "metric"])
    assert table.loc[("same class", "edge_f1"), "ratio"] == pytest.approx((0.4 + 0.05) / (0.2 + 0.05))
    assert table.loc[("all", "edge_f1"), "n"] == 3
    assert table.loc[("all", "dino"), "ratio"] == 1


@pytest.mark.slow
@pytest.mark.weights
def test_a_run_keeps_edges_and_the_model_resumes_and_is_refused_other_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    assert cli.main(["bench", "control-mini", "--scenes", "2", "--split", "dev", "--out", str(tmp_path)]) == 0
    assert CONTROLLED in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "table.csv")
    means = table[table["scenes"] == "all"].set_index(["row", "metric"])["mean"]
    assert means[RECONSTRUCTION, "edge_f1"] > 0.6
    assert means[CONTROLLED, "edge_f1"] > 1.2 * means[ZERO_SHOT, "edge_f1"]
    assert means[TEXT_CONTROLLED, "edge_f1"] > 1.2 * means[TEXT, "edge_f1"]
    run = read_json(tmp_path / "run.json")
    assert run["model_unchanged"]
    assert (run["controlnet"], run["scenes"]) == ("mini-canny", 2)
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.width > 8 * 64
    images = sorted((tmp_path / "images").rglob("*.png"))
    assert len(images) == 2 * 2 * 4
    times = [path.stat().st_mtime_ns for path in images]
    run_control_mini(EditMiniConfig(scenes=2, split="dev"), tmp_path, show_progress=False)
    assert [path.stat().st_mtime_ns for path in images] == times
    for more in (["--split", "test"], ["--methods", "text"], ["--scenes", "101"]):
        assert cli.main(["bench", "control-mini", "--out", str(tmp_path), *more]) == 2
    lines = capsys.readouterr().err.splitlines()
    for text in ("other settings", "no --methods", "no number of them"):
        assert any(text in line for line in lines), text
