import json
from pathlib import Path
from typing import Any

import pytest
from tiny_bench import METHODS, ROWS, TinyMethod

from bdkit.cli import main
from bdkit.utils.errors import InputError
from dreambench.suites import load_suite
from eval.generate.locks import FileLock, at_work
from eval.generate.merge import merge_shards
from eval.generate.rows import Generation, group_rows
from eval.generate.runner import generate, run_units
from eval.generate.units import Unit, enumerate_tasks, enumerate_units, parse_shard
from eval.generate.workers import longest_first, suitable_workers, usable_cores
from eval.results_dir import GROUND_TRUTH

SUITE = load_suite("mini-quick").limited(prompts=2)


def job(out: Path, **named: Any) -> Generation:
    values = {
        "suite": SUITE,
        "rows": ROWS,
        "model": "m",
        "out": out,
        "methods": METHODS,
        "seed_sets": (0, 2),
        "show_progress": False,
    }
    return Generation(**{**values, **named})


def pictures(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in (out / "images").rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    generate(job(out))
    return out


@pytest.mark.parametrize("count", [1, 2, 3, 5, 40])
def test_shards_divide_every_unit_once_whole_fits_and_evenly(tmp_path: Path, count: int) -> None:
    everything = enumerate_units(job(tmp_path))
    assert len(everything) == len(set(everything)) == 4 * 2 * SUITE.n_images
    parts = [enumerate_tasks(job(tmp_path, shard=(number, count))) for number in range(1, count + 1)]
    units = [[unit for task in part for unit in task.units] for part in parts]
    assert sorted(everything, key=str) == sorted((unit for part in units for unit in part), key=str)
    fits = [{(task.group, task.subject, task.seed_set) for task in part} for part in parts]
    assert sum(map(len, fits)) == len(set().union(*fits)) == 3 * 3 * 2
    for rows in group_rows(ROWS):
        sizes = [sum(task.group == rows[0].group for task in part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "1/0", "-1/3", "1/3/2", "a/b", "1 of 3", "１/３", "1/9999999"])
def test_bad_shards(text: str) -> None:
    with pytest.raises(InputError, match="is no shard; write 1/3"):
        parse_shard(text)


def test_shards_are_counted_from_one() -> None:
    assert parse_shard("1/1") == parse_shard(None) == (1, 1)
    assert parse_shard(" 2/3 ") == (2, 3)


def test_shards_in_one_folder_give_the_same_bytes(tmp_path: Path, whole: Path) -> None:
    for number in (3, 1):
        record = generate(job(tmp_path, shard=(number, 3)))
        assert record["status"] == "generating"
        assert not (tmp_path / "manifest.csv").exists()
    record = generate(job(tmp_path, shard=(2, 3)))
    assert record["status"] == "generated"
    assert pictures(tmp_path) == pictures(whole)
    assert (tmp_path / "manifest.csv").read_bytes() == (whole / "manifest.csv").read_bytes()
    assert not (tmp_path / ".locks").exists()
    assert record["rows"] == json.loads((whole / "run.json").read_text())["rows"]
    assert len(record["fit_seconds"]["tiny"]) == 3 * 2


def test_a_program_of_ones_own_may_divide_the_units(tmp_path: Path, whole: Path) -> None:
    units = enumerate_units(job(tmp_path))
    run_units(job(tmp_path), units[7:11])
    made = set(pictures(tmp_path))
    assert made == {
        f"images/seed{unit.seed_set}/{unit.row}/{unit.subject}/{unit.prompt:02d}-{unit.sample}.png"
        for unit in units[7:11]
    }
    run_units(job(tmp_path), reversed(units))
    assert pictures(tmp_path) == pictures(whole)
    with pytest.raises(InputError, match="has no unit"):
        run_units(job(tmp_path), [Unit("tiny", "dog", 999, 0, 0)])


@pytest.mark.slow
def test_workers_give_the_same_bytes(tmp_path: Path, whole: Path) -> None:
    record = generate(job(tmp_path, workers=3))
    assert record["workers"] == 3
    assert pictures(tmp_path) == pictures(whole)
    assert (tmp_path / "manifest.csv").read_bytes() == (whole / "manifest.csv").read_bytes()
    assert not {"fits", ".locks"} & {path.name for path in tmp_path.iterdir()}
    assert {name: len(values) for name, values in record["fit_seconds"].items()} == {"tiny": 6, "plain": 6}


def test_merged_folders_give_the_bytes_of_one_run(tmp_path: Path, whole: Path) -> None:
    folders = [tmp_path / f"part-{number}" for number in (1, 2, 3)]
    for number, folder in enumerate(folders, start=1):
        generate(job(folder, shard=(number, 3)))
        assert 0 < len(pictures(folder)) < len(pictures(whole))
    out = tmp_path / "out"
    damaged = next(path for path in sorted((folders[1] / "images").rglob("*.png")))
    good = damaged.read_bytes()
    damaged.write_bytes(good[:-20])
    with pytest.raises(InputError, match="1 of 96 images are missing or damaged in all of these folders: images/"):
        merge_shards(folders, out, show_progress=False)
    assert (out / "missing.txt").read_text() == f"{damaged.relative_to(folders[1])}\n"
    assert not (out / "manifest.csv").exists()
    damaged.write_bytes(good)
    merged = merge_shards(folders, out, show_progress=False)
    assert pictures(out) == pictures(whole)
    names = {str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file()}
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == names
    for name in names - {"run.json"}:
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    before = {path: path.stat().st_mtime_ns for path in (out / "images").rglob("*.png")}
    generate(job(out))
    assert {path: path.stat().st_mtime_ns for path in (out / "images").rglob("*.png")} == before
    record = json.loads((out / "run.json").read_text())
    assert record["rows"] == json.loads((whole / "run.json").read_text())["rows"]
    assert list(record["rows"]) == [row.name for row in merged.rows] == [row.name for row in ROWS]
    assert len(record["shards"]) == 3
    assert len(record["fit_seconds"]["tiny"]) == 6


def test_folders_of_different_runs_are_not_merged(tmp_path: Path) -> None:
    small = SUITE.limited(subjects=1)
    named = {"suite": small, "seed_sets": (0,)}
    generate(job(tmp_path / "a", shard=(1, 2), **named))
    for name, others, message in [
        ("weights", {"methods": {**METHODS, "tiny": OtherWeights}}, "they differ in checkpoint_hash of 'tiny-2'"),
        ("rows", {"rows": ROWS[:2]}, "whether there is a row 'plain'"),
        ("batches", {"batch_size": 4}, "prompts_per_batch of 'tiny-2'"),
        ("seeds", {"seed_sets": (0, 1)}, "seed sets"),
        ("suite", {"suite": SUITE}, "the suite"),
    ]:
        generate(job(tmp_path / name, shard=(2, 2), **{**named, **others}))
        with pytest.raises(InputError, match=message):
            merge_shards([tmp_path / "a", tmp_path / name], tmp_path / "out", show_progress=False)
    with pytest.raises(InputError, match=r"holds no suite\.json and run\.json"):
        merge_shards([tmp_path / "a", tmp_path / "nowhere"], tmp_path / "out", show_progress=False)
    with pytest.raises(InputError, match="no folders"):
        merge_shards([], tmp_path / "out", show_progress=False)
    assert not (tmp_path / "out").exists()


def test_an_image_of_another_unit_is_never_merged(tmp_path: Path) -> None:
    generate(job(tmp_path / "a", suite=SUITE.limited(subjects=1, prompts=1), seed_sets=(0,)))
    one, other = sorted((tmp_path / "a/images/seed0/tiny/dog").iterdir())[:2]
    one.write_bytes(other.read_bytes())
    with pytest.raises(InputError, match=r"dog/00-0.png is no image of 'tiny' as its folder's run.json tells of"):
        merge_shards([tmp_path / "a"], tmp_path / "out", show_progress=False)


class OtherWeights(TinyMethod):
    def __init__(self, model: str) -> None:
        super().__init__(model, weights="b")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["bench", "mini-quick", "--shard", "4/3"], "'4/3' is no shard; write 1/3, 2/3 and 3/3 for the three parts"),
        (["bench", "mini-quick", "--workers", "0"], "0 workers make nothing"),
        (["merge", "nowhere", "--out", "out"], "nowhere is not a folder"),
        (["merge", "--out", "out"], "SHARD"),
        (["merge", ".", "--out", "out"], "holds no suite.json and run.json"),
    ],
)
def test_mistakes_are_told_in_one_line(
    command: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bdkit: error: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_long_fits_come_first_and_truth_last(tmp_path: Path) -> None:
    tasks = enumerate_tasks(job(tmp_path))
    groups = [rows[0].group for rows in group_rows(ROWS)]
    order = longest_first(tasks, {groups[0]: 6, groups[1]: 80})
    assert sorted(order, key=str) == sorted(tasks, key=str)
    assert list(dict.fromkeys(task.group for task in order)) == [groups[1], groups[0], f"{GROUND_TRUTH} {{}}"]


def test_as_many_workers_as_there_are_cores_and_memory() -> None:
    assert 1 <= suitable_workers(0) <= usable_cores()
    assert suitable_workers(1 << 50) == 1


def test_a_lock_is_held_by_one_and_freed_with_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "locks/x"
    one, other = FileLock(path), FileLock(path)
    assert one.acquire(wait=False)
    assert not other.acquire(wait=False)
    assert not other.acquire(shared=True, wait=False)
    path.unlink()
    # whoever comes now gets a new file, and who waited for the old one notices
    assert other.acquire(wait=False)
    one.release()
    third = FileLock(path)
    assert not third.acquire(wait=False)
    other.release()
    assert third.acquire(shared=True, wait=False)
    assert one.acquire(shared=True, wait=False)
    assert not other.acquire(wait=False)


def test_tidying_waits_until_nobody_is_at_work(tmp_path: Path) -> None:
    tidied: list[str] = []
    with at_work(tmp_path, lambda: tidied.append("a")):
        with at_work(tmp_path, lambda: tidied.append("b")):
            pass
        assert tidied == ["a"]
    assert tidied == ["a", "a"]
    assert not tmp_path.exists()
