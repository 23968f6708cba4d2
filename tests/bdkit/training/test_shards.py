"""Shards: written the same wherever a run is killed, read in an exact order, refused where they do not fit."""

import hashlib
import itertools
import json
import shutil
import tarfile
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bdkit.training.shards import jobs as jobs_module
from bdkit.training.shards import write as write_module
from bdkit.training.shards.contact_sheet import contact_sheet
from bdkit.training.shards.files import pack, unpack
from bdkit.training.shards.jobs import Item
from bdkit.training.shards.latents import cache_latents
from bdkit.training.shards.read import Record, ShardLoader, Shards
from bdkit.training.shards.write import write_shards
from bdkit.utils.errors import InputError
from bdkit.utils.images import encode

SETTINGS = {"size": 4, "path": Path("images")}
PER_JOB, COUNT, REJECTED, DUPLICATE = 9, 33, 7, 20
BYTES = 16_000  # a shard: seven records


class Inline(Executor):
    """Does the work at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def make(first: int, count: int) -> list[Item]:
    return [item(number) for number in range(first, first + count)]


def item(number: int) -> Item:
    shown = 3 if number == DUPLICATE else number
    pixels = np.full((4, 4, 3), shown, np.uint8)
    details = {"caption": f"a Dog, number {number}", "subject": "dog", "number": number}
    record = pack(
        f"{number:04d}", {"json": json.dumps(details).encode(), "png": encode(Image.fromarray(pixels), "PNG")}
    )
    whole = Item(
        row=number,
        key=f"{number:04d}",
        source=f"{number}.png",
        pixels=hashlib.sha256(pixels.tobytes()).hexdigest(),
        record=record,
    )
    return replace(whole, record=b"", pixels="", reason="too dark", detail="by far") if number == REJECTED else whole


def write(out: Path | str, **options: Any) -> dict[str, Any]:
    jobs = [(first, min(PER_JOB, COUNT - first)) for first in range(0, COUNT, PER_JOB)]
    defaults = {"settings": SETTINGS, "shard_bytes": BYTES, "total": COUNT, "executor": Inline(), "progress": False}
    return write_shards(make, jobs, str(out), **{**defaults, **options})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "out"
    write(out)
    return out


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "copy"))


def number_of(record: Record, rng: np.random.Generator) -> tuple[int, int]:
    return record.details["number"], int(rng.integers(1 << 40))


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
    original = make

    def failing(first: int, count: int) -> list[Item]:
        made.append(first)
        if first == 27 and made.count(27) == 1:
            raise RuntimeError("a bug")
        return original(first, count)

    monkeypatch.setitem(globals(), "make", failing)
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


def test_order_depends_on_seed_and_epoch_alone(written: Path, tmp_path: Path) -> None:
    shards = Shards(written)
    order = shards.order(3, 0)
    assert sorted(order) == list(range(len(shards)))
    assert (order == Shards(written).order(3, 0)).all()
    assert (order != shards.order(3, 1)).any()
    assert (order != shards.order(4, 0)).any()
    # shard after shard, each complete
    blocks = [key for key, _ in itertools.groupby(shards.shard[order])]
    assert sorted(blocks) == list(range(5))
    assert blocks != sorted(blocks)
    write(tmp_path / "one", shard_bytes=10**6)
    single = Shards(tmp_path / "one").order(3, 2)
    assert (single == np.random.default_rng([3, 2]).permutation(COUNT - 2)).all()


def batches(loader: ShardLoader, count: int) -> list[list[tuple[int, int]]]:
    return list(itertools.islice(loader, count))


def loader_of(shards: Shards, **options: Any) -> ShardLoader:
    return ShardLoader(shards, number_of, **{"batch_size": 4, "seed": 1, "collate": list} | options)


def test_an_epoch_shows_every_record_once(written: Path) -> None:
    shards = Shards(written)
    seen = batches(loader_of(shards), 14)
    for epoch in range(2):
        numbers = [number for batch in seen[7 * epoch : 7 * epoch + 7] for number, _ in batch]
        assert len(set(numbers)) == 28
    assert seen[:7] != seen[7:]
    assert batches(loader_of(shards, seed=2), 7) != seen[:7]


def test_resuming_at_any_batch_is_exact(written: Path) -> None:
    shards = Shards(written)
    whole = batches(loader_of(shards), 20)
    for stop in range(1, 16):
        first = loader_of(shards)
        assert batches(first, stop) == whole[:stop]
        state = json.loads(json.dumps(first.state_dict()))
        assert state == {"epoch": (stop - 1) // 7, "record": 4 * ((stop - 1) % 7 + 1)}
        second = loader_of(shards)
        second.load_state_dict(state)
        assert batches(second, 20 - stop) == whole[stop:]


def test_processes_share_each_batch(written: Path) -> None:
    shards = Shards(written)
    whole = batches(loader_of(shards), 9)
    ranks = [batches(loader_of(shards, batch_size=2, rank=rank, world_size=2), 9) for rank in range(2)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == whole
    alone = loader_of(shards)
    batches(alone, 3)
    pair = loader_of(shards, batch_size=2, rank=1, world_size=2)
    pair.load_state_dict(alone.state_dict())
    assert batches(pair, 2) == [batch[2:] for batch in whole[3:5]]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_loader_workers_change_nothing(written: Path, workers: int) -> None:
    shards = Shards(written)
    whole = batches(loader_of(shards), 16)
    first = loader_of(shards, num_workers=workers)
    assert batches(first, 5) == whole[:5]
    second = loader_of(shards, num_workers=3 - workers % 3)
    second.load_state_dict(first.state_dict())
    assert batches(second, 11) == whole[5:]


def test_latents_are_encoded_once(written: Path, tmp_path: Path) -> None:
    shards = Shards(written)
    calls: list[int] = []

    def encode_records(records: list[Record]) -> np.ndarray:
        calls.append(len(records))
        return np.stack([np.full((4, 2, 2), r.details["number"], np.float16) for r in records])

    folder = tmp_path / "latents"
    for _ in range(2):
        latents = cache_latents(shards, encode_records, folder, made_by="vae", batch_size=3, progress=False)
        assert len(latents) == sum(calls) == len(shards)
        assert [int(latents[n][0, 0, 0]) for n in range(len(shards))] == [
            shards[n].details["number"] for n in range(len(shards))
        ]
    (folder / "shard-000002.npy").unlink()
    cache_latents(shards, encode_records, folder, made_by="vae", progress=False)
    assert sum(calls) == len(shards) + 7
    with pytest.raises(InputError, match="another autoencoder"):
        cache_latents(shards, encode_records, folder, made_by="other", progress=False)


def test_contact_sheet_of_pairs(written: Path) -> None:
    sheet = contact_sheet(Shards(written), 3)
    assert sheet.size == (788, 16 + 3 * 212 + 4)
    with pytest.raises(InputError, match="at least one"):
        contact_sheet(Shards(written), 0)


def edit_index(folder: Path, edit: Callable[[dict[str, list[Any]]], None]) -> None:
    table = pq.read_table(folder / "index.parquet").to_pydict()
    edit(table)
    pq.write_table(pa.table(table), folder / "index.parquet")


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:-size])


def swap_keys(table: dict[str, list[Any]]) -> None:
    table["key"][0], table["key"][1] = table["key"][1], table["key"][0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: cut(f / "shard-000001.tar", 512), "has .* bytes, not .*; copy it once more"),
        (lambda f: (f / "shard-000001.tar").unlink(), "shard-000001.tar is missing"),
        (lambda f: (f / "dataset.json").unlink(), "dataset.json is missing; finish"),
        (lambda f: (f / "index.parquet").write_bytes(b"no"), "no readable dataset"),
        (lambda f: edit_index(f, lambda t: t["key"].__setitem__(0, t["key"][9])), "'0010' twice"),
        (lambda f: edit_index(f, lambda t: t["offset"].__setitem__(1, 512)), "do not follow each other"),
        (lambda f: edit_index(f, lambda t: [column.pop() for column in t.values()]), "does not fit dataset.json"),
        (lambda f: edit_index(f, swap_keys), "0000 stands there where 0001 should"),
        (lambda f: edit_index(f, lambda t: t["hash"].__setitem__(5, "0" * 64)), "the bytes of 0005 differ"),
        (lambda f: (f / "dataset.json").write_text('{"format": "other"}'), "not of the format"),
    ],
)
def test_shards_that_do_not_fit_are_refused(copied: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(copied)
    with pytest.raises(InputError, match=message):
        read_all(copied)


def read_all(folder: Path) -> None:
    shards = Shards(folder)
    assert shards[0].key == "0000"
    assert shards[1].key == "0001"
    shards.verify()


def test_a_batch_larger_than_the_set_is_refused(written: Path) -> None:
    with pytest.raises(InputError, match="fewer than a batch of 32"):
        loader_of(Shards(written), batch_size=16, world_size=2)


def test_a_caption_without_its_noun_is_refused() -> None:
    record = Record("k", {"json": json.dumps({"caption": "a cat", "subject": "dog"}).encode()})
    with pytest.raises(InputError, match="lacks the noun 'dog'"):
        record.template()


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
