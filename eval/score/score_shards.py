"""Scores in parts: which images a shard scores, what it leaves in OUT/shards, and all parts together again.

A shard scores whole subjects of a method and seed set, because some metrics compare the samples of a prompt. It reads
every file, decodes its own, and needs no word from the other shards: the parts are the rows of one run, cut up.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bdkit.utils.errors import InputError
from bdkit.utils.io import read_json, write_bytes, write_json
from dreambench.suites import Suite
from eval.results_dir import Job
from eval.score.check import Audit, Key, Problem

FOLDER = "shards"
KEY_VERSION = 1
# What may differ among the shards of one run
OF_THE_MACHINE = ("images", "device", "versions")


@dataclass(frozen=True)
class Part:
    """The scores of one shard, as found on disk. record: what run.json says of a scoring, of this part."""

    path: Path
    number: int
    count: int
    key: str
    record: Mapping[str, Any]
    problems: Sequence[Problem]
    sha256: str

    def frame(self) -> pd.DataFrame:
        """Its rows. Raises InputError when they are not what was written."""
        path = self.path.with_suffix(".parquet")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror or error}); run that shard again") from error
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise InputError(f"{path} is damaged; run that shard again")
        return pd.read_parquet(io.BytesIO(data))


def tasks_of(jobs: Sequence[Job], suite: Suite, shard: tuple[int, int]) -> set[tuple[str, int, str]]:
    """(method, seed set, subject) of those that a shard (number, count) scores: every count-th."""
    number, count = shard
    tasks = [(job.method, job.seed_set, subject.name) for job in jobs for subject in suite.subjects]
    return set(tasks[number - 1 :: count])


def task_of(key: Key) -> tuple[str, int, str]:
    """Which task an image belongs to."""
    return key[:3]


def run_key(record: Mapping[str, Any], checked: Audit, jobs: Sequence[Job]) -> str:
    """32 hex digits that are the same for the shards of one run alone: of images, references, weights, protocol."""
    parts = [
        KEY_VERSION,
        {name: value for name, value in record.items() if name not in OF_THE_MACHINE},
        [[job.method, job.seed_set] for job in jobs],
        [[place, content.hex()] for place, content in checked.all_contents],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def has_parts(folder: Path) -> bool:
    """Whether a folder holds the scores of a shard."""
    return any((folder / FOLDER).glob("*-of-*.json"))


def write_part(
    frame: pd.DataFrame, out: Path, shard: tuple[int, int], key: str, record: Mapping[str, Any], checked: Audit
) -> Path:
    """Writes OUT/shards/<number>-of-<count>.parquet and .json, and removes what another run left there."""
    for path in (out / FOLDER).glob("*-of-*.json"):
        if _key_of(path) != key:
            path.unlink(missing_ok=True)
            path.with_suffix(".parquet").unlink(missing_ok=True)
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    path = out / FOLDER / f"{shard[0]}-of-{shard[1]}.json"
    write_bytes(buffer.getvalue(), path.with_suffix(".parquet"))
    problems = [[problem.kind, problem.path, problem.detail, problem.place] for problem in checked.problems]
    write_json(
        {
            "shard": list(shard),
            "key": key,
            "sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
            "scoring": dict(record),
            "problems": problems,
        },
        path,
    )
    return path


def read_parts(folders: Sequence[Path]) -> list[Part]:
    """The parts in some folders, each number once, all of one run.

    Raises InputError when one is missing, when they are of different runs, and for a file that is not one of ours.
    """
    found = [_read_part(path) for folder in folders for path in sorted((folder / FOLDER).glob("*-of-*.json"))]
    if not found:
        raise InputError(f"{folders[0]} holds no scores of a shard; score there with --shard")
    for part in found[1:]:
        if (part.key, part.count) != (found[0].key, found[0].count):
            raise InputError(
                f"{part.path} and {found[0].path} are no shards of one run: images, references, weights, protocol or "
                "options differ; score one of them again"
            )
    parts = {part.number: part for part in reversed(found)}
    if missing := [number for number in range(1, found[0].count + 1) if number not in parts]:
        named = ", ".join(f"{number}/{found[0].count}" for number in missing)
        raise InputError(f"the scores of shard {named} are in none of these folders; run it, then merge again")
    return [parts[number] for number in sorted(parts)]


def join_frames(parts: Sequence[Part], suite: Suite) -> pd.DataFrame:
    """The rows of all parts in the order of one run."""
    frames = [frame for frame in (part.frame() for part in parts) if len(frame)]
    places = {
        "subject": {subject.name: number for number, subject in enumerate(suite.subjects)},
        "metric": {name: number for number, name in enumerate(parts[0].record["metrics"])},
    }
    return pd.concat(frames, ignore_index=True).sort_values(
        ["method", "seed_set", "subject", "prompt", "sample", "metric"],
        key=lambda column: column.map(places[str(column.name)]) if column.name in places else column,
        ignore_index=True,
    )


def join_records(parts: Sequence[Part]) -> dict[str, Any]:
    """What run.json says of the whole scoring; where machines differ, all of them."""
    counts: dict[str, dict[str, int]] = {}
    for part in parts:
        for method, count in part.record["images"].items():
            whole = counts.setdefault(method, {"scored": 0, "expected": 0})
            for name in whole:
                whole[name] += count[name]
    records = [part.record for part in parts]
    versions = {name: _joined(record["versions"].get(name) for record in records) for name in records[0]["versions"]}
    return {
        **records[0],
        "images": counts,
        "device": _joined(record["device"] for record in records),
        "versions": versions,
    }


def join_problems(parts: Sequence[Part]) -> list[Problem]:
    """The problems of all parts, each once."""
    order = ("missing", "surplus", "duplicate", "unreadable", "same content")
    every = dict.fromkeys(problem for part in parts for problem in part.problems)
    return sorted(every, key=lambda problem: order.index(problem.kind))


def _joined(values: Any) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values))


def _key_of(path: Path) -> str | None:
    try:
        return _read_part(path).key
    except InputError:
        return None


def _read_part(path: Path) -> Part:
    values = read_json(path)
    try:
        number, count = values["shard"]
        problems = [
            Problem(kind, name, detail, None if place is None else (place[0], int(place[1]), *place[2:]))
            for kind, name, detail, place in values["problems"]
        ]
        return Part(path, number, count, values["key"], dict(values["scoring"]), problems, values["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no record of a shard's scores ({error!r}); run that shard again") from error
