"""Items made by many workers -> shards, in the order of the input; the same call resumes one that was killed."""

import csv
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bdkit.training.shards.files import END, file_size, is_remote, join, publish, read_file
from bdkit.training.shards.jobs import Item, Make, items_in_order, pool_of, threads_of_one
from bdkit.utils.errors import InputError
from bdkit.utils.io import check_writable, read_json, remove_unfinished, write_bytes, write_json
from bdkit.utils.parallel import locked
from bdkit.utils.progress import progress_bar

DATASET, INDEX, REJECTED, WORK = "dataset.json", "index.parquet", "rejected.csv", ".prepare"
FORMAT = "bdkit-shards-1"
LAST = 10**9  # behind every job


def write_shards(
    make: Make,
    jobs: Sequence[tuple[Any, ...]],
    out: str,
    *,
    settings: dict[str, Any],
    shard_bytes: int,
    total: int,
    workers: int | None = None,
    executor: Executor | None = None,
    work: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Calls `make` with each job's arguments and writes the items' records into shards, rejecting duplicates.

    Which records share a shard depends on their order and sizes alone, so the bytes depend neither on the workers nor
    on where an earlier call was killed.

    Args:
        make: a function of a module, because other processes look it up by its name.
        out: folder or fsspec URL.
        settings: all that decides the bytes; another call with the same `out` must have the same.
        shard_bytes: a shard is closed before it would be larger; one that holds a single record may be.
        total: rows in all the jobs, for the progress bar.
        workers: processes; None: one a core.
        executor: does the work in place of processes of our own.
        work: folder for unfinished work on a local disk; None: in `out`.

    Returns what dataset.json holds. Raises InputError when every row was rejected.
    """
    settings = json.loads(json.dumps(settings, default=str))
    finished = _finished(out, settings)
    if finished is not None:
        shutil.rmtree(Path(out) / WORK if work is None else work, ignore_errors=True)
        return finished
    if not is_remote(out):
        check_writable(out)
    if work is None:
        if is_remote(out):
            raise InputError(f"{out} is not on a local disk; give a folder for unfinished work with --work")
        work = Path(out) / WORK
    else:
        check_writable(work, "--work")
    with _locked(work, out, settings):
        writer = _Writer(out, work, shard_bytes)
        workers = workers or os.cpu_count() or 1
        with progress_bar(total=total, desc="prepare", unit="img", show=progress) as bar:
            bar.update(writer.rows)
            with threads_of_one(), pool_of(workers, executor) as pool:
                for number, items in items_in_order(make, jobs, writer.next[0], work, pool, 2 * workers):
                    for place, item in enumerate(items):
                        if (number, place) >= writer.next:
                            writer.add(item, (number, place))
                            bar.update()
        result = writer.finish(settings)
    shutil.rmtree(work)
    if not result["shards"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in result["rejected"].items())
        raise InputError(f"none of the {result['read']} images can be used: {reasons}; see {join(out, REJECTED)}")
    return result


def _finished(out: str, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The dataset.json of a finished run with the same settings; None where there is none."""
    path = join(out, DATASET)
    if file_size(path) is None:
        return None
    dataset: dict[str, Any] = json.loads(read_file(path))
    _check_settings(dataset["settings"], settings, out)
    return dataset


def _check_settings(old: dict[str, Any], new: dict[str, Any], out: str) -> None:
    changed = [name for name in new if old.get(name) != new[name]]
    if changed or set(old) != set(new):
        name = changed[0] if changed else "settings"
        raise InputError(
            f"{out} belongs to another run ({name}: {old.get(name)}, not {new.get(name)}); choose another --out"
        )


@contextmanager
def _locked(work: Path, out: str, settings: dict[str, Any]) -> Iterator[None]:
    """Holds the work folder, which belongs to one run with these settings."""
    record = work / "settings.json"
    claimed = is_remote(out) or record.exists() or not os.path.exists(out)
    if not claimed and set(os.listdir(out)) - {REJECTED, WORK}:
        raise InputError(f"{out} already holds something else; choose another --out")
    work.mkdir(parents=True, exist_ok=True)
    with locked(work / "lock", f"another run is writing {out}; wait for it or choose another --out"):
        remove_unfinished(work)
        if record.exists():
            _check_settings(read_json(record), settings, out)
        else:
            write_json(settings, record)
        yield


class _Writer:
    """Shards and what is known of them. `next` is the first item that no finished shard covers: job and place in it.

    Each finished shard has a file `shard-N.json` in the work folder, with its entries, what was rejected since the
    shard before, and `next`.
    """

    def __init__(self, out: str, work: Path, shard_bytes: int) -> None:
        self.out, self.work, self.shard_bytes = out, work, shard_bytes
        self.next = (0, 0)
        self.shards: list[dict[str, Any]] = []
        self.rows = 0
        self.keys_of_pixels: dict[bytes, str] = {}
        while (path := self._note(len(self.shards))).exists():
            note = read_json(path)
            self.next = (note["next"][0], note["next"][1])
            self.rows += len(note["entries"]) + len(note["rejected"])
            self.keys_of_pixels.update((bytes.fromhex(e["pixels"]), e["key"]) for e in note["entries"] if e["pixels"])
            self.shards.append({name: note[name] for name in ("name", "bytes", "records")})
        self._drop_parts()
        self._begin()

    def _note(self, number: int) -> Path:
        return self.work / f"shard-{number:06d}.json"

    def _drop_parts(self) -> None:
        """Removes the parts that finished shards cover."""
        for path in self.work.glob("part-*"):
            if int(path.name.removeprefix("part-")) < self.next[0]:
                path.unlink()

    def _begin(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.rejected: list[dict[str, Any]] = []
        self.size = 0
        self.file = (self.work / "shard.tar").open("wb")

    def add(self, item: Item, place: tuple[int, int]) -> None:
        """Takes the item at a place of the input; places come in order."""
        pixels = bytes.fromhex(item.pixels[:32])
        first = self.keys_of_pixels.get(pixels) if pixels and item.record else None
        if item.record and first is None:
            if self.entries and self.size + len(item.record) + len(END) > self.shard_bytes:
                self._close(place)
            entry = {"offset": self.size, "size": len(item.record), "key": item.key, "pixels": pixels.hex()}
            self.entries.append(entry | {"hash": hashlib.sha256(item.record).hexdigest()})
            self.file.write(item.record)
            self.size += len(item.record)
            if pixels:
                self.keys_of_pixels[pixels] = item.key
        else:
            reason, detail = (item.reason, item.detail) if first is None else ("duplicate", f"the same as {first}")
            self.rejected.append({"row": item.row, "source": item.source, "reason": reason, "detail": detail})

    def _close(self, place: tuple[int, int]) -> None:
        name = f"shard-{len(self.shards):06d}.tar"
        self.file.write(END)
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        shard = {"name": name, "bytes": self.size + len(END), "records": len(self.entries)}
        publish(self.work / "shard.tar", join(self.out, name))
        note = shard | {"next": place, "entries": self.entries, "rejected": self.rejected}
        write_json(note, self._note(len(self.shards)))
        self.next = place
        self.shards.append(shard)
        self._drop_parts()
        self._begin()

    def finish(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Writes the last shard, then rejected.csv, index.parquet and, as the last of all, dataset.json."""
        last = self.rejected
        if self.entries:
            self._close((LAST, 0))
            last = []
        self.file.close()
        notes = [read_json(self._note(number)) for number in range(len(self.shards))]
        rejected = sorted([r for note in notes for r in note["rejected"]] + last, key=lambda r: r["row"])
        counts = Counter(entry["reason"] for entry in rejected)
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, ["row", "source", "reason", "detail"], lineterminator="\n")
        table.writeheader()
        table.writerows(rejected)
        self._publish(text.getvalue().encode(), REJECTED)
        accepted = sum(shard["records"] for shard in self.shards)
        result = {
            "format": FORMAT,
            "read": accepted + len(rejected),
            "accepted": accepted,
            "rejected": dict(sorted(counts.items())),
            "settings": settings,
            "shards": self.shards,
        }
        if accepted:
            self._publish(_index_bytes(notes), INDEX)
            self._publish((json.dumps(result, indent=2, ensure_ascii=False) + "\n").encode(), DATASET)
        return result

    def _publish(self, data: bytes, name: str) -> None:
        temporary = self.work / name
        write_bytes(data, temporary)
        publish(temporary, join(self.out, name))


def _index_bytes(notes: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [(number, entry) for number, note in enumerate(notes) for entry in note["entries"]]
    columns = {
        "shard": pa.array([number for number, _ in rows], pa.int32()),
        **{name: pa.array([entry[name] for _, entry in rows], pa.int64()) for name in ("offset", "size")},
        **{name: pa.array([entry[name] for _, entry in rows], pa.string()) for name in ("key", "hash")},
    }
    with tempfile.TemporaryFile() as file:
        pq.write_table(pa.table(columns), file)
        file.seek(0)
        return file.read()
