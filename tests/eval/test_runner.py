import csv
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_bench import METHODS, ROWS, TinyMethod

from bdkit.miniworld.subjects import sample_subject, split_of
from bdkit.utils.errors import InputError
from bdkit.utils.seeds import derive_seed
from dreambench.suites import Suite, load_suite
from eval.generate.progress import Event, JobProgress
from eval.generate.rows import Generation, Row, image_seed
from eval.generate.runner import draw_references, generate
from eval.results_dir import GROUND_TRUTH, REAL, Job, slots
from eval.score.check import audit
from eval.score.decoding import Workers
from eval.score.images import read_tree


def small_suite() -> Suite:
    return load_suite("mini-quick").limited(subjects=2, prompts=2)


def job(out: Path, **named: Any) -> Generation:
    values = {
        "suite": small_suite(),
        "rows": ROWS,
        "model": "m",
        "out": out,
        "methods": METHODS,
        "show_progress": False,
    }
    return Generation(**{**values, **named})


def tree(out: Path, *, times: bool = False) -> dict[str, Any]:
    """Every file under OUT/pictures and OUT/references: its content, or when it was written."""
    paths = [path for name in ("images", "references") for path in (out / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(out)): path.stat().st_mtime_ns if times else path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    generate(job(out, seed_sets=(0, 2)))
    return out


def test_writes_every_image_and_nothing_else(whole: Path) -> None:
    suite = small_suite()
    jobs = [Job(name, seed_set) for name in ("tiny", "tiny-2", "plain", GROUND_TRUTH) for seed_set in (0, 2)]
    checked = audit(read_tree(whole, suite, whole.name), suite, jobs, (), Workers(0), show_progress=False)
    assert [problem for problem in checked.problems if problem.kind != "same content"] == []
    assert len(checked.pictures) == len(jobs) * suite.n_images
    n_references = sum(subject.n_references for subject in suite.subjects)
    assert len(tree(whole)) == len(jobs) * suite.n_images + n_references
    assert {path.name for path in whole.iterdir()} == {
        "suite.json", "run.json", "manifest.csv", "images", "references"
    }  # fmt: skip


def test_manifest_lists_each_image_with_its_seed_and_hash(whole: Path) -> None:
    suite = small_suite()
    rows = list(csv.DictReader((whole / "manifest.csv").open()))
    assert len(rows) == 8 * suite.n_images
    assert len({row["seed"] for row in rows}) == len(rows)
    for row in rows:
        assert hashlib.sha256((whole / row["path"]).read_bytes()).hexdigest() == row["sha256"]
    subject = suite.subjects[0]
    slot = slots(suite, subject)[-1]
    first = next(
        row for row in rows if (row["method"], row["seed_set"], row["subject"]) == ("tiny", "2", subject.name)
        and (row["prompt"], row["sample"]) == (str(slot.prompt.index), str(slot.sample))
    )  # fmt: skip
    assert int(first["seed"]) == image_seed(suite, "tiny", slot, 2)
    assert first["text"] == slot.prompt.text(subject.class_noun)


def test_rows_of_one_method_share_a_fit_and_differ_by_snapshot(tmp_path: Path) -> None:
    fits: list[str] = []

    class Counting(TinyMethod):
        def fit(self, images: list[Image.Image], class_noun: str, seed: int) -> None:
            fits.append(class_noun)
            super().fit(images, class_noun, seed)

    generate(job(tmp_path, rows=ROWS[:2], methods={"tiny": Counting}))
    assert fits == ["dog", "vase"]
    files = tree(tmp_path)
    two, six = (np.frombuffer(files[f"images/seed0/{row}/dog/00-0.png"], np.uint8) for row in ("tiny-2", "tiny"))
    assert two.tobytes() != six.tobytes()


def test_seed_sets_and_rows_have_their_own_seeds(whole: Path) -> None:
    files = tree(whole)
    assert files["images/seed0/plain/dog/00-0.png"] != files["images/seed2/plain/dog/00-0.png"]
    assert files["images/seed0/plain/dog/00-0.png"] != files["images/seed0/plain/dog/00-1.png"]


def test_second_run_writes_nothing_and_asks_no_method(whole: Path) -> None:
    before = tree(whole, times=True)

    class Idle(TinyMethod):
        def fit(self, images: list[Image.Image], class_noun: str, seed: int) -> None:
            raise AssertionError("fitted again")

    idle = {"tiny": Idle, "plain": lambda model, contrast: Idle(model, contrast=contrast, steps=0)}
    generate(job(whole, seed_sets=(0, 2), methods=idle))
    assert tree(whole, times=True) == before


def test_missing_images_alone_are_made_again(tmp_path: Path, whole: Path) -> None:
    generate(job(tmp_path, seed_sets=(0, 2)))
    before = tree(tmp_path, times=True)
    lost = ["images/seed0/tiny/dog/00-1.png", "images/seed2/tiny-2/vase/12-0.png", "references/dog/01.png"]
    for name in lost:
        (tmp_path / name).unlink()
    generate(job(tmp_path, seed_sets=(0, 2)))
    after = tree(tmp_path, times=True)
    assert {name for name, written in after.items() if before[name] != written} == set(lost)
    assert tree(tmp_path) == tree(whole)


RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tiny_bench import METHODS, ROWS
from dataclasses import replace
from dreambench.suites import load_suite
from eval.generate.rows import Generation
from eval.generate.runner import generate
slow = {"tiny": lambda model: METHODS["tiny"](model, delay=0.02), "plain": METHODS["plain"]}
generate(Generation(suite=load_suite("mini-quick").limited(subjects=2, prompts=2), rows=ROWS, model="m",
                    out=Path(sys.argv[2]), seed_sets=(0, 2), methods=slow, show_progress=False))
print("finished")
"""


def start(out: Path) -> subprocess.Popen:
    here = str(Path(__file__).parent)
    return subprocess.Popen([sys.executable, "-c", RUN, here, str(out)], stdout=subprocess.PIPE, start_new_session=True)


@pytest.mark.slow
def test_killed_at_random_moments_ends_with_the_same_bytes(tmp_path: Path, whole: Path) -> None:
    rng = random.Random(4)
    kept: dict[str, int] = {}
    total = len([name for name in tree(whole) if name.startswith("images")])
    for stop_at in sorted(rng.sample(range(10, total - 5), 3)):
        process = start(tmp_path)
        while process.poll() is None and len(list((tmp_path / "images").rglob("[!.]*.png"))) < stop_at:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL
        now = {name: written for name, written in tree(tmp_path, times=True).items() if "/.writing-" not in name}
        assert len([name for name in now if name.startswith("images")]) < total
        assert kept.items() <= now.items()
        kept = now
    output, _ = start(tmp_path).communicate(timeout=120)
    assert output == b"finished\n"
    assert kept.items() <= tree(tmp_path, times=True).items()
    assert tree(tmp_path) == tree(whole)
    assert (tmp_path / "manifest.csv").read_bytes() == (whole / "manifest.csv").read_bytes()


def test_a_fit_that_was_left_behind_is_taken_up(tmp_path: Path, whole: Path) -> None:
    class Stopping(TinyMethod):
        def generate(self, prompt_template: str | list[str], class_noun: str, seeds: list[int]) -> list[Image.Image]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(job(tmp_path, rows=ROWS[:2], seed_sets=(0, 2), methods={"tiny": Stopping}, ground_truth=False))
    assert len(list((tmp_path / "fits").rglob("dog.safetensors"))) == 1

    fitted: list[str] = []

    class Counting(TinyMethod):
        def fit(self, images: list[Image.Image], class_noun: str, seed: int) -> None:
            fitted.append(class_noun)
            super().fit(images, class_noun, seed)

    generate(job(tmp_path, rows=ROWS[:2], seed_sets=(0, 2), methods={"tiny": Counting}, ground_truth=False))
    assert fitted == ["vase", "dog", "vase"]
    files = tree(tmp_path)
    assert files.items() <= tree(whole).items()
    assert not (tmp_path / "fits").exists()


def test_other_suite_or_weights_in_the_folder_are_refused(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds suite mini-quick"):
        generate(job(whole, suite=load_suite("mini-quick")))
    generate(job(tmp_path, rows=ROWS[1:2]))
    other = {"tiny": lambda model: TinyMethod(model, weights="b")}
    with pytest.raises(InputError, match="holds images of 'tiny' made with other weights"):
        generate(job(tmp_path, rows=ROWS[1:2], methods=other))
    before = tree(tmp_path, times=True)
    (tmp_path / "run.json").unlink()
    with pytest.raises(InputError, match="holds images of 'tiny' made with other weights"):
        generate(job(tmp_path, rows=ROWS[1:2], methods=other))
    # the images themselves tell what they were made with
    generate(job(tmp_path, rows=ROWS[1:2]))
    assert tree(tmp_path, times=True) == before
    generate(job(tmp_path, rows=ROWS[1:2], methods=other, remake=True))
    changed = {name for name, written in tree(tmp_path, times=True).items() if before[name] != written}
    assert changed == {name for name in before if "/tiny/" in name}


@pytest.mark.parametrize(("batch_size", "calls"), [(1, [2, 2, 2, 2]), (5, [4, 4]), (100, [8])])
def test_batches_are_whole_prompts_and_stay_as_they_were_begun(
    tmp_path: Path, batch_size: int, calls: list[int]
) -> None:
    asked: list[list[str]] = []

    class Asked(TinyMethod):
        def generate(self, prompt_template: str | list[str], class_noun: str, seeds: list[int]) -> list[Image.Image]:
            asked.append([prompt_template] * len(seeds) if isinstance(prompt_template, str) else prompt_template)
            return super().generate(prompt_template, class_noun, seeds)

    suite = load_suite("mini-quick").limited(subjects=1)
    named = {"suite": suite, "rows": ROWS[1:2], "methods": {"tiny": Asked}, "ground_truth": False}
    generate(job(tmp_path, batch_size=batch_size, **named))
    assert [len(templates) for templates in asked] == calls
    wanted = [prompt.template for prompt in suite.live_prompts for _ in range(2)]
    assert [template for templates in asked for template in templates] == wanted
    before = tree(tmp_path)
    lost = tmp_path / "images/seed0/tiny/dog/02-1.png"
    lost.unlink()
    asked.clear()
    generate(job(tmp_path, batch_size=2, **named))
    assert [len(templates) for templates in asked] == calls[:1]
    assert tree(tmp_path) == before


def test_run_record_says_what_each_row_is(whole: Path) -> None:
    record = json.loads((whole / "run.json").read_text())
    assert record["suite_hash"] == small_suite().hash
    assert record["seed_sets"] == [0, 2]
    assert record["rows"]["tiny-2"]["settings"]["checkpoint_hash"] == "a"
    assert record["rows"]["tiny-2"]["snapshot"] == 2
    assert record["rows"]["plain"]["overrides"] == {"contrast": 0.5}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((), "no rows"),
        ((ROWS[0], ROWS[0]), "'tiny-2' is taken"),
        ((Row(name=REAL, method="tiny"),), "is taken"),
        ((Row(name="a/b", method="tiny"),), "cannot name a folder"),
        ((Row(name="..", method="tiny"),), "cannot name a folder"),
        ((Row(name="x", method="no-such"),), "unknown method 'no-such'; known are tiny, plain"),
    ],
)
def test_bad_rows(tmp_path: Path, rows: tuple[Row, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        generate(job(tmp_path, rows=rows, ground_truth=False))


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


def test_photos_suite_fits_on_the_photos(tmp_path: Path) -> None:
    suite = load_suite("dreambench").limited(subjects=1, prompts=1, samples=1)
    folder = tmp_path / "photos"
    (folder / "backpack").mkdir(parents=True)
    with pytest.raises(InputError, match="no images in"):
        generate(job(tmp_path / "out", suite=suite, photos=folder))
    for number in range(6):
        Image.new("RGB", (30, 20), (200, 40 * number, 0)).save(folder / f"backpack/0{number}.jpg")
    generate(job(tmp_path / "out", suite=suite, photos=folder))
    assert not (tmp_path / "out/references").exists()
    assert {path.name for path in (tmp_path / "out/images/seed0").iterdir()} == {"tiny", "tiny-2", "plain"}


def test_seeds_depend_on_every_part() -> None:
    seeds = {derive_seed(*parts) for parts in [("a", 1), ("a", 2), ("b", 1), ("a1",), ("a", "1", "")]}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**48 for seed in seeds)
    assert derive_seed("a", 1) == int.from_bytes(hashlib.sha256(b"a/1").digest()[:6])
    assert replace(ROWS[0], name="x").group == ROWS[1].group != ROWS[2].group


def test_progress_estimates_the_time_left_by_kind_of_work() -> None:
    bar = JobProgress({"a": 4, "b": 3}, {"a": 1, "b": 1}, {"a": 10, "b": 20}, 3, workers=2, show=False)
    assert bar.seconds_left() is None
    bar.handle(Event("begin", "a", "a, dog"))
    bar.handle(Event("fit", "a", "a, dog", seconds=0.1))
    bar.handle(Event("picture", "a", "a, dog", 2, seconds=0.04))
    bar.handle(Event("found", "b", "b, dog", 1))
    # two images of a, two of b at the same pace, and a fit of b with twice the steps, by two workers
    assert bar.seconds_left() == pytest.approx((2 * 0.02 + 2 * 0.02 + 0.2) / 2)
    for kind, group, count in (("picture", "a", 2), ("fit", "b", 1), ("picture", "b", 2)):
        bar.handle(Event(kind, group, "", count))
    bar.handle(Event("end", "a", "a, dog"))
    assert bar.seconds_left() == 0
    bar.close()
