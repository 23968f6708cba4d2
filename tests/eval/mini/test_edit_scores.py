"""edit-mini: its figures against closed forms, its segmenter, and a run from end to end."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from bdkit import cli
from dreambench.editing import EditMiniConfig, edit_scenes
from eval.mini.edit_scores import differences, keep_inside, psnr_outside, run_edit_mini, summarise
from eval.mini.editing import make_case, paste_reference
from eval.mini.segmenter import iou, load_segmenter, measure, scenes, segment
from eval.score.edit_metrics import Edit


def test_psnr_outside_is_that_of_the_pixels_outside() -> None:
    source = np.full((4, 4, 3), 100, np.uint8)
    image, mask = source.copy(), np.zeros((4, 4))
    image[:2] = 110
    mask[0] = 1
    # 4 of the 12 pixels outside are off by 10
    expected = 10 * np.log10(255**2 / (100 * 4 / 12))
    assert psnr_outside(Edit(image=image, source=source, mask=mask)) == pytest.approx(expected)
    assert psnr_outside(Edit(image=source, source=source, mask=mask)) == 60
    assert np.isnan(psnr_outside(Edit(image=image, source=source, mask=np.ones((4, 4)))))


def test_inside_is_cut_out_and_iou() -> None:
    mask = np.zeros((2, 2), bool)
    mask[0] = True
    pasted = np.asarray(keep_inside(Image.new("RGB", (2, 2), "red"), Image.new("RGB", (2, 2), "blue"), mask))
    assert pasted[0, 0].tolist() == [255, 0, 0]
    assert pasted[1, 0].tolist() == [0, 0, 255]
    assert iou(mask, np.eye(2, dtype=bool)) == pytest.approx(1 / 3)
    assert iou(~mask & mask, ~mask & mask) == 1


def test_intervals_and_paired_differences_are_over_scenes() -> None:
    values = {"psnr_outside": 20.0, "ssim_outside": 1.0, "lpips_outside": np.nan, "dino": 1.0, "identity_whole": 1.0}
    rows = [
        {**values, "row": row, "source": "real", "scene": str(k), "identity": k / 10 + gain, "mask_iou": np.nan}
        for row, gain in (("fixed", 0.2), ("lavis", 0.0))
        for k in range(5)
    ]
    table = summarise(pd.DataFrame(rows))
    found = table[(table["row"] == "fixed") & (table["metric"] == "identity")].iloc[0]
    assert found["mean"] == pytest.approx(0.4)
    assert found["low"] < 0.4 < found["high"]
    assert found["n"] == 5
    assert "lpips_outside" not in set(table["metric"])
    delta = differences(pd.DataFrame(rows)).set_index("metric").loc["identity"]
    assert (delta["difference"], delta["low"], delta["high"]) == pytest.approx((0.2, 0.2, 0.2))


@pytest.mark.weights
def test_the_segmenter_finds_subjects_that_it_never_saw() -> None:
    network = load_segmenter()
    assert measure(network, 30) > 0.9
    images, masks = scenes("held-out", 3, 1)
    pixels = images.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()
    found = segment(network, [Image.fromarray(image) for image in pixels])
    assert np.mean([iou(a, b) for a, b in zip(found, masks.numpy(), strict=True)]) > 0.9


@pytest.mark.weights
def test_a_run_resumes_and_is_refused_other_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["from-scratch", "paste", "no-edit", "no-edit", "right-answer"]
    torch.set_num_threads(1)
    config = EditMiniConfig(scenes=2, split="dev")
    out = run_edit_mini(config, tmp_path, rows=rows, show_progress=False)
    table = pd.read_csv(out / "table.csv")
    assert not pd.read_csv(out / "scores.csv").duplicated(["row", "source", "scene"]).any()
    kept = table[table["metric"] == "psnr_outside"].set_index(["source", "row"])["mean"]
    assert kept["real", "no-edit"] == 60
    assert kept["real", "from-scratch"] < 25
    identity = table[table["metric"] == "identity"].set_index(["source", "row"])["mean"]
    assert identity["real", "right-answer"] > identity["real", "no-edit"] + 0.3
    images = sorted((out / "images").rglob("*.png"))
    times = [path.stat().st_mtime_ns for path in images]
    run_edit_mini(config, tmp_path, rows=rows, show_progress=False)
    assert [path.stat().st_mtime_ns for path in images] == times
    for more in (["--split", "test"], ["--methods", "best", "--split", "dev"], ["--samples", "1"], ["--scenes", "0"]):
        assert cli.main(["bench", "edit-mini", "--out", str(tmp_path), *more]) == 2
    assert cli.main(["bench", "edit-mini", "--out", str(tmp_path / "new"), "--methods", "best"]) == 2
    assert not (tmp_path / "new").exists()
    assert cli.main(["bench", "mini-quick", "--scenes", "3"]) == 2
    lines = capsys.readouterr().err.splitlines()
    for text in ("other settings", "unknown row 'best'", "no --samples", "no number of them", "alone"):
        assert any(text in line for line in lines), text


@pytest.mark.weights
def test_a_pasted_reference_covers_the_sources_subject() -> None:
    case = make_case(edit_scenes("dev", 1)[0], "dev")
    source = Image.fromarray(case.source.image)
    pasted = paste_reference(case.references[0], source, load_segmenter())
    changed = (np.asarray(pasted) != case.source.image).any(axis=2)
    assert 0.1 < changed.mean() < 0.6
