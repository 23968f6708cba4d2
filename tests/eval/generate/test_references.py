from collections.abc import Callable
from pathlib import Path

import pytest
from generate_helpers import files, run
from PIL import Image

from bdkit.cli import one_line
from bdkit.miniworld.subjects import sample_subject, split_of
from bdkit.utils.errors import InputError
from dreambench.registry import load_suite
from eval.experiments import BenchConfig
from eval.generate.references import draw_references, photo_hashes

ONE_PHOTO_SUBJECT = {"suite": "dreambench", "subjects": 1, "prompts": 1, "samples": 1}


def test_references_are_held_out_different_and_repeatable() -> None:
    suite = load_suite("mini")
    for subject in suite.subjects[:3]:
        images = draw_references(suite, subject)
        assert len(images) == subject.n_references
        assert len({image.tobytes() for image in images}) == len(images)
        again = draw_references(suite, subject)
        assert [image.tobytes() for image in images] == [image.tobytes() for image in again]
        individual = sample_subject(subject.class_noun, f"test/0/{subject.name}", "test")
        assert split_of(individual) == "test"
    other = draw_references(load_suite("mini@1"), suite.subjects[0])
    assert other[0].tobytes() != draw_references(suite, suite.subjects[0])[0].tobytes()
    quick = load_suite("mini-quick").subjects[0]
    assert draw_references(load_suite("mini-quick"), quick)[0].tobytes() == draw_references(suite, quick)[0].tobytes()


def make_photos(folder: Path) -> Path:
    (folder / "backpack").mkdir(parents=True)
    for number in range(6):
        Image.new("RGB", (30, 20), (200, 40 * number, 0)).save(folder / f"backpack/0{number}.png")
    return folder


def test_photos_are_told_apart_and_refused_for_a_suite_that_is_drawn(tmp_path: Path) -> None:
    config = BenchConfig(photos=make_photos(tmp_path), **ONE_PHOTO_SUBJECT)
    before = photo_hashes(config.load_suite(), config.photos)
    assert {name: len(hashes) for name, hashes in before.items()} == {"backpack": 6}
    Image.new("RGB", (30, 20), (0, 0, 250)).save(tmp_path / "backpack/03.png")
    assert photo_hashes(config.load_suite(), config.photos) != before
    assert photo_hashes(load_suite("mini-quick")) == {}
    with pytest.raises(InputError, match="--photos is for suites of photos, and mini-quick is drawn"):
        BenchConfig(suite="mini-quick", photos=tmp_path).load_suite()


def test_a_suite_of_photos_fits_on_the_photos_and_guards_them(tmp_path: Path) -> None:
    (tmp_path / "empty/backpack").mkdir(parents=True)
    with pytest.raises(InputError, match="no images in"):
        run(tmp_path / "out", photos=tmp_path / "empty", **ONE_PHOTO_SUBJECT)
    named = {"photos": make_photos(tmp_path / "photos"), "seed_sets": (0,), **ONE_PHOTO_SUBJECT}
    run(tmp_path / "out", **named)
    assert not (tmp_path / "out/references").exists()
    made = files(tmp_path / "out")
    assert {Path(name).parts[2] for name in made} == {"tiny", "tiny-2", "plain"}
    Image.new("RGB", (30, 20), (0, 0, 250)).save(tmp_path / "photos/backpack/03.png")
    with pytest.raises(InputError, match=r"has 'tiny-2' with other settings \(photos\)"):
        run(tmp_path / "out", **named)
    assert files(tmp_path / "out") == made
    run(tmp_path / "out", remake=True, **named)
    assert files(tmp_path / "out") != made


BAD: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:60]),
    "strip": lambda path: Image.new("RGB", (900, 100)).save(path),
    "huge": lambda path: Image.new("1", (8001, 8000)).save(path),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_photos_are_one_line(tmp_path: Path, kind: str) -> None:
    photos = make_photos(tmp_path / "photos")
    bad = photos / "backpack/02.png"
    BAD[kind](bad)
    with pytest.raises(InputError, match=str(bad)) as caught:
        run(tmp_path / "out", photos=photos, **ONE_PHOTO_SUBJECT)
    line = one_line(caught.value) or "\n"
    assert "\n" not in line
    assert ";" in line  # what is wrong; what to do
    assert not list((tmp_path / "out").rglob(".writing-*"))
