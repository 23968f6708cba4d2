"""Shards: read in an exact order, refused where they do not fit."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from shard_examples import (
    COUNT,
    number_of,
    write,
)

from bdkit.training.shards.contact_sheet import contact_sheet
from bdkit.training.shards.latents import cache_latents
from bdkit.training.shards.read import Record, ShardLoader, Shards
from bdkit.utils.errors import InputError
from bdkit.utils.images import encode


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


def test_an_index_or_a_record_of_the_dataset_that_lacks_something_is_named(tmp_path: Path) -> None:
    write(tmp_path / "shards")
    index, dataset = tmp_path / "shards" / "index.parquet", tmp_path / "shards" / "dataset.json"
    whole = pq.read_table(index)
    pq.write_table(whole.drop(["hash"]), index)
    with pytest.raises(InputError, match=r"index\.parquet has no column hash; prepare the images again"):
        Shards(tmp_path / "shards")
    for text in ("[]", '{"format": "bdkit-shards-1"}'):
        dataset.write_text(text)
        with pytest.raises(InputError, match=r"dataset\.json is not of the format bdkit-shards-1"):
            Shards(tmp_path / "shards")


PNG = encode(Image.new("RGB", (8, 8)), "PNG")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"png": b"\x89PNG damaged"}, "record k: its png is damaged; copy the shards once more"),
        ({"png": PNG[:-30]}, "record k: its png is damaged"),
        ({"json": b"{"}, "record k has no readable json"),
        ({}, "record k has no readable json"),
    ],
)
def test_a_damaged_record_is_named(files: dict[str, bytes], message: str) -> None:
    record = Record("k", files)
    with pytest.raises(InputError, match=message):
        record.image() if "png" in files else record.text()
