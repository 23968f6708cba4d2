"""`bdkit interpolate` with an untrained model: files, their repeatability, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bdkit import cli
from bdkit.testing.tiny_model import tiny_model
from bdkit.utils.io import read_json, write_json


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model().save_pretrained(tmp_path_factory.mktemp("model") / "tiny")


def arguments(model: Path, out: Path, *more: object) -> list[str]:
    return ["interpolate", "--model", str(model), "--out", str(out), "--num-inference-steps", "2", *map(str, more)]


def test_folders_and_suite_subjects_are_walked(model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(mine / "a.png")
    for name in ("one", "two"):
        assert cli.main(arguments(model, tmp_path / name, mine, "mini/dog", "--subject", "cat,dog", "--steps", 3)) == 0
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert set(one) == {"00.png", "01.png", "02.png", "strip.png", "walk.gif", "run.json"}
    assert one == two
    record = read_json(tmp_path / "one" / "run.json")
    assert record["settings"]["steps"] == 3
    assert [subject["class_noun"] for subject in record["subjects"]] == ["cat", "dog"]


def test_what_a_killed_walk_left_is_made_again_by_the_same_command(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = arguments(model, out, "mini/dog", "mini/dog6", "--steps", 2)
    assert cli.main(command) == 0
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    record = read_json(out / "run.json")
    write_json({key: record[key] for key in ("settings", "checkpoint", "subjects")}, out / "run.json")
    for name in ("01.png", "strip.png", "walk.gif"):
        (out / name).unlink()
    (out / ".writing-01.tmp").write_bytes(b"half an image")
    assert cli.main([*command, "--seed", "1"]) == 2
    assert "out already holds something" in capsys.readouterr().err
    assert cli.main(command) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["mini/dog"], "SECOND"),
        (["mini/dog", "mini/dog6", "--steps", 1], "at least 2"),
        (["mini/dog", "mini/dog99"], "no subject 'dog99'; it has backpack"),
        (["mini/dog", "{photos}"], "--subject is missing"),
        (["mini/dog", "nowhere"], "nowhere is not a folder"),
        (["mini/dog", "nowhere", "--subject", "dog"], "nowhere is not a folder"),
        (["mini/dog", "mini/dog6", "--prompt", "a dog"], "needs one {}"),
        (["mini/dog", "mini/dog6", "--subject", "dog,cat,cat"], "names 3 class words"),
        (["mini/dog", "mini/dog6", "--path", "round"], "'round' is not one of spherical, linear"),
    ],
)
def test_a_wrong_value_is_refused(
    more: list[Any], words: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "a.png")
    given = [str(each).replace("{photos}", str(tmp_path / "photos")) for each in more]
    assert cli.main(arguments(model, tmp_path / "out", *given)) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()
