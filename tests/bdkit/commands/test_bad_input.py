"""What a user can get wrong on the command line: one line that says what to do, exit code 2, nothing half-written."""

from pathlib import Path

import pytest
from PIL import Image

from bdkit import cli
from bdkit.utils.io import write_json
from dreambench.registry import load_suite
from dreambench.suites import suite_to_json


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refused command prints."""
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("bdkit: error: ")
    assert err.count("\n") == 1
    return err


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bench", "maxi"], "unknown suite 'maxi'; known are dreambench, dreambench-plus, mini"),
        (["bench", "mini@-1"], "unknown suite"),
        (["bench", "mini-quick", "--methods", "lora"], "unknown method 'lora'; known are base"),
        (["bench", "mini-quick", "--subjects", "0"], "leaves nothing to measure"),
        (["bench", "mini-quick", "--seed-sets", "0,0"], "seed sets must be different"),
        (["bench", "mini-quick", "--samples", "two"], "--samples"),
        (["bench", "mini-quick", "--protocol", "x"], "protocol 'x'"),
        (["score", "results"], "suite.json is missing"),
        (["table", "results"], "suite.json is missing"),
        (["world", "sheet", "--kind", "map"], "unknown kind of sheet 'map'"),
        (["world", "sheet", "--split", "all"], "unknown split 'all'"),
        (["world", "sheet", "--columns", "0"], "--columns is 0"),
        (["fetch", "mini"], "invalid choice: 'mini'"),
        (["fetch", "dreambench", "--base-url", "file:///etc"], "not an http or https address"),
        (["generate", "--prompt", "a {}", "--out", "out", "--seeds", "3-1"], "runs backwards"),
        (["generate", "--prompt", " ", "--out", "out"], "the prompt is empty"),
        (["generate", "--prompt", "a dog", "--out", "out", "--model", "maxi"], "no model at 'maxi'"),
        (["generate", "--prompt", "a {}", "--out", "out", "--images", "nowhere"], "nowhere is not a folder"),
        (["generate", "--prompt", "a {}"], "--out is missing"),
        (["finetune", "--subject", "dog", "--out", "out"], "--images"),
        (["finetune", "--images", "nowhere", "--subject", "dog", "--out", "out"], "nowhere is not a folder"),
        (["pretrain"], "WHAT"),
        (["pretrain", "stage3"], "invalid choice: 'stage3'"),
    ],
)
def test_a_wrong_value_is_refused(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in refused(arguments, capsys)
    assert everything_in(tmp_path) == []


def test_score_names_the_images_that_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = load_suite("mini-quick").limited(subjects=1, prompts=1)
    write_json(suite_to_json(suite), tmp_path / "suite.json")
    folder = tmp_path / "pictures" / "seed0" / "mine" / "dog"
    folder.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(folder / "00-0.png")
    err = refused(["score", str(tmp_path)], capsys)
    assert "1 images are missing" in err
    assert "pictures/seed0/mine/dog/00-1.png" in err
    assert not (tmp_path / "scores.csv").exists()


@pytest.mark.parametrize("command", ["generate", "finetune"])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "no images in"),
        (lambda folder: (folder / "a.png").write_bytes(b"not an image"), "a.png is not a readable image"),
        (lambda folder: Image.new("RGB", (100, 10)).save(folder / "a.png"), "a.png is a strip of 100 x 10"),
    ],
)
def test_images_that_cannot_be_used_are_named(
    command: str, make: object, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    make(folder)  # type: ignore[operator]
    prompt = ["--prompt", "a {}"] if command == "generate" else []
    out = tmp_path / "out"
    assert words in refused([command, "--images", str(folder), "--subject", "dog", "--out", str(out), *prompt], capsys)
    assert not out.exists()


def test_a_sheet_is_written_and_nothing_else(tmp_path: Path) -> None:
    assert cli.main(["world", "sheet", "--kind", "outfits", "--upscale", "1", "--out", str(tmp_path / "a.png")]) == 0
    assert everything_in(tmp_path) == ["a.png"]
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size == (11 * 66 + 2, 6 * 66 + 2)
