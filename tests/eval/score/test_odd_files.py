"""Files as people have them: other suffixes, formats and names; images of one colour; colour profiles."""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from eval_helpers import PHOTO_SUITE as SUITE
from eval_helpers import draw, draw_tree
from eval_helpers import exact_evaluators as evaluators
from PIL import Image, ImageCms

from bdkit.utils.errors import InputError
from bdkit.utils.images import read_image
from eval.report.tables import markdown, summarise
from eval.results_dir import save_suite
from eval.score.images import read_images
from eval.score.score import ScoreOptions, score_images

FIRST = SUITE.subjects[0].name


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, subject in enumerate(SUITE.subjects):
        for index in range(subject.n_references):
            draw(tmp_path / "photos" / subject.name / f"{index:02d}.jpg", 1000 + 10 * number + index, (50, 60))
    return tmp_path / "photos"


def score(root: Path, out: Path, **options: object) -> pd.DataFrame:
    options = {"workers": 0, **options}
    return score_images(
        read_images(root, SUITE), SUITE, evaluators(), out, photos=root.parent / "photos",
        options=ScoreOptions(**options), show_progress=False,  # type: ignore[arg-type]
    )  # fmt: skip


def problems(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "problems.csv", keep_default_na=False)


@pytest.mark.parametrize("suffix", ["avif", "jfif", "jpe", "jp2", "ppm", "qoi"])
def test_images_of_other_suffixes_are_scored(suffix: str, tmp_path: Path, photos: Path) -> None:
    root = draw_tree(tmp_path / "mine")
    path = root / FIRST / "00-0.png"
    image = read_image(path)
    path.unlink()
    image.save(path.with_suffix(f".{suffix}"), Image.registered_extensions()[f".{suffix}"])
    frame = score(root, tmp_path / "out")
    counts = frame[frame["method"] == "mine"].groupby("metric")["value"].count()
    assert counts["dino"] == len(read_images(root, SUITE).images)


@pytest.mark.parametrize(
    ("name", "data", "kind", "words"),
    [
        ("00-0.heic", b"\0\0\0\x18ftypheic", "unreadable", "it is HEIC, a camera's own format"),
        ("00-0.jxl", b"\xff\x0a\0\0", "unreadable", "it is JPEG XL"),
        ("00-0.webm", b"\x1aE\xdf\xa3", "missing", "mine/../00-0.webm is no image that can be read here"),
        ("00-0", b"x", "missing", "00-0 is no image that can be read here"),
    ],
)
def test_a_file_that_lies_there_is_named(
    name: str, data: bytes, kind: str, words: str, tmp_path: Path, photos: Path
) -> None:
    root = draw_tree(tmp_path / "mine")
    (root / FIRST / "00-0.png").unlink()
    (root / FIRST / name).write_bytes(data)
    (root / FIRST / "00-1.txt").write_text("a caption beside its image")
    with pytest.raises(InputError, match=words.replace("mine/../", "")):
        score(root, tmp_path / "out")
    (row,) = problems(tmp_path / "out").to_dict("records")
    assert row["kind"] == kind
    assert (row["subject"], row["prompt"], row["sample"]) == (FIRST, 0, 0)
    assert words.replace("mine/../", "") in row["detail"]


def test_a_stray_name_that_is_not_utf8_is_listed_and_all_else_scored(tmp_path: Path, photos: Path) -> None:
    root = draw_tree(tmp_path / "mine")
    whole = score(root, tmp_path / "whole")
    stray = Path(os.fsdecode(os.fsencode(root / FIRST) + b"/caf\xe9.png"))
    shutil.copy(root / FIRST / "00-0.png", stray)
    with pytest.warns(UserWarning, match=r"1 files have names that are not UTF-8 in .*see"):
        frame = score(root, tmp_path / "out")
    pd.testing.assert_frame_equal(frame, whole)
    (row,) = problems(tmp_path / "out").to_dict("records")
    assert row["kind"] == "stray"
    assert row["path"] == f"{FIRST}/caf\\udce9.png"


def test_a_method_whose_folder_is_not_utf8_is_scored_under_a_name_that_is(tmp_path: Path, photos: Path) -> None:
    draw_tree(Path(os.fsdecode(os.fsencode(tmp_path) + b"/all/m\xe9thode")))
    draw_tree(tmp_path / "all" / "plain")
    frame = score(tmp_path / "all", tmp_path / "out")
    assert "m\\udce9thode" in set(frame["method"])
    assert (tmp_path / "out/scores.csv").read_text(encoding="utf-8")


def test_images_of_one_colour_are_counted_and_named_every_time(tmp_path: Path, photos: Path) -> None:
    root = draw_tree(tmp_path / "mine")
    Image.new("RGB", (48, 40)).save(root / FIRST / "00-0.png")
    Image.new("RGB", (48, 40), (7, 8, 9)).save(root / FIRST / "00-1.jpg", quality=100)
    (root / FIRST / "00-1.png").unlink()
    save_suite(SUITE, tmp_path / "out")
    for _ in range(2):  # the second time all is in the cache
        with pytest.warns(UserWarning, match=rf"2 images are of one colour .*{FIRST}/00-0.png, {FIRST}/00-1.jpg"):
            frame = score(root, tmp_path / "out", cache=tmp_path / "cache")
    assert len(frame[(frame["method"] == "mine") & (frame["subject"] == FIRST) & (frame["prompt"] == 0)])
    assert set(problems(tmp_path / "out")["kind"]) == {"one colour"}
    counts = json.loads((tmp_path / "out/run.json").read_text())["scoring"]["images"]["mine"]
    assert counts["one_colour"] == 2
    assert counts["scored"] == counts["expected"]
    n = counts["scored"]
    assert f"WARNING, images of one colour: mine (2 of {n})" in markdown(summarise(tmp_path / "out"))


def test_an_image_of_few_bits_is_named_and_a_profile_changes_no_score(tmp_path: Path, photos: Path) -> None:
    root = draw_tree(tmp_path / "mine")
    path = root / FIRST / "00-0.png"
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    whole = score(root, tmp_path / "whole")
    image = read_image(path)
    image.save(path, icc_profile=lab)
    assert Image.open(io.BytesIO(path.read_bytes())).info["icc_profile"]
    pd.testing.assert_frame_equal(score(root, tmp_path / "out"), whole)
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16)).save(path)
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"00-0.png comes out black: its largest value is \d+ of 65535"):
            score(root, tmp_path / "out", cache=tmp_path / "cache")
