"""The units of work: one image each. What they are, their keys, which belong together, and how shards divide them.

A unit's seed depends on its ids alone (`eval.generate.rows.image_seed`), its pixels on its key: nothing depends on who makes
it, when, or beside which others. So any program may divide the units of a `Generation` among machines:
`enumerate_units` lists them, `eval.generate.runner.run_units` makes some of them.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bdkit.utils.errors import InputError
from eval.generate.rows import Generation, Row, group_rows, image_seed
from eval.generate.stamps import State, image_state
from eval.results_dir import GROUND_TRUTH, Job, Slot, image_path, slots

KEY_VERSION = 1


@dataclass(frozen=True)
class Unit:
    """One picture: a row of the table, a subject's name, the prompt's index, the sample's number, the seed set."""

    row: str
    subject: str
    prompt: int
    sample: int
    seed_set: int


@dataclass(frozen=True)
class Task:
    """Units that share one fit: those of one subject and seed set, of all rows with the same method and overrides."""

    group: str
    subject: str
    seed_set: int
    units: tuple[Unit, ...]

    @property
    def label(self) -> str:
        """What people call it: "dreambooth, dog"."""
        return f"{self.group.split(' ', 1)[0]}, {self.subject}"

    @property
    def is_truth(self) -> bool:
        """Whether these are the mini world's own images, for which nothing is fitted."""
        return self.units[0].row == GROUND_TRUTH

    @property
    def name(self) -> str:
        """The same few letters for the same work in every process."""
        text = json.dumps([self.group, self.subject, self.seed_set])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Plan:
    """What the units of a `Generation` are made with, as known once the methods were built.

    entries: row -> its method, overrides, snapshot, settings (weights' hash among them) and prompts_per_batch, as JSON
    steps: group of rows -> training steps of one fit
    photos: subject -> the SHA-256 of each of its photos, for a suite of photos
    """

    entries: Mapping[str, Mapping[str, Any]]
    steps: Mapping[str, int] = field(default_factory=dict)
    photos: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def key(self, job: Generation, row: str, slot: Slot, seed_set: int) -> str:
        """32 hex digits that change with whatever changes the picture: config, weights, photos and ids."""
        subject = slot.subject
        parts = [
            KEY_VERSION,
            self.entries.get(row, {"method": row}),
            self.photos.get(subject.name, []),
            [job.suite.name, job.suite.seed, job.suite.split],
            [row, subject.name, subject.class_noun, slot.prompt.index, slot.prompt.template, slot.sample, seed_set],
            image_seed(job.suite, row, slot, seed_set),
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def all_rows(job: Generation) -> tuple[Row, ...]:
    """The rows of a `Generation`, the mini world's own images among them."""
    truth = (Row(name=GROUND_TRUTH, method=GROUND_TRUTH),) if job.draws_ground_truth else ()
    return (*job.rows, *truth)


def enumerate_tasks(job: Generation) -> list[Task]:
    """All tasks of the job's shard in a fixed order, whatever is done already."""
    tasks = []
    for rows in group_rows(all_rows(job)):
        for seed_set in job.seed_sets:
            for subject in job.suite.subjects:
                units = tuple(
                    Unit(row.name, subject.name, slot.prompt.index, slot.sample, seed_set)
                    for row in rows
                    for slot in slots(job.suite, subject)
                )
                tasks.append(Task(rows[0].group, subject.name, seed_set, units))
    number, count = job.shard
    # round robin over groups of equal cost: each shard gets as many tasks of every group, give or take one
    return tasks[number - 1 :: count]


def enumerate_units(job: Generation) -> list[Unit]:
    """All units of the job's shard in a fixed order, whatever is done already."""
    return [unit for task in enumerate_tasks(job) for unit in task.units]


def group_units(job: Generation, units: Iterable[Unit]) -> list[Task]:
    """The tasks that units of a job belong to, with these units only.

    Raises InputError for a unit that the job does not have.
    """
    wanted = set(units)
    tasks = []
    for task in enumerate_tasks(job):
        if some := tuple(unit for unit in task.units if unit in wanted):
            tasks.append(Task(task.group, task.subject, task.seed_set, some))
            wanted.difference_update(some)
    if wanted:
        raise InputError(f"the job has no unit {min(wanted, key=str)}; take units from enumerate_units of the same job")
    return tasks


def find_slots(job: Generation, subject_name: str) -> dict[tuple[int, int], Slot]:
    """A subject's slots by prompt index and sample."""
    subject = next(subject for subject in job.suite.subjects if subject.name == subject_name)
    return {(slot.prompt.index, slot.sample): slot for slot in slots(job.suite, subject)}


def unit_states(job: Generation, plan: Plan, task: Task) -> list[tuple[Unit, State]]:
    """How the images of a task stand in OUT, each read whole."""
    places = find_slots(job, task.subject)
    states = []
    for unit in task.units:
        slot = places[unit.prompt, unit.sample]
        key = plan.key(job, unit.row, slot, unit.seed_set)
        states.append((unit, image_state(image_path(job.out, Job(unit.row, unit.seed_set), slot), key)))
    return states


def parse_shard(text: str | None) -> tuple[int, int]:
    """ "2/3" is (2, 3), the second of three; None is the whole, (1, 1).

    Raises InputError for anything else.
    """
    if text is None:
        return (1, 1)
    match = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", text.strip(), re.ASCII)
    if match is None or int(match[1]) > int(match[2]):
        raise InputError(f"{text!r} is no shard; write 1/3, 2/3 and 3/3 for the three parts of a run")
    return int(match[1]), int(match[2])
