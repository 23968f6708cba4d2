"""What is to be generated, as data: the rows of the table, their seeds and batches, and the list of what was made."""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from torch import Tensor

from bdkit.utils.errors import InputError
from bdkit.utils.io import write_text
from bdkit.utils.seeds import derive_seed
from dreambench.suites import Suite, SuiteSubject
from eval.generate.stamps import read_stamp
from eval.results_dir import GROUND_TRUTH, MANIFEST_FILE, REAL, REAL_WITH_SELF, Job, Slot, image_path, slots

RESERVED_ROWS = (REAL, REAL_WITH_SELF, GROUND_TRUTH)


class Method(Protocol):
    """What the runner asks of a method; `bdkit.methods` has them."""

    snapshots: tuple[int, ...]

    def fit(self, images: list[Image.Image], class_noun: str, seed: int) -> None:
        """Learns a subject."""

    def select(self, step: int | None) -> None:
        """Uses the weights as they were after `step` steps; None: the last."""

    def generate(self, prompt_template: str | list[str], class_noun: str, seeds: list[int]) -> list[Image.Image]:
        """One image a seed, all of one template or each of its own."""

    def state(self) -> dict[str, Tensor]:
        """What was learned, all snapshots."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Takes what `state` gave."""

    @property
    def settings(self) -> dict[str, Any]:
        """JSON: steps, learning rate, guidance, scheduler, checkpoint hash."""


MethodBuilder = Callable[..., Method]
"""Called with model=... and a row's overrides."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table. Rows with the same method and overrides share one fit a subject.

    snapshot: training steps after which the images are made; None: after the last
    """

    name: str
    method: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    snapshot: int | None = None

    @property
    def group(self) -> str:
        """The same text for rows that share their fits."""
        return f"{self.method} {json.dumps(dict(self.overrides), sort_keys=True, default=str)}"


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What is to be generated where.

    batch_size: images generated together, at least those of one prompt; None: as many as suit the device
    methods: method name -> builder; None for bdkit's own
    shard: (i, n), the i-th of n parts, counted from 1
    workers: processes that work at the same time; None: as many as suit the machine, 1 with `methods` or a GPU
    remake: make images again that other settings or weights made
    notes: what else the run record is to say

    Raises InputError for less than one worker and for a shard that there isn't.
    """

    suite: Suite
    rows: tuple[Row, ...]
    model: str
    out: Path
    seed_sets: tuple[int, ...] = (0,)
    photos: Path | None = None
    ground_truth: bool = True
    batch_size: int | None = None
    methods: Mapping[str, MethodBuilder] | None = None
    shard: tuple[int, int] = (1, 1)
    workers: int | None = None
    remake: bool = False
    notes: Mapping[str, Any] = field(default_factory=dict)
    show_progress: bool = True

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise InputError(f"{self.workers} workers make nothing; give at least 1")
        if not 1 <= self.shard[0] <= self.shard[1]:
            raise InputError(f"there is no shard {self.shard[0]} of {self.shard[1]}; they are counted from 1")

    @property
    def draws_ground_truth(self) -> bool:
        """Whether the mini world draws an image for every prompt too."""
        return self.ground_truth and self.suite.source == "procedural"


def image_seed(suite: Suite, row: str, slot: Slot, seed_set: int) -> int:
    """The seed of one image."""
    return derive_seed(suite.name, row, slot.subject.name, slot.prompt.index, slot.sample, seed_set)


def check_rows(rows: Sequence[Row]) -> None:
    """Raises InputError for no rows, and for a name that is taken or cannot name a folder."""
    names = [row.name for row in rows]
    if not names:
        raise InputError("no rows to generate; name at least one method")
    for name in names:
        if names.count(name) > 1 or name in RESERVED_ROWS:
            raise InputError(f"the row name {name!r} is taken; give the row another name")
        if not name or Path(name).name != name or name.startswith("."):
            raise InputError(f"the row name {name!r} cannot name a folder; give the row another name")


def group_rows(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows that share a fit together, groups in the order of their first rows."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return list(groups.values())


def batches(suite: Suite, subject: SuiteSubject, prompts_per_batch: int) -> list[list[Slot]]:
    """A subject's images in batches of whole prompts with all their samples, whatever is there already."""
    places = slots(suite, subject)
    size = prompts_per_batch * suite.samples_per_prompt
    return [places[start : start + size] for start in range(0, len(places), size)]


def write_manifest(job: Generation, key: Callable[[str, Slot, int], str]) -> list[Path]:
    """Writes OUT/manifest.csv, one line an image: ids, text, seed, the unit's key and the file's SHA-256.

    key: (row, slot, seed set) -> the unit's key

    Returns the paths of the images that are not there or not whole; if there are any, nothing is written.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["path", "method", "seed_set", "subject", "prompt", "sample", "text", "seed", "key", "sha256"])
    names = [row.name for row in job.rows] + ([GROUND_TRUTH] if job.draws_ground_truth else [])
    jobs = [Job(name, seed_set) for name in sorted(names) for seed_set in sorted(job.seed_sets)]
    wanted = [
        (pictures, slot) for pictures in jobs for subject in job.suite.subjects for slot in slots(job.suite, subject)
    ]
    paths = [image_path(job.out, pictures, slot) for pictures, slot in wanted]
    if missing := [path for path in paths if not path.exists()]:
        return missing
    for (pictures, slot), path in zip(wanted, paths, strict=True):
        data, stamp = path.read_bytes(), key(pictures.method, slot, pictures.seed_set)
        if read_stamp(data) != stamp:
            missing.append(path)
        writer.writerow(
            [
                path.relative_to(job.out).as_posix(),
                pictures.method,
                pictures.seed_set,
                slot.subject.name,
                slot.prompt.index,
                slot.sample,
                slot.prompt.text(slot.subject.class_noun),
                image_seed(job.suite, pictures.method, slot, pictures.seed_set),
                stamp,
                hashlib.sha256(data).hexdigest(),
            ]
        )
    if not missing:
        write_text(buffer.getvalue(), job.out / MANIFEST_FILE)
    return missing
