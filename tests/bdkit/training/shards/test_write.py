"""Shards: written the same wherever a run is killed."""

import itertools
import json
import tarfile
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
import shard_examples
from shard_examples import (
    BYTES,
    COUNT,
    DUPLICATE,
    PER_JOB,
    REJECTED,
    SETTINGS,
    Inline,
    contents,
    make,
    write,
)

from bdkit.training.shards import jobs as jobs_module
from bdkit.training.shards import write as write_module
from bdkit.training.shards.files import pack, unpack
from bdkit.training.shards.jobs import Item
from bdkit.training.shards.read import Shards
from bdkit.training.shards.write import write_shards
from bdkit.utils.errors import InputError


def test_any_reader_of_tars_can_read_them(written: Path) -> None:
    dataset = json.loads((written / "dataset.json").read_text())
    assert (dataset["read"], dataset["accepted"]) == (COUNT, COUNT - 2)
    assert dataset["rejected"] == {"duplicate": 1, "too dark": 1}
    assert len(dataset["shards"]) == 5
    names = []
    for shard in dataset["shards"]:
        with tarfile.open(written / shard["name"]) as tar:
            members = tar.getmembers()
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}
        assert (written / shard["name"]).stat().st_size == shard["bytes"] <= BYTES
        names += [member.name for member in members]
    kept = [n for n in range(COUNT) if n not in (REJECTED, DUPLICATE)]
    assert names == [f"{n:04d}.{ext}" for n in kept for ext in ("json", "png")]
    assert (written / "rejected.csv").read_text().splitlines() == [
        "row,source,reason,detail",
        "7,7.png,too dark,by far",
        "20,20.png,duplicate,the same as 0003",
    ]
    assert set(contents(written)) == {"dataset.json", "index.parquet", "rejected.csv"} | {
        shard["name"] for shard in dataset["shards"]
    }


def test_the_index_leads_to_each_record(written: Path) -> None:
    shards = Shards(written)
    shards.verify()
    records = [shards[number] for number in range(len(shards))]
    assert [r.details["number"] for r in records] == [n for n in range(COUNT) if n not in (REJECTED, DUPLICATE)]
    assert all((r.image() == r.details["number"]).all() and r.image().shape == (4, 4, 3) for r in records)
    assert records[3].template() == "a {}, number 3"
    assert list(pq.read_table(written / "index.parquet").column_names) == ["shard", "offset", "size", "key", "hash"]


def test_killed_at_any_write_the_same_call_ends_the_same(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    calls = {"left": 0}

    def killing(function: Callable[..., Any], after: bool) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            calls["left"] -= 1
            if calls["left"] == 0 and not after:
                raise Killed
            result = function(*args)
            if calls["left"] == 0:
                raise Killed
            return result

        return call

    expected = contents(written)
    for after in (False, True):
        with monkeypatch.context() as patch:
            for module, name in (
                (write_module, "publish"),
                (write_module, "write_json"),
                (write_module, "write_bytes"),
                (jobs_module, "write_bytes"),
            ):
                patch.setattr(module, name, killing(getattr(module, name), after))
            for kill_at in itertools.count(1):
                out = tmp_path / f"{kill_at}-{after}"
                calls["left"] = kill_at
                try:
                    write(out)
                except Killed:
                    calls["left"] = 0
                    write(out)
                    assert contents(out) == expected, (kill_at, after)
                    continue
                break
            assert kill_at > 15


def test_a_finished_part_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    original = shard_examples.make

    def failing(first: int, count: int) -> list[Item]:
        made.append(first)
        if first == 27 and made.count(27) == 1:
            raise RuntimeError("a bug")
        return original(first, count)

    monkeypatch.setattr(shard_examples, "make", failing)
    for _ in range(2):
        try:
            write(tmp_path / "out", workers=1)
        except RuntimeError:
            continue
    assert sorted(set(made)) == list(range(0, COUNT, PER_JOB))
    assert all(made.count(first) == 1 for first in (0, 9))


@pytest.mark.slow
def test_spawned_processes_write_the_same_bytes(written: Path, tmp_path: Path) -> None:
    write(tmp_path / "out", executor=None, workers=2)
    assert contents(tmp_path / "out") == contents(written)


def test_a_finished_run_is_left_alone(copied: Path) -> None:
    before = contents(copied)
    assert write(copied)["accepted"] == COUNT - 2
    assert contents(copied) == before


def test_shards_on_another_file_system(written: Path, tmp_path: Path) -> None:
    out = "memory://bucket/shards"
    write(out, work=tmp_path / "work")
    memory = fsspec.filesystem("memory")
    stored = {name.rsplit("/", 1)[1]: memory.cat_file(name) for name in memory.find("/bucket/shards")}
    assert stored == contents(written)
    shards = Shards(out)
    assert shards[30].details["number"] == 32
    write(out)  # finished, so needs no --work
    with pytest.raises(InputError, match="--work"):
        write("memory://bucket/other")


def test_a_record_of_another_tar_is_refused() -> None:
    key, files = unpack(pack("a-1", {"json": b"{}", "alpha.png": b"x" * 600}))
    assert (key, files) == ("a-1", {"json": b"{}", "alpha.png": b"x" * 600})
    for damaged in (bytes(512), pack("a", {"json": b"123"})[:514], pack("a", {"x": b""}) + pack("b", {"x": b""})):
        with pytest.raises(ValueError, match=r"header|cut off|2 keys"):
            unpack(damaged)


def test_two_runs_in_one_folder_are_refused(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="belongs to another run \\(size: 4, not 8\\)"):
        write(copied, settings=SETTINGS | {"size": 8})
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="already holds something else"):
        write(other)
    out = tmp_path / "out"

    class Second(Inline):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            with pytest.raises(InputError, match="another run is writing"):
                write(out)
            with pytest.raises(InputError, match=r"belongs to another run|another run is writing"):
                write(out, settings={"size": 1})
            return super().submit(fn, *args, **kwargs)

    write(out, executor=Second())


def test_a_run_that_rejects_everything_says_why(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of the 1 images can be used: 1 too dark"):
        write_shards(
            make,
            [(REJECTED, 1)],
            str(tmp_path / "out"),
            settings={},
            shard_bytes=BYTES,
            total=1,
            executor=Inline(),
            progress=False,
        )
    write(tmp_path / "out")  # the folder may be used again
