"""VAE latents of shards, computed once and kept on disk: one file a shard, so that a killed run loses one at most."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from bdkit.training.shards.read import Record, Shards
from bdkit.utils.env import is_main_process, rank, world_size
from bdkit.utils.errors import InputError
from bdkit.utils.io import read_json, write_atomically, write_json
from bdkit.utils.progress import progress_bar

Encode = Callable[[Sequence[Record]], np.ndarray]


class Latents:
    """Latents by record number, read from files that are mapped into memory; other processes get their paths only."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self.first = np.cumsum([0, *(len(file) for file in self.files)]).tolist()

    @cached_property
    def files(self) -> list[np.ndarray]:
        """One array a shard."""
        return [np.load(path, mmap_mode="r") for path in self.paths]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "files"}

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, number: int) -> np.ndarray:
        if not 0 <= number < len(self):
            raise IndexError(number)
        shard = bisect_right(self.first, number) - 1
        return np.array(self.files[shard][number - self.first[shard]])


def cache_latents(
    shards: Shards, encode: Encode, folder: Path, *, made_by: str, batch_size: int = 16, progress: bool = True
) -> Latents:
    """Encodes the records that `folder` has no latents of yet; several processes share the shards.

    Args:
        encode: records to latents (B, C, h, w), in the dtype that is kept.
        made_by: what the latents depend on beside the images: the VAE's hash, size and crop. Latents made by something
            else, or of other shards, are refused.
    """
    told = {"made_by": made_by, "shards": shards.fingerprint}
    record = folder / "latents.json"
    if record.exists() and read_json(record) != told:
        raise InputError(f"{folder} holds latents of other images or another autoencoder; choose another folder")
    if is_main_process():
        write_json(told, record)
    paths = []
    with progress_bar(total=len(shards), desc="latents", unit="img", show=progress) as bar:
        for number, name in enumerate(shards.names):
            path = folder / f"{Path(name).stem}.npy"
            numbers = np.flatnonzero(shards.shard == number)
            if not path.exists() and number % world_size() == rank():
                batches = np.split(numbers, range(batch_size, len(numbers), batch_size))
                latents = np.concatenate([encode([shards[int(n)] for n in batch]) for batch in batches])
                write_atomically(path, partial(_save, latents))
            bar.update(len(numbers))
            paths.append(path)
    if world_size() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()
    return Latents(paths)


def _save(value: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, value)
