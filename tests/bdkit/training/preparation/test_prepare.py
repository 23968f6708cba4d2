"""From images with captions to records: what is left out and why, what a record holds."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from prepare_examples import COLUMNS, SIZE, files_of, prepare, rejections, write_list

from bdkit.training.preparation.prepare import PrepareConfig, has_noun, prepare_images
from bdkit.training.shards.contact_sheet import contact_sheet
from bdkit.training.shards.read import Shards
from bdkit.utils.errors import InputError


def test_a_record_holds_image_alpha_foreground_and_trimap(
    images: Path, tmp_path: Path, scenes: list[tuple[np.ndarray, np.ndarray, str]]
) -> None:
    result = prepare(images, tmp_path / "out", matting="cf")
    assert (result["read"], result["accepted"]) == (8, 8)
    shards = Shards(tmp_path / "out")
    for number, (image, alpha, noun) in enumerate(scenes):
        record = shards[number]
        assert list(record.files) == ["json", "jpg", "alpha.png", "foreground.jpg", "trimap.png"]
        details = record.details
        assert (details["subject"], details["source"]) == (noun, f"a/{number}.png")
        assert (details["width"], details["height"]) == (SIZE, SIZE)
        assert record.template() == "a photo of a {}"
        assert np.abs(record.image().astype(int) - image).mean() < 3  # JPEG
        exact = record.pixels("alpha.png", "L").astype(int) - alpha
        assert np.abs(exact).mean() < 5
        known = record.pixels("trimap.png", "L")
        assert set(np.unique(known)) == {0, 128, 255}
        assert (known[alpha < 10] < 255).all()
        rows, columns = np.flatnonzero((alpha > 127).any(1)), np.flatnonzero((alpha > 127).any(0))
        box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert np.abs(np.subtract(details["box"], box)).max() <= 3
        assert details["area"] == pytest.approx(alpha.mean() / 255, abs=0.03)


def test_large_images_are_made_smaller_and_small_ones_kept(images: Path, tmp_path: Path) -> None:
    root = tmp_path / "in"
    (root / "images").mkdir(parents=True)
    source = Image.open(images / "images" / "a" / "0.png")
    alpha = Image.open(images / "masks" / "a" / "0.png")
    for name, size in (("wide", (160, 120)), ("tiny", (30, 40))):
        source.resize(size).save(root / "images" / f"{name}.jpg", quality=95)
        alpha.resize(size).save(root / "images" / f"{name}.mask.png")
    rows = [
        {"path": f"{name}.jpg", "caption": "a dog", "subject": "Dog", "mask": f"{name}.mask.png"}
        for name in ("wide", "tiny")
    ]
    prepare(root, tmp_path / "out", write_list(root / "list.csv", rows), masks="alpha", size=60)
    shards = Shards(tmp_path / "out")
    assert [shards[n].image().shape for n in range(2)] == [(60, 80, 3), (40, 30, 3)]
    assert shards[0].pixels("alpha.png", "L").shape == (60, 80)


def test_transparency_is_taken_as_exact_alpha(
    images: Path, tmp_path: Path, scenes: list[tuple[np.ndarray, np.ndarray, str]]
) -> None:
    noun = scenes[2][2]
    rows = [
        {"path": "cutout2.png", "caption": f"a {noun}", "subject": noun},
        {"path": "a/1.png", "caption": f"a {noun}", "subject": noun},
    ]
    prepare(images, tmp_path / "out", write_list(tmp_path / "list.csv", rows), masks="alpha")
    record = Shards(tmp_path / "out")[0]
    assert (record.pixels("alpha.png", "L") == scenes[2][1]).all()
    assert "trimap.png" not in record.files
    assert rejections(tmp_path / "out")["a/1.png"][0] == "no mask"
    sheet = contact_sheet(Shards(tmp_path / "out"), 5)
    assert sheet.width == 4 * 196 + 4


def test_pairs_need_neither_mask_nor_noun(images: Path, tmp_path: Path) -> None:
    rows = [{"path": "a/0.png", "caption": "something"}, {"path": "a/1.png"}]
    result = prepare(images, tmp_path / "out", write_list(tmp_path / "list.csv", rows), masks="none")
    assert result["accepted"] == 2
    record = Shards(tmp_path / "out")[1]
    assert list(record.files) == ["json", "jpg"]
    assert record.details["caption"] is None


def test_each_rejected_image_has_its_reason(images: Path, tmp_path: Path) -> None:
    root = tmp_path / "in"
    folder = root / "images"
    folder.mkdir(parents=True)
    good = (images / "images" / "a" / "0.png").read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3)).astype(np.uint8)
    (folder / "good.png").write_bytes(good)
    (folder / "again.png").write_bytes(good)
    (folder / "cut.png").write_bytes(good[:1500])
    (folder / "text.jpg").write_text("no image")
    Image.new("RGB", (10, 200)).save(folder / "strip.png")
    masks = {
        "small": np.s_[30:36, 30:36],
        "large": np.s_[0:63, 0:64],
        "borders": np.s_[30:40, :],
        "empty": np.s_[0:0, 0:0],
        "thin": np.s_[30:31, 5:60],
    }
    for number, (name, where) in enumerate(masks.items()):
        Image.fromarray(noise[number]).save(folder / f"{name}.png")
        mask = np.zeros((64, 64), np.uint8)
        mask[where] = 255
        if name == "borders":
            mask[:, 30:40] = 255
        Image.fromarray(mask).save(folder / f"{name}.mask.png")
    for number, name in enumerate(("noun", "caption", "subject", "mask")):
        Image.fromarray(noise[5 + number % 4]).save(folder / f"{name}.png")
    mask = images / "masks" / "a" / "0.png"
    expected = {
        "again": "duplicate",
        "cut": "damaged image",
        "text": "damaged image",
        "strip": "damaged image",
        "small": "mask too small",
        "large": "mask too large",
        "borders": "touches all borders",
        "empty": "subject not found",
        "thin": "subject not found",
        "noun": "caption without the noun",
        "caption": "no caption",
        "subject": "no class noun",
        "mask": "no mask",
    }
    rows = []
    for name in ["good", *expected]:
        row = {"path": f"{name}.{'jpg' if name == 'text' else 'png'}", "caption": "a dog", "subject": "dog"}
        row["mask"] = "none.png" if name == "mask" else f"{name}.mask.png" if name in masks else str(mask)
        row |= {"noun": {"subject": "cat"}, "caption": {"caption": " "}, "subject": {"subject": ""}}.get(name, {})
        rows.append(row)
    # masks are named in the list, from the images' folder
    result = prepare(root, tmp_path / "out", write_list(root / "list.csv", rows), masks=str(folder))
    assert {source.split(".")[0]: reason for source, (reason, _) in rejections(tmp_path / "out").items()} == expected
    assert result["rejected"] == dict(sorted(Counter(expected.values()).items()))
    assert result["accepted"] == 1
    details = {source: detail for source, (_, detail) in rejections(tmp_path / "out").items()}
    assert details["again.png"] == "the same as 000000000"
    assert details["noun.png"] == "'cat' is not in 'a dog'"
    assert details["large.png"].startswith("9")
    assert "\n" not in "".join(details.values())


@pytest.mark.parametrize(
    ("caption", "noun", "named"),
    [
        ("a photo of a dog.", "dog", True),
        ("Two Dogs run", "dog", True),
        ("a hot-dog", "dog", True),
        ("a dogma", "dog", False),
        ("an endoglyph", "dog", False),
        ("a stuffed  animal", "stuffed animal", False),
        ("a stuffed animal", "stuffed animal", True),
        ("glasses", "glasses", True),
        ("c++ code", "c++", True),
    ],
)
def test_has_noun(caption: str, noun: str, named: bool) -> None:
    assert has_noun(caption, noun) is named


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "tar"])
def test_every_kind_of_list_gives_the_same_records(images: Path, tmp_path: Path, suffix: str) -> None:
    with (images / "captions.csv").open(newline="") as file:
        rows = [{name: row[name] for name in COLUMNS[:3]} for row in csv.DictReader(file)]
    prepare(images, tmp_path / "csv", masks="none")
    source = tmp_path / f"list.{suffix}"
    if suffix == "jsonl":
        source.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    elif suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), source)
    else:
        with tarfile.open(source, "w") as tar:
            for number, row in enumerate(rows):
                details = {"caption": row["caption"], "subject": row["subject"]}
                add(tar, f"x/{number}.json", json.dumps(details).encode())
                add(tar, f"x/{number}.png", (images / "images" / row["path"]).read_bytes())
    if suffix == "tar":
        config = PrepareConfig(size=SIZE, masks="none")
        with ThreadPoolExecutor(1) as pool:
            prepare_images(str(source), None, str(tmp_path / "out"), config, executor=pool, progress=False)
        expected, actual = Shards(tmp_path / "csv"), Shards(tmp_path / "out")
        assert [actual[n].key for n in range(8)] == [f"x_{n}" for n in range(8)]
        for number in range(8):
            assert actual[number].files["jpg"] == expected[number].files["jpg"]
            assert actual[number].details["caption"] == expected[number].details["caption"]
            assert actual[number].details["source"] == f"list.tar/x/{number}"
    else:
        prepare(images, tmp_path / "out", source, masks="none")
        name = "shard-000000.tar"
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "csv" / name).read_bytes()


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def test_txt_in_a_tar_is_the_caption_and_its_mask_is_used(images: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        add(tar, "k.txt", b"a dog\n")
        add(tar, "k.png", (images / "images" / "a" / "0.png").read_bytes())
        add(tar, "k.mask.png", (images / "masks" / "a" / "0.png").read_bytes())
    config = PrepareConfig(size=SIZE, masks="alpha", subject="dog")
    with ThreadPoolExecutor(1) as pool:
        prepare_images(str(tmp_path), None, str(tmp_path / "out"), config, executor=pool, progress=False)
    record = Shards(tmp_path / "out")[0]
    assert (record.details["caption"], record.details["subject"]) == ("a dog", "dog")
    assert set(np.unique(record.pixels("alpha.png", "L"))) == {0, 255}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,caption,subject\nmissing.png,a dog,dog\na/0.png,a dog,dog\n", "captions for 1 images .* missing.png"),
        ("path,caption,subject,key\na/0.png,a dog,dog,k\na/1.png,a dog,dog,k\n", "key 'k' stands twice"),
        ("path,key\na/0.png,a.b\n", "the key 'a.b'; use up to"),
        ("path,box\na/0.png,1 2 3\n", "the box '1 2 3'"),
        ("file,caption\na/0.png,a dog\n", "row 1 .* has no path"),
        ("path,caption\n", "holds no image"),
        ("path;caption;subject\na/0.png;a dog;dog\n", "has ';' between its columns; save it with commas"),
        ('path,caption\na/0.png,"' + "x" * 200_000, "no CSV after line 1 "),
        ("path,caption\na/0.png,a \xff\n", "not UTF-8"),
    ],
)
def test_lists_that_do_not_fit_are_refused(images: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=message):
        prepare(images, tmp_path / "out", tmp_path / "list.csv", masks="none")
    assert not (tmp_path / "out").exists()


def test_other_input_that_does_not_fit_is_refused(images: Path, tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text('{"path": "a/0.png"}\nno\n')
    (tmp_path / "list.parquet").write_bytes(b"PAR1")
    (tmp_path / "list.txt").write_text("a/0.png")
    for name, message in (
        ("list.jsonl", "line 2 .* is not JSON"),
        ("list.parquet", "no readable parquet"),
        ("list.txt", "no list of captions"),
        ("absent.csv", "cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            prepare(images, tmp_path / "out", tmp_path / name)
    with tarfile.open(tmp_path / "whole.tar", "w") as tar:
        add(tar, "k.png", (images / "images" / "a" / "0.png").read_bytes())
        add(tar, "l.png", bytes(30_000))
    (tmp_path / "cut.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[:20_000])
    with tarfile.open(tmp_path / "caption.tar", "w") as tar:
        add(tar, "k.txt", b"a dog")
    with tarfile.open(tmp_path / "twice.tar", "w") as tar:
        add(tar, "k.png", b"1")
        add(tar, "k.png", b"2")
    for source, message in (
        ("cut.tar", "not a whole tar"),
        ("caption.tar", "'k' without an image"),
        ("twice.tar", "k.png twice"),
        ("absent", "missing or empty"),
    ):
        with pytest.raises(InputError, match=message):
            prepare_images(str(tmp_path / source), None, str(tmp_path / "out"), PrepareConfig(), progress=False)
    with pytest.raises(InputError, match="--captions"):
        prepare_images(str(images / "images"), None, str(tmp_path / "out"), PrepareConfig(), progress=False)
    with pytest.raises(InputError, match="no folder"):
        prepare(images, tmp_path / "out", masks="sam")


def test_a_missing_image_can_be_passed_over(images: Path, tmp_path: Path) -> None:
    rows = [{"path": "a/0.png", "caption": "a dog"}, {"path": "no.png", "caption": "a dog"}]
    prepare(images, tmp_path / "out", write_list(tmp_path / "l.csv", rows), masks="none", skip_missing=True)
    assert rejections(tmp_path / "out") == {"no.png": ("missing image", "no.png")}


@pytest.mark.parametrize(
    "fields",
    [{"size": 8}, {"certain": 0.1, "excluded": 0.2}, {"min_area": 0.9}, {"quality": 0}, {"band": 0}, {"shard_mb": 0}],
)
def test_settings_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="--"):
        PrepareConfig(**fields)


@pytest.mark.slow
def test_photos_are_prepared_the_same_after_kills(tmp_path: Path) -> None:
    """The 158 DreamBench photos: three kills of the whole command at random moments."""
    root = os.environ.get("BDKIT_DREAMBENCH_DIR")
    if root is None:
        pytest.skip("BDKIT_DREAMBENCH_DIR is not set")
    rows = []
    for path in sorted(Path(root).glob("*/*.jpg")):
        name = path.relative_to(root)
        rows.append({"path": str(name), "caption": "a photo of a toy", "subject": "toy"})
        mask = np.zeros((100, 100), np.uint8)
        mask[20:80, 25:75] = 255  # a plain box: where the subject truly is does not matter here
        (tmp_path / "masks" / name.parent).mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            Image.fromarray(mask).resize(image.size).save(tmp_path / "masks" / name.with_suffix(".png"))
    captions = write_list(tmp_path / "list.csv", rows)
    command = [sys.executable, "-m", "bdkit.cli", "prepare", root, "--captions", str(captions), "--size", "64"]
    command += ["--masks", str(tmp_path / "masks"), "--matting", "guided", "--shard-mb", "0.3", "--workers", "2"]
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, capture_output=True)
    rng = np.random.default_rng(int(time.time()))
    killed = [*command, "--out", str(tmp_path / "killed")]
    for _ in range(3):
        process = subprocess.Popen(killed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(1, 12))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(killed, check=True, capture_output=True)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    assert len(Shards(tmp_path / "whole").names) > 2
