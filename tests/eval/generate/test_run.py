import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from eval_helpers import METHODS, ROWS, TinyMethod
from filelock import FileLock
from generate_helpers import SUITE, OtherWeights, config, files, run
from PIL import Image

from bdkit.cli import one_line
from bdkit.utils.errors import InputError
from dreambench.registry import load_suite
from eval.experiments import Row
from eval.generate.run import run_task
from eval.generate.tasks import list_tasks
from eval.results_dir import read_run, update_run


def counting(calls: list[str], prompts: list[str] | None = None) -> type[TinyMethod]:
    """A method that notes what it is asked for."""
    prompts = [] if prompts is None else prompts

    class Counting(TinyMethod):
        def fit(self, images: list[Image.Image], class_noun: str, seed: int) -> None:
            calls.append(f"fit {class_noun}")
            super().fit(images, class_noun, seed)

        def generate(self, prompt_template: str | list[str], class_noun: str, seeds: list[int]) -> list[Image.Image]:
            calls.append(f"{len(seeds)} of {class_noun}")
            prompts.extend([prompt_template] * len(seeds) if isinstance(prompt_template, str) else prompt_template)
            return super().generate(prompt_template, class_noun, seeds)

    return Counting


def test_writes_every_image_and_nothing_else(whole: Path) -> None:
    made = files(whole)
    n_references = sum(subject.n_references for subject in SUITE.subjects)
    assert len(made) == 4 * 2 * SUITE.n_images + n_references == 64 + n_references
    names = {path.name for path in whole.iterdir()}
    assert names == {"suite.json", "run.json", "images", "references", "scores.csv", "scores.parquet", "nearest.csv"}
    assert made["images/seed0/plain/dog/00-0.png"] != made["images/seed2/plain/dog/00-0.png"]
    assert made["images/seed0/plain/dog/00-0.png"] != made["images/seed0/plain/dog/00-1.png"]
    assert made["images/seed0/tiny/dog/00-0.png"] != made["images/seed0/tiny-2/dog/00-0.png"]


def test_run_record_says_what_each_row_is(whole: Path) -> None:
    record = json.loads((whole / "run.json").read_text())
    assert record["status"] == "generated"
    assert (record["suite_hash"], record["seed_sets"], record["model"]) == (SUITE.hash, [0, 2], "m")
    assert list(record["rows"]) == ["tiny-2", "tiny", "plain"]
    assert record["rows"]["tiny-2"] == {
        "method": "tiny",
        "overrides": {},
        "snapshot": 2,
        "images_per_batch": 2,
        "settings": {"steps": 6, "lr": 0.2, "model": "m", "checkpoint_hash": "a"},
    }
    assert record["rows"]["plain"]["overrides"] == {"contrast": 0.5}
    # rows of one method share a fit
    for name in ("fit_seconds", "draw_seconds"):
        assert {row: len(seconds) for row, seconds in record[name].items()} == {"tiny-2": 4, "tiny": 4, "plain": 4}
    assert {"config", "commit", "device", "versions", "wall_seconds"} <= set(record)


def test_second_run_makes_nothing(tmp_path: Path, whole: Path) -> None:
    run(tmp_path)
    update_run(tmp_path, commit="of the images", device="theirs")
    before = files(tmp_path, times=True)
    calls: list[str] = []
    assert run(tmp_path, counting(calls))
    assert files(tmp_path, times=True) == before
    assert calls == []
    record = read_run(tmp_path)
    assert len(record["fit_seconds"]["tiny"]) == 4
    assert (record["commit"], record["device"]) == ("of the images", "theirs")
    (tmp_path / "images/seed0/tiny/dog/00-1.png").unlink()
    run(tmp_path)
    assert read_run(tmp_path)["commit"] != "of the images"


def test_missing_images_alone_are_made_again(tmp_path: Path, whole: Path) -> None:
    run(tmp_path)
    before = files(tmp_path, times=True)
    lost = ["images/seed0/tiny/dog/00-1.png", "images/seed2/ground-truth/vase/12-0.png", "references/dog/01.png"]
    for name in lost:
        (tmp_path / name).unlink()
    half_written = tmp_path / "images/seed0/tiny/dog/.writing-x"
    half_written.write_bytes(b"half")
    run(tmp_path)
    after = files(tmp_path, times=True)
    assert {name for name, written in after.items() if before[name] != written} == set(lost)
    assert files(tmp_path) == files(whole)
    assert not half_written.exists()


def test_a_saved_fit_is_loaded(tmp_path: Path, whole: Path) -> None:
    class Stopping(TinyMethod):
        def generate(self, prompt_template: str | list[str], class_noun: str, seeds: list[int]) -> list[Image.Image]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Stopping, rows=ROWS[:2], ground_truth=False)
    assert len(list((tmp_path / "fits").rglob("dog.safetensors"))) == 1
    calls: list[str] = []
    run(tmp_path, counting(calls), rows=ROWS[:2], ground_truth=False)
    assert [call for call in calls if call.startswith("fit")] == ["fit vase", "fit dog", "fit vase"]
    assert files(tmp_path).items() <= files(whole).items()
    assert not (tmp_path / "fits").exists()
    # a fit of other weights is never loaded, whichever row left it
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "x", Stopping, rows=ROWS[:1], seed_sets=(0,))
    calls.clear()
    run(tmp_path / "x", OtherWeights, rows=ROWS[1:2], seed_sets=(0,))
    run(tmp_path / "y", OtherWeights, rows=ROWS[1:2], seed_sets=(0,))
    assert files(tmp_path / "x") == files(tmp_path / "y")


def test_what_finished_tasks_took_outlasts_a_stop(tmp_path: Path) -> None:
    class StopsAtVase(TinyMethod):
        def fit(self, images: list[Image.Image], class_noun: str, seed: int) -> None:
            if class_noun == "vase":
                raise KeyboardInterrupt
            super().fit(images, class_noun, seed)

    named: dict[str, Any] = {"rows": ROWS[:2], "seed_sets": (0,), "ground_truth": False}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, StopsAtVase, **named)
    for count in (1, 2):
        record = read_run(tmp_path)
        for name in ("fit_seconds", "draw_seconds"):
            assert {row: len(seconds) for row, seconds in record[name].items()} == {"tiny-2": count, "tiny": count}
        run(tmp_path, **named)


def test_other_settings_are_refused_or_made_again(tmp_path: Path) -> None:
    run(tmp_path, rows=ROWS[1:])
    before = files(tmp_path, times=True)
    for tiny, named, changed in [
        (OtherWeights, {}, "checkpoint_hash"),
        (TinyMethod, {"batch_size": 4}, "images_per_batch"),
        (TinyMethod, {"rows": (Row(name="tiny", method="tiny", snapshot=2),)}, "snapshot"),
        (
            TinyMethod,
            {"rows": (Row(name="tiny", method="plain", overrides={"contrast": 2.0}),)},
            "method, overrides, st",
        ),
    ]:
        with pytest.raises(InputError, match=rf"has 'tiny' with other settings \({changed}.*--remake") as caught:
            run(tmp_path, tiny, **{"rows": ROWS[1:2], **named})
        assert "\n" not in (one_line(caught.value) or "\n")
    with pytest.raises(InputError, match=r"seed2/tiny has other settings .*; delete it, or name its seed set"):
        run(tmp_path, OtherWeights, rows=ROWS[1:2], seed_sets=(0,), remake=True)
    with pytest.raises(InputError, match="holds suite mini-quick"):
        run(tmp_path, subjects=None)
    assert files(tmp_path, times=True) == before
    run(tmp_path, OtherWeights, rows=ROWS[1:2], remake=True)
    after = files(tmp_path, times=True)
    assert {name for name in before if before[name] != after[name]} == {
        name for name in before if re.search("/(tiny|ground-truth)/", name)
    }
    assert read_run(tmp_path)["rows"]["tiny"]["settings"]["checkpoint_hash"] == "b"
    with pytest.raises(InputError, match="unknown method 'no-such'; known are tiny, plain"):
        run(tmp_path, rows=(Row(name="x", method="no-such"),))


@pytest.mark.parametrize(("batch_size", "calls"), [(1, 4 * ["2 of dog"]), (5, 2 * ["4 of dog"]), (100, ["8 of dog"])])
def test_batches_are_whole_prompts_and_stay_as_they_were_begun(tmp_path, batch_size, calls):
    asked: list[str] = []
    named: dict[str, Any] = {"subjects": 1, "prompts": None, "seed_sets": (0,), "rows": ROWS[1:2]}
    prompts: list[str] = []
    run(tmp_path, counting(asked, prompts), batch_size=batch_size, **named)
    assert asked == ["fit dog", *calls]
    assert prompts == [prompt.template for prompt in load_suite("mini-quick").live_prompts for _ in range(2)]
    before = files(tmp_path)
    (tmp_path / "images/seed0/tiny/dog/02-1.png").unlink()
    asked.clear()
    run(tmp_path, counting(asked), **named)
    assert asked == ["fit dog", calls[0]]
    assert files(tmp_path) == before


def test_shards_share_a_folder_or_are_copied_together(tmp_path: Path, whole: Path) -> None:
    one = tmp_path / "one"
    assert [run(one, shard=f"{number}/3") for number in (3, 1, 2)] == [False, False, True]
    assert files(one) == files(whole)
    assert len(read_run(one)["fit_seconds"]["tiny"]) == 4
    copied = tmp_path / "copied"
    for number in (1, 2):
        part = tmp_path / f"part-{number}"
        assert not run(part, shard=f"{number}/2")
        shutil.copytree(part, copied, dirs_exist_ok=True)
    calls: list[str] = []
    assert run(copied, counting(calls))
    assert calls == []
    assert files(copied) == files(whole)
    assert not (copied / "fits").exists()


def test_a_task_is_made_by_one_process_at_a_time(tmp_path: Path) -> None:
    run(tmp_path)
    made = files(tmp_path)
    task = list_tasks(config(tmp_path), SUITE)[0]
    for row in task.rows:
        task.images(SUITE, row)[0].path(tmp_path).unlink()
    lock = task.fit_path(tmp_path, read_run(tmp_path)["rows"]["tiny"]["settings"]).with_suffix(".lock")
    with FileLock(lock):
        assert run_task(config(tmp_path), task, METHODS, wait=False) is None
    written: list[int] = []
    seconds = run_task(config(tmp_path), task, METHODS, wait=False, on_images=written.append)
    assert {row: len(values) for row, values in seconds.fit_seconds.items()} == {"tiny-2": 1, "tiny": 1}
    assert min(value for values in seconds.draw_seconds.values() for value in values) > 0
    assert written == [1, 1]
    assert files(tmp_path) == made


def test_locks_may_vanish_while_a_process_waits(tmp_path: Path, whole: Path) -> None:
    run(tmp_path)
    task = list_tasks(config(tmp_path), SUITE)[0]
    task.images(SUITE)[0].path(tmp_path).unlink()
    lock = task.fit_path(tmp_path, read_run(tmp_path)["rows"]["tiny"]["settings"]).with_suffix(".lock")
    with ThreadPoolExecutor() as executor:
        with FileLock(lock):
            waiting = executor.submit(run_task, config(tmp_path), task, METHODS)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.5)
            shutil.rmtree(tmp_path / "fits")
        assert set(waiting.result().fit_seconds) == {"tiny-2", "tiny"}
    assert files(tmp_path) == files(whole)
