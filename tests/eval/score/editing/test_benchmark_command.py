"""`bdkit score --benchmark` and `bdkit table` of edited images: missing ones, bad input, published rows."""

import json
from pathlib import Path

import pandas as pd
import pytest
from edit_folders import PLACES, pie_paths, write_edits, write_pie_bench
from PIL import Image

from bdkit.cli import main
from eval.report.editing import edit_markdown, summarise_edits

PIXELS = "psnr_unedit_part,mse_unedit_part,ssim_unedit_part,psnr_unedit_part_mended"


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    return write_pie_bench(tmp_path / "data")


@pytest.fixture
def edits(bench: Path, tmp_path: Path) -> Path:
    return write_edits(bench, tmp_path / "edits")


def score(edits: Path, bench: Path, out: Path, *more: str) -> int:
    named = ["--benchmark", "pie-bench", "--benchmark-dir", str(bench), "--out", str(out), "--metrics", PIXELS]
    return main(["score", str(edits), "--no-cache", *named, *more])


def test_edits_are_scored_and_tabled_beside_published_rows(edits, bench, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert score(edits, bench, out) == 0
    assert "makes the table" in capsys.readouterr().out
    first = (out / "scores.csv").read_bytes()
    assert score(edits, bench, out) == 0
    assert (out / "scores.csv").read_bytes() == first
    record = json.loads((out / "run.json").read_text())["scoring"]
    assert record["benchmark"] == "pie-bench"
    assert record["images"] == {name: {"scored": 4, "expected": 4} for name in ("ours", "strips")}
    assert main(["table", str(out), "--published"]) == 0
    printed = capsys.readouterr().out
    table = pd.read_csv(out / "table.csv")
    mean = table[(table["method"] == "ours") & (table["metric"] == "psnr_unedit_part")].iloc[0]
    assert (mean["n"], mean["n_undefined"]) == (3, 1)
    assert f"| ours | {mean['mean']:.2f} [{mean['low']:.2f}, {mean['high']:.2f}]" in printed
    assert "| Direct (PnP) inversion, Prompt-to-Prompt, SD 1.4 | 27.22 | 32.86 | 84.76 |" in printed
    assert "PSNR 1/4" in printed
    assert "The published benchmark has 700 images; these are 4." in printed
    assert set(pd.read_csv(out / "by_kind.csv")["kind"].astype(str)) == {"1", "8", "9"}
    assert main(["table", str(out)]) == 0
    assert "27.22" not in capsys.readouterr().out


def test_means_and_factors(tmp_path) -> None:
    values = [0.001, 0.003, float("nan")]
    lines = [("a", "1", f"x/{n}", "mse_unedit_part", value, "pie-bench") for n, value in enumerate(values)]
    scores = pd.DataFrame(lines, columns=["method", "kind", "image", "metric", "value", "protocol"])
    table = summarise_edits(scores, ["method"])
    assert table.iloc[0]["mean"] == pytest.approx(0.002)
    assert "| a | 20.00 [10.00, 30.00] | MSE 1/3 |" in edit_markdown("pie-bench", table.assign(kind=""))


def test_missing_images_stop_it_or_count(edits, bench, tmp_path, capsys) -> None:
    lost = [(edits / "ours" / path).with_suffix(".png") for path in list(pie_paths().values())[:2]]
    for path in lost:
        path.unlink()
    assert score(edits, bench, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert f"2 images are missing in {edits}: ours/{PLACES['1']}/000000.jpg" in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out/scores.csv").exists()
    assert pd.read_csv(tmp_path / "out/problems.csv")["kind"].tolist() == ["missing", "missing"]
    assert score(edits, bench, tmp_path / "out", "--allow-missing") == 0
    assert "warning: 2 images are missing" in capsys.readouterr().err
    assert json.loads((tmp_path / "out/run.json").read_text())["scoring"]["images"]["ours"]["scored"] == 2
    assert main(["table", str(tmp_path / "out")]) == 0
    assert "ours (2/4 images)" in capsys.readouterr().out


def test_surplus_doubled_and_misshapen_images_are_named(edits, bench, tmp_path, capsys) -> None:
    path = (edits / "ours" / pie_paths()["000"]).with_suffix(".png")
    Image.open(path).save(path.with_name("other.png"))
    assert score(edits, bench, tmp_path / "out") == 2
    assert "other.png" in capsys.readouterr().err
    assert score(edits, bench, tmp_path / "out", "--ignore-surplus") == 0
    Image.open(path).save(path.with_suffix(".bmp"))
    assert score(edits, bench, tmp_path / "out", "--ignore-surplus") == 2
    assert "a place that another has too" in capsys.readouterr().err
    path.with_suffix(".bmp").unlink()
    Image.open(path).resize((32, 32)).save(path)
    assert score(edits, bench, tmp_path / "out", "--ignore-surplus") == 2
    assert "it has 32 x 32 pixels, its source 64 x 64" in capsys.readouterr().err
    path.write_bytes(b"no image")
    assert score(edits, bench, tmp_path / "out", "--ignore-surplus") == 2
    assert "cannot be read" in capsys.readouterr().err


def test_one_method_may_lie_in_the_folder_itself(edits, bench, tmp_path) -> None:
    assert score(edits / "strips", bench, tmp_path / "out", "--method", "mine") == 0
    assert set(pd.read_csv(tmp_path / "out/scores.csv")["method"]) == {"mine"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entries: entries["000"].update(mask=[1, 2, 3]), "image '000': the mask is no list of pairs"),
        (lambda entries: entries["000"].update(mask="1 2"), "image '000': the mask is no list of pairs"),
        (lambda entries: entries["000"].update(mask=[-1, 2]), "image '000': the mask is no list of pairs"),
        (lambda entries: entries["000"].pop("mask"), "image '000': the mask is no list of pairs"),
        (lambda entries: entries["001"].pop("editing_prompt"), "image '001' has no text 'editing_prompt'"),
        (lambda entries: entries["001"].update(image_path="../x.jpg"), "leads out of annotation_images"),
        (lambda entries: entries["001"].update(image_path=entries["000"]["image_path"]), "the image_path of another"),
        (lambda entries: entries["001"].update(image_path="1/gone.jpg"), "1 of 4 images that"),
        (lambda entries: entries.update({"001": []}), "image '001' is no JSON object"),
        (lambda entries: entries.clear(), "lists no images"),
    ],
)
def test_a_bad_mapping_file_is_one_line(edits, bench, tmp_path, capsys, change, message) -> None:
    path = bench / "mapping_file.json"
    entries = json.loads(path.read_text())
    change(entries)
    path.write_text(json.dumps(entries))
    assert score(edits, bench, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--suite", "mini"], "--benchmark pie-bench has no --suite"),
        (["--photos", "x"], "--benchmark pie-bench has no --photos"),
        (["--workers", "2"], "--benchmark pie-bench has no --workers"),
        (["--metrics", "dino"], "unknown metric 'dino'; known are structure_distance"),
        (["--method", "one"], "--method names the images of one method"),
        (["--benchmark-dir", "nowhere"], "mapping_file.json is missing"),
        (["--metrics", "clip_similarity_target_image", "--offline"], "clip_224.openai are not here (--offline)"),
        (["--metrics", "structure_distance", "--offline"], "patch8_224.dino are not here (--offline)"),
        (["--metrics", "lpips_unedit_part"], "LPIPS needs squeezenet1_1"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(edits, bench, tmp_path, capsys, monkeypatch, more, message) -> None:
    monkeypatch.setenv("BDKIT_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert score(edits, bench, tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_what_is_needed_is_asked_for(edits, bench, tmp_path, capsys) -> None:
    assert main(["score", str(edits), "--benchmark", "pie-bench", "--out", str(tmp_path / "out")]) == 2
    assert "--benchmark-dir is missing" in capsys.readouterr().err
    assert main(["score", str(edits), "--benchmark-dir", str(bench), "--out", str(tmp_path / "out")]) == 2
    assert "--benchmark-dir needs --benchmark" in capsys.readouterr().err
    assert main(["score", str(edits), "--benchmark", "pie-bench", "--benchmark-dir", str(bench)]) == 2
    assert "--out is missing" in capsys.readouterr().err
    assert score(bench, bench, tmp_path / "out", "--method", "self") == 0, "the sources themselves: no edit"
    assert score(tmp_path / "nothing", bench, tmp_path / "out") == 2
    assert "is not a folder" in capsys.readouterr().err
    assert main(["table", str(tmp_path / "out"), "--against", "self"]) == 2
    assert "--against and --split are for suites" in capsys.readouterr().err


def test_tables_of_several_folders(edits, bench, tmp_path, capsys) -> None:
    for name in ("ours", "strips"):
        assert score(edits / name, bench, tmp_path / name) == 0
    assert main(["table", str(tmp_path / "ours"), str(tmp_path / "strips"), "--save", str(tmp_path / "both")]) == 0
    assert (tmp_path / "both/table.md").read_text() in capsys.readouterr().out
    assert not (tmp_path / "ours/table.md").exists()
    assert score(edits / "ours", bench, tmp_path / "again") == 0
    assert main(["table", str(tmp_path / "ours"), str(tmp_path / "again")]) == 2
    assert "both have images of 'ours'" in capsys.readouterr().err
