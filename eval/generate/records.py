"""run.json: what a results folder was made with. Several processes may write it, one after the other."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bdkit.utils.io import write_json
from eval.generate.locks import LOCKS, held
from eval.generate.rows import Generation
from eval.generate.units import Plan
from eval.results_dir import RUN_FILE, read_run


@contextmanager
def open_run(out: Path) -> Iterator[dict[str, Any]]:
    """OUT/run.json to be changed within the block, alone among processes; after an error it stays as it was."""
    with held(out / LOCKS / RUN_FILE):
        record = read_run(out)
        yield record
        write_json(record, out / RUN_FILE)


def begin_record(job: Generation, plan: Plan, n_open: int) -> None:
    """Writes down what is about to be made, at once, so that a stopped run can be judged."""
    with open_run(job.out) as record:
        record.update(
            status="generating",
            suite=job.suite.name,
            suite_hash=job.suite.hash,
            model=job.model,
            seed_sets=list(job.seed_sets),
            ground_truth=job.draws_ground_truth,
            images_made_in_last_run=n_open,
            **job.notes,
        )
        if plan.photos:
            record["photos"] = {name: list(digests) for name, digests in plan.photos.items()}
        record.setdefault("rows", {}).update(plan.entries)
        record.setdefault("fit_seconds", {})


def end_record(
    job: Generation, fit_seconds: Mapping[str, Sequence[float]], seconds: float, workers: int, complete: bool
) -> dict[str, Any]:
    """Writes down what was made and returns the record."""
    with open_run(job.out) as record:
        for method, values in fit_seconds.items():
            record["fit_seconds"].setdefault(method, []).extend(round(value, 2) for value in values)
        if complete:
            record["status"] = "generated"
        record["workers"] = workers
        record["wall_seconds"] = {**record.get("wall_seconds", {}), "generate": round(seconds, 1)}
    return record


def recorded_plan(record: Mapping[str, Any]) -> Plan:
    """The plan that a run record tells of."""
    return Plan(entries=record.get("rows", {}), photos=record.get("photos", {}))
