"""`bdkit prepare`: what it prints, its contact sheet, and one line for bad input."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bdkit import cli
from bdkit.training.shards import jobs


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread in place of spawned processes, whose start takes seconds."""
    monkeypatch.setattr(jobs, "ProcessPoolExecutor", lambda workers, **_: ThreadPoolExecutor(1))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(0, 256, (40, 40, 4)).astype(np.uint8)
        pixels[..., 3] = 0
        pixels[10:30, 10:30, 3] = 255
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "2.png").write_bytes(b"damaged")
    lines = ["path,caption,subject", *(f"{number}.png,a red dog,dog" for number in range(3))]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    return folder


def test_images_become_shards_and_a_contact_sheet(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["prepare", str(images), "--captions", str(tmp_path / "list.csv"), "--out", str(out)]
    command += ["--masks", "alpha", "--size", "32", "--contact-sheet", "5"]
    for _ in range(2):
        assert cli.main(command) == 0
        printed = capsys.readouterr().out
        assert "holds 2 of 3 images in 1 shards" in printed
        assert "  1 damaged image\n" in printed
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.width == 788


def test_the_mini_world_becomes_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prepare", "mini", "--scenes", "5", "--out", str(tmp_path / "out"), "--contact-sheet", "2"]
    assert cli.main(command) == 0
    assert "holds 5 of 5 images" in capsys.readouterr().out
    assert (tmp_path / "out" / "contact_sheet.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "absent is missing or empty"),
        (["images"], "--captions FILE"),
        (["images", "--captions", "list.csv", "--scenes", "3"], "--scenes goes with mini only"),
        (["images", "--captions", "list.csv", "--size", "0"], "--size is 0"),
        (["images", "--captions", "list.csv", "--matting", "magic"], "'magic' is not one of cf, knn, lkm, guided"),
        (["images", "--captions", "list.csv", "--workers", "0"], "--workers is 0"),
        (["images", "--captions", "list.csv", "--masks", "none", "--contact-sheet", "0"], "--contact-sheet is 0"),
        (["mini", "--scenes", "0"], "--scenes is 0"),
        (["mini", "--captions", "list.csv"], "leave --captions out"),
    ],
)
def test_bad_input_is_one_line(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["prepare", *arguments, "--out", "out"]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("bdkit: error:") == 1
    assert printed.splitlines()[-1].startswith("bdkit: error:")


def test_help_does_not_import_torch() -> None:
    code = """
import sys
from bdkit.cli import main
try:
    main(["prepare", "--help"])
finally:
    print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
