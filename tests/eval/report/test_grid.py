"""Contact sheets of any images, and the references that stand beside them."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bdkit.utils.errors import InputError
from dreambench.registry import load_suite
from eval.generate.references import load_references, prepare
from eval.report.grid import fit_tile, image_grid, jpeg, spread

RED, BLUE, GREY = (Image.new(mode, (8, 8), colour) for mode, colour in (("RGB", "red"), ("RGBA", "blue"), ("L", 128)))


def test_image_grid_places_every_image_whole() -> None:
    sheet = image_grid([[RED, BLUE], [GREY]], tile=16, gap=4)
    assert sheet.size == (4 + 2 * 20, 4 + 2 * 20)
    assert [sheet.getpixel(place) for place in ((4, 4), (39, 19), (4, 24))] == [(255, 0, 0), (0, 0, 255), (128,) * 3]
    assert sheet.getpixel((30, 30)) == (255, 255, 255)  # the second row has one image
    tile = fit_tile(Image.new("RGB", (8, 4), (255, 0, 0)), 16)
    assert (tile.size, tile.getpixel((8, 8))) == ((16, 16), (255, 0, 0))
    assert tile.getpixel((8, 1)) == (255, 255, 255)
    assert (spread(tuple(range(10)), 4), spread((1, 2), 4), spread((1, 2), 1)) == ([0, 3, 6, 9], [1, 2], [1])


def test_image_grid_makes_room_for_text() -> None:
    plain, titled = image_grid([[RED], [RED]], tile=64), image_grid([[RED], [RED]], ["a title"], tile=64)
    wrapped = image_grid([[RED], [RED]], ["a title of many words in a narrow column"], tile=64)
    lined = image_grid([[RED], [RED]], lines=["one", "two"], tile=64)
    assert plain.height < titled.height < wrapped.height
    assert lined.height == plain.height + 2 * 18
    for sheet in (titled, wrapped, lined):
        ink = np.asarray(sheet.convert("L"))[:, :-1]
        assert (ink[: sheet.height - 64 - 4] < 120).sum() > (np.asarray(plain.convert("L"))[:68] < 120).sum()


def test_jpeg_is_the_sheet_in_few_bytes() -> None:
    sheet = image_grid([[RED, BLUE]], tile=64)
    data = jpeg(sheet)
    again = Image.open(io.BytesIO(data))
    assert (again.format, again.size) == ("JPEG", sheet.size)
    assert np.abs(np.asarray(again, dtype=int) - np.asarray(sheet, dtype=int)).mean() < 6
    assert len(jpeg(sheet, quality=20)) < len(data) < len(jpeg(sheet, quality=95))


def test_references_are_those_of_the_benchmark_and_need_the_photos(tmp_path: Path) -> None:
    suite = load_suite("mini").limited(subjects=2)
    prepare(suite, tmp_path)
    for subject in suite.subjects:
        files = sorted((tmp_path / "references" / subject.name).glob("*.png"))
        loaded = load_references(suite, subject)
        assert len(loaded) == subject.n_references
        assert [image.tobytes() for image in loaded] == [Image.open(path).convert("RGB").tobytes() for path in files]
    suite = load_suite("dreambench")
    subject = suite.subjects[0]
    (tmp_path / subject.name).mkdir()
    for number in range(subject.n_references - 1):
        RED.save(tmp_path / subject.name / f"{number}.png")
    with pytest.raises(InputError, match=str(subject.n_references)):
        load_references(suite, subject, tmp_path)
    RED.save(tmp_path / subject.name / "last.png")
    assert len(load_references(suite, subject, tmp_path)) == subject.n_references
