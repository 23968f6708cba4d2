"""What is to be generated, as data: the rows of the table, their seeds, and what is still to be done."""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from torch import Tensor

from dreambench.errors import InputError
from dreambench.files import write_text
from dreambench.suites import Suite, SuiteSubject
from eval.layout import GROUND_TRUTH, MANIFEST_FILE, REAL, REAL_WITH_SELF, Job, Slot, picture_path, slots

RESERVED_ROWS = (REAL, REAL_WITH_SELF, GROUND_TRUTH)


class Method(Protocol):
    """What the runner asks of a method; `bdkit.methods` has them."""

    snapshots: tuple[int, ...]

    def fit(self, images: list[Image.Image], class_noun: str, seed: int) -> None:
        """Learns a subject."""

    def select(self, step: int | None) -> None:
        """Uses the weights as they were after `step` steps; None: the last."""

    def generate(self, prompt_template: str | list[str], class_noun: str, seeds: list[int]) -> list[Image.Image]:
        """One picture a seed, all of one template or each of its own."""

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

    snapshot: training steps after which the pictures are made; None: after the last
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

    batch_size: pictures generated together, at least those of one prompt; None: as many as suit the device
    methods: method name -> builder; None for bdkit's own
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
    show_progress: bool = True

    @property
    def draws_ground_truth(self) -> bool:
        """Whether the mini world draws a picture for every prompt too."""
        return self.ground_truth and self.suite.source == "procedural"


def derive_seed(*parts: object) -> int:
    """A whole number in 0..2^48-1 from logical ids, never from a rank or a batch."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:6])


def picture_seed(suite: Suite, row: str, slot: Slot, seed_set: int) -> int:
    """The seed of one picture."""
    return derive_seed(suite.name, row, slot.subject.name, slot.prompt.index, slot.sample, seed_set)


@dataclass(frozen=True)
class Work:
    """One subject with one seed set, the rows with pictures missing, and how many are missing in all."""

    subject: SuiteSubject
    seed_set: int
    rows: tuple[Row, ...]
    n_pictures: int


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


def open_work(job: Generation, rows: Sequence[Row]) -> list[Work]:
    """What is still to be done of rows that share their fits, a subject and seed set at a time."""
    work = []
    for seed_set in job.seed_sets:
        for subject in job.suite.subjects:
            missing = {row.name: len(missing_slots(job, row, seed_set, slots(job.suite, subject))) for row in rows}
            open_rows = tuple(row for row in rows if missing[row.name])
            if open_rows:
                work.append(Work(subject, seed_set, open_rows, sum(missing.values())))
    return work


def missing_slots(job: Generation, row: Row, seed_set: int, places: Iterable[Slot]) -> list[Slot]:
    """Those of a row's pictures that are not there."""
    return [slot for slot in places if not picture_path(job.out, Job(row.name, seed_set), slot).exists()]


def batches(suite: Suite, subject: SuiteSubject, prompts_per_batch: int) -> list[list[Slot]]:
    """A subject's pictures in batches of whole prompts with all their samples, whatever is there already."""
    places = slots(suite, subject)
    size = prompts_per_batch * suite.samples_per_prompt
    return [places[start : start + size] for start in range(0, len(places), size)]


def write_manifest(job: Generation) -> None:
    """Writes OUT/manifest.csv: one line a picture, with its prompt, seed and SHA-256."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["path", "method", "seed_set", "subject", "prompt", "sample", "text", "seed", "sha256"])
    names = [row.name for row in job.rows]
    if job.draws_ground_truth:
        names.append(GROUND_TRUTH)
    for name in sorted(names):
        for seed_set in sorted(job.seed_sets):
            writer.writerows(_manifest_lines(job, Job(name, seed_set)))
    write_text(buffer.getvalue(), job.out / MANIFEST_FILE)


def _manifest_lines(job: Generation, pictures: Job) -> Iterable[list[object]]:
    for subject in job.suite.subjects:
        for slot in slots(job.suite, subject):
            path = picture_path(job.out, pictures, slot)
            yield [
                path.relative_to(job.out).as_posix(),
                pictures.method,
                pictures.seed_set,
                subject.name,
                slot.prompt.index,
                slot.sample,
                slot.prompt.text(subject.class_noun),
                picture_seed(job.suite, pictures.method, slot, pictures.seed_set),
                hashlib.sha256(path.read_bytes()).hexdigest(),
            ]
