"""References that cannot be used: one line each, before anything is made."""

from pathlib import Path

import numpy as np
import pytest
from fault_bench import run
from PIL import Image

from bdkit.cli import one_line
from bdkit.utils.errors import InputError
from dreambench.suites import load_suite


def bad_photo(path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    if kind.startswith("truncated"):
        Image.fromarray(noise).save(path, kind.split()[1])
        path.write_bytes(path.read_bytes()[:-1000])
    elif kind == "strip":
        Image.new("RGB", (900, 100)).save(path, "PNG")
    elif kind == "huge":
        Image.new("1", (8001, 8000)).save(path, "PNG")
    else:
        path.write_bytes({"empty": b"", "text": b"hello\n", "header only": b"\x89PNG\r\n\x1a\n" + bytes(40)}[kind])


@pytest.mark.parametrize(
    "kind",
    [
        "empty",
        "text",
        "header only",
        "truncated PNG",
        "truncated JPEG",
        "truncated WEBP",
        "truncated TIFF",
        "strip",
        "huge",
    ],
)
def test_bad_photos_are_told_in_one_line(tmp_path: Path, kind: str) -> None:
    suite = load_suite("dreambench").limited(subjects=1, prompts=1, samples=1)
    photos = tmp_path / "photos"
    for subject in suite.subjects:
        (photos / subject.name).mkdir(parents=True)
        for number in range(subject.n_references):
            Image.new("RGB", (30, 20), (200, 40 * number, 0)).save(photos / subject.name / f"0{number}.png")
    bad = photos / suite.subjects[0].name / "02.png"
    bad_photo(bad, kind)
    with pytest.raises(InputError, match=str(bad)) as caught:
        run(tmp_path / "out", suite=suite, photos=photos)
    line = one_line(caught.value) or "\n"
    assert "\n" not in line
    assert ";" in line  # what is wrong; what to do
    assert not list((tmp_path / "out").rglob(".writing-*"))
