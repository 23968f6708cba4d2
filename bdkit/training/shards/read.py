"""Shards -> records and batches, in an order that (seed, epoch) alone decides, resumed at any record."""

import hashlib
import io
import json
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from bdkit.training.data import record_rng
from bdkit.training.shards.files import END, file_size, is_remote, join, read_file, unpack
from bdkit.training.shards.write import DATASET, FORMAT, INDEX
from bdkit.utils.errors import InputError
from bdkit.utils.parallel import end_with_parent

OPEN_FILES = 16  # a process reads shard by shard; a few stay open for loader workers that run ahead


@dataclass(frozen=True)
class Record:
    """One record: its key, its files by extension, decoded when asked, and its number in the shards."""

    key: str
    files: dict[str, bytes]
    number: int = -1

    @cached_property
    def details(self) -> dict[str, Any]:
        """What `KEY.json` holds."""
        try:
            value: dict[str, Any] = json.loads(self.files["json"])
        except (KeyError, ValueError) as error:
            raise InputError(f"record {self.key} has no readable json; copy the shards once more") from error
        return value

    def image(self) -> np.ndarray:
        """The image, uint8 (H, W, 3)."""
        return self.pixels("png" if "png" in self.files else "jpg", "RGB")

    def cutout(self) -> tuple[np.ndarray, np.ndarray]:
        """Colours (H, W, 3) and alpha (H, W), uint8, of the subject, as an input shows it.

        The mini world has them of the subject without outfit or change (`plain`), or from closed-form matting
        (`matte`), where the subject's exact alpha in the image is another.
        """
        if "plain.png" in self.files:
            return self.pixels("plain.png", "RGB"), self.pixels("plain_alpha.png", "L")
        alpha = self.pixels("matte.png" if "matte.png" in self.files else "alpha.png", "L")
        for extension in ("foreground.png", "foreground.jpg"):
            if extension in self.files:
                return self.pixels(extension, "RGB"), alpha
        return self.image(), alpha

    def text(self) -> str:
        """The detailed caption, else the caption."""
        text: str | None = self.details.get("detail") or self.details["caption"]
        if not text:
            raise InputError(f"record {self.key} has no caption; prepare the images with captions")
        return text

    def pixels(self, extension: str, mode: str) -> np.ndarray:
        """One of the files as pixels of a mode: "RGB", uint8 (H, W, 3), or "L", (H, W)."""
        if extension not in self.files:
            raise InputError(f"record {self.key} has no {extension}; prepare the images with masks")
        try:
            with Image.open(io.BytesIO(self.files[extension])) as image:
                return np.array(image if image.mode == mode else image.convert(mode))  # writable, as torch wants it
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for damaged files
            raise InputError(f"record {self.key}: its {extension} is damaged; copy the shards once more") from error

    def template(self) -> str:
        """The caption with `{}` in place of the class noun's first mention; of the mini world its own template."""
        if self.details.get("template"):
            return str(self.details["template"])
        caption, noun = self.details["caption"] or "", self.details["subject"] or ""
        found = re.search(rf"(?<!\w){re.escape(noun)}(?!\w)", caption, re.IGNORECASE) if noun else None
        found = found or (re.search(re.escape(noun), caption, re.IGNORECASE) if noun else None)
        if found is None:
            raise InputError(f"record {self.key}: the caption {caption!r} lacks the noun {noun!r}; prepare it again")
        return caption[: found.start()].replace("{", "").replace("}", "") + "{}" + caption[found.end() :]


class Shards:
    """The records of a folder of shards, or fsspec URL, by number; checked against the index when it is opened."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = str(path)
        name = join(self.path, DATASET)
        try:
            self.dataset: dict[str, Any] = json.loads(read_file(name))
            table = pq.read_table(pa.BufferReader(read_file(join(self.path, INDEX))))
        except FileNotFoundError as error:
            raise InputError(f"{error.filename or name} is missing; finish `bdkit prepare` first") from error
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path} is no readable dataset ({str(error).splitlines()[0]})") from error
        known = isinstance(self.dataset, dict) and isinstance(self.dataset.get("shards"), list)
        if not known or self.dataset.get("format") != FORMAT:
            raise InputError(f"{name} is not of the format {FORMAT}; prepare the images again")
        if lacking := {"shard", "offset", "size", "key", "hash"} - set(table.column_names):
            raise InputError(f"{join(self.path, INDEX)} has no column {min(lacking)}; prepare the images again")
        self.names = [shard["name"] for shard in self.dataset["shards"]]
        self.shard, self.offset, self.size = (table[name].to_numpy() for name in ("shard", "offset", "size"))
        self.keys, self.hashes = table["key"].combine_chunks(), table["hash"].combine_chunks()
        self._files: OrderedDict[int, int] = OrderedDict()
        self._process = os.getpid()
        self._check()

    def __len__(self) -> int:
        return len(self.shard)

    def __getitem__(self, number: int) -> Record:
        data = self._read(int(self.shard[number]), int(self.offset[number]), int(self.size[number]))
        expected = self.keys[number].as_py()
        try:
            key, files = unpack(data)
            if key != expected:
                raise ValueError(f"{key} stands there")
        except (ValueError, IndexError) as error:
            raise self._misfit(int(self.shard[number]), f"{error} where {expected} should be") from error
        return Record(key, files, number)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """All record numbers, int64: the shards permuted, and the records of each permuted.

        Of a single shard it is `default_rng([seed, epoch]).permutation`, the order of a corpus in memory.
        """
        rng = np.random.default_rng([seed, epoch])
        first = np.searchsorted(self.shard, np.arange(len(self.names) + 1))
        shards = rng.permutation(len(self.names)) if len(self.names) > 1 else [0]
        return np.concatenate([first[s] + rng.permutation(first[s + 1] - first[s]) for s in shards])

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that name all records and their order."""
        return hashlib.sha256("".join(self.hashes.to_pylist()).encode()).hexdigest()[:12]

    def verify(self) -> None:
        """Reads every record and compares its hash with the index's."""
        for number in range(len(self)):
            data = self._read(int(self.shard[number]), int(self.offset[number]), int(self.size[number]))
            if hashlib.sha256(data).hexdigest() != self.hashes[number].as_py():
                raise self._misfit(int(self.shard[number]), f"the bytes of {self.keys[number].as_py()} differ")

    def _check(self) -> None:
        if pc.count_distinct(self.keys).as_py() != len(self):
            counts = self.keys.value_counts().to_pylist()
            twice = next(entry["values"] for entry in counts if entry["counts"] > 1)
            raise InputError(f"{join(self.path, INDEX)} has the key {twice!r} twice; prepare the images again")
        if len(self) != sum(shard["records"] for shard in self.dataset["shards"]) or (np.diff(self.shard) < 0).any():
            raise InputError(f"{join(self.path, INDEX)} does not fit {DATASET}; prepare the images again")
        for number, shard in enumerate(self.dataset["shards"]):
            actual = file_size(join(self.path, shard["name"]))
            if actual is None:
                raise InputError(f"{join(self.path, shard['name'])} is missing; copy the dataset once more")
            if actual != shard["bytes"]:
                raise InputError(
                    f"{join(self.path, shard['name'])} has {actual} bytes, not {shard['bytes']}; copy it once more"
                )
            mine = self.shard == number
            ends = (self.offset + self.size)[mine]
            starts = np.append(self.offset[mine], actual - len(END))
            if len(ends) != shard["records"] or starts[0] != 0 or (starts[1:] != ends).any():
                raise self._misfit(number, "its records do not follow each other")

    def _misfit(self, shard: int, detail: str) -> InputError:
        return InputError(
            f"{INDEX} does not fit {join(self.path, self.names[shard])} ({detail}); prepare the images again"
        )

    def _read(self, shard: int, offset: int, size: int) -> bytes:
        path = join(self.path, self.names[shard])
        if is_remote(path):
            return read_file(path, offset, size)
        if self._process != os.getpid():  # forked: the parent closes its own
            self._files, self._process = OrderedDict(), os.getpid()
        if shard not in self._files:
            self._files[shard] = os.open(path, os.O_RDONLY)
            if len(self._files) > OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
        self._files.move_to_end(shard)
        return os.pread(self._files[shard], size, offset)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": OrderedDict(), "_process": 0}

    def __del__(self) -> None:
        if getattr(self, "_process", 0) == os.getpid():
            for file in self._files.values():
                os.close(file)


Transform = Callable[[Record, np.random.Generator], Any]
Place = tuple[int, int, int]  # epoch, place in its order, record number


class ShardLoader:
    """Endless batches of shards, by torch's DataLoader; its position is (epoch, record) and can be saved and set.

    Every process walks through the same order: of each total batch, `batch_size` x `world_size` records, process `rank`
    takes its own `batch_size`. A last batch that is not full is left out. What is drawn at random for a record depends
    on seed, epoch and place alone, so neither the number of loader workers nor a stop changes a batch.

    Args:
        transform: makes a record into a sample, with a generator of its own; runs in the loader workers.
        batch_size: per process.
        collate: makes samples into a batch; None: torch's own.
        num_workers: loader processes, spawned; 0 reads in this process.
    """

    def __init__(
        self,
        shards: Shards,
        transform: Transform,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        collate: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
    ) -> None:
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.total = batch_size * world_size
        if len(shards) < self.total:
            raise InputError(f"{shards.path} holds {len(shards)} records, fewer than a batch of {self.total}")
        self.shards, self.seed, self.num_workers = shards, seed, num_workers
        self.dataset = _Samples(shards, transform, seed)
        collate = partial(_collate, collate or default_collate)
        self.options: dict[str, Any] = {"collate_fn": collate, "pin_memory": pin_memory}
        if num_workers:
            self.options |= {"multiprocessing_context": "spawn", "worker_init_fn": end_with_parent}
        self.epoch, self.record = 0, 0

    def state_dict(self) -> dict[str, int]:
        """Where the next batch starts: epoch, and records of it that all processes together have read."""
        return {"epoch": self.epoch, "record": self.record}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Sets the position that the next `iter` starts from; the number of workers or processes may differ."""
        self.epoch, self.record = state["epoch"], state["record"]

    def __iter__(self) -> Iterator[Any]:
        places = _Places(self, self.epoch, self.record)
        loader = DataLoader(self.dataset, batch_sampler=places, num_workers=self.num_workers, **self.options)
        # The loader runs ahead of what is taken from it, so the position is counted here
        for (epoch, record), batch in zip(places.ends(), loader, strict=True):
            if isinstance(batch, InputError):
                raise batch
            self.epoch, self.record = epoch, record
            yield batch


class _Samples(Dataset[Any]):
    def __init__(self, shards: Shards, transform: Transform, seed: int) -> None:
        self.shards, self.transform, self.seed = shards, transform, seed

    def __getitem__(self, place: Place) -> Any:
        epoch, position, number = place
        try:
            return self.transform(self.shards[number], record_rng(self.seed, epoch, position))
        except InputError as error:  # handed on as a value: torch would put the worker's traceback into its message
            return error


def _collate(collate: Callable[[list[Any]], Any], samples: list[Any]) -> Any:
    return next((sample for sample in samples if isinstance(sample, InputError)), None) or collate(samples)


class _Places(Sampler[list[Place]]):
    """The batches of one process from a position on."""

    def __init__(self, loader: ShardLoader, epoch: int, record: int) -> None:
        self.loader, self.start = loader, (epoch, record)

    def ends(self) -> Iterator[tuple[int, int]]:
        """The position after each batch, without end."""
        (epoch, record), total, size = self.start, self.loader.total, len(self.loader.shards)
        while True:
            if record + total > size:
                epoch, record = epoch + 1, 0
            record += total
            yield epoch, record

    def __iter__(self) -> Iterator[list[Place]]:
        loader, current, order = self.loader, -1, np.empty(0, np.int64)
        for epoch, end in self.ends():
            if epoch != current:
                current, order = epoch, loader.shards.order(loader.seed, epoch)
            first = end - loader.total + loader.rank * loader.batch_size
            yield [(epoch, place, int(order[place])) for place in range(first, first + loader.batch_size)]
