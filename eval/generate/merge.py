"""Puts the folders of a run's shards together: the same images, scores and tables as those of one run.

No model is needed: what the images were made with stands in the folders' records, and in the images themselves.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bdkit.utils.errors import InputError
from bdkit.utils.io import write_bytes, write_text
from dreambench.suites import Suite
from eval.generate.locks import at_work
from eval.generate.records import open_run, recorded_plan
from eval.generate.rows import Generation, Row, write_manifest
from eval.generate.stamps import image_state, read_stamp
from eval.generate.units import Plan, all_rows
from eval.results_dir import (
    MISSING_FILE,
    N_MISSING_NAMED,
    RUN_FILE,
    SUITE_FILE,
    Job,
    image_path,
    load_saved_suite,
    read_run,
    reference_path,
    save_suite,
    slots,
)

# What must be the same in the records of all shards
COMMON = ("suite_hash", "rows", "seed_sets", "ground_truth", "photos")
ONCE = ("suite", "suite_hash", "model", "seed_sets", "ground_truth", "photos", "rows", "config")


def merge_shards(
    shards: Sequence[Path], out: Path, photos: Path | None = None, *, show_progress: bool = True
) -> Generation:
    """Copies the whole images of the shards' folders into OUT and writes its manifest and run record.

    Images that OUT holds already are kept, so that a stopped merge goes on, and later shards can be added.

    Returns the job that the images answer; it can be scored.

    Raises InputError for a folder that holds no run, when the folders hold runs of different suites, rows, settings or
    weights, and when units are missing or damaged in all of them (OUT/missing.txt then lists them all).
    """
    if not shards:
        raise InputError("no folders to merge; name those of the shards")
    suite, record = _common(shards)
    job = recorded_job(suite, record, out, photos)
    job = replace(job, show_progress=show_progress)
    plan = recorded_plan(record)
    with at_work(out, lambda: None):
        save_suite(suite, out)
        _refuse_other_rows(out, record)
        _copy_references(shards, suite, out)
        wanted = list(_wanted(job, plan))
        for pictures, slot, key in tqdm(wanted, "merging", unit=" images", disable=not show_progress):
            path = image_path(out, pictures, slot)
            if image_state(path, key) != "done":
                _copy_first([image_path(shard, pictures, slot) for shard in shards], path, key, pictures.method)
        missing = write_manifest(job, lambda row, slot, seed_set: plan.key(job, row, slot, seed_set))
        with open_run(out) as merged:
            merged.update(_merged(shards, complete=not missing))
    if missing:
        raise _incomplete(missing, out, len(wanted))
    (out / MISSING_FILE).unlink(missing_ok=True)
    return job


def recorded_job(suite: Suite, record: Mapping[str, Any], out: Path, photos: Path | None = None) -> Generation:
    """The job that a run record tells of, with nothing left to be generated."""
    rows = tuple(
        Row(name=name, method=entry["method"], overrides=entry["overrides"], snapshot=entry["snapshot"])
        for name, entry in record["rows"].items()
    )
    return Generation(
        suite=suite,
        rows=rows,
        model=record["model"],
        out=out,
        seed_sets=tuple(record["seed_sets"]),
        photos=photos,
        ground_truth=record["ground_truth"],
    )


def _common(shards: Sequence[Path]) -> tuple[Suite, dict[str, Any]]:
    """The suite and the first record, once all are known to be of one run."""
    records = []
    for shard in shards:
        record = read_run(shard)
        if not (shard / SUITE_FILE).exists() or any(name not in record for name in ("rows", "seed_sets")):
            raise InputError(f"{shard} holds no {SUITE_FILE} and {RUN_FILE} of a `bdkit bench`; check the path")
        records.append(record)
    for shard, record in zip(shards, records, strict=True):
        for name in COMMON:
            if record.get(name) != records[0].get(name):
                what = _named(name, record, records[0])
                raise InputError(
                    f"{shard} and {shards[0]} are no shards of one run: they differ in {what}; make one of them again "
                    "with the other's settings"
                )
    return load_saved_suite(shards[0]), records[0]


def _named(name: str, record: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """What differs, in words."""
    if name != "rows":
        return {"suite_hash": "the suite", "photos": "the photos"}.get(name, name.replace("_", " "))
    for row in {**first["rows"], **record["rows"]}:
        one, other = first["rows"].get(row), record["rows"].get(row)
        if one is None or other is None:
            return f"whether there is a row {row!r}"
        for place in ("method", "overrides", "snapshot", "prompts_per_batch"):
            if one[place] != other[place]:
                return f"{place} of {row!r}"
        if one != other:
            settings = [key for key in one["settings"] if one["settings"][key] != other["settings"].get(key)]
            return f"{', '.join(settings) or 'settings'} of {row!r}"
    return "the order of the rows"


def _wanted(job: Generation, plan: Plan) -> Iterator[tuple[Job, Any, str]]:
    for row in all_rows(job):
        for seed_set in job.seed_sets:
            for subject in job.suite.subjects:
                for slot in slots(job.suite, subject):
                    yield Job(row.name, seed_set), slot, plan.key(job, row.name, slot, seed_set)


def _refuse_other_rows(out: Path, record: Mapping[str, Any]) -> None:
    there = read_run(out).get("rows", {})
    for name, entry in record["rows"].items():
        if there.get(name, entry) != entry:
            raise InputError(
                f"{out} holds images of {name!r} made with other weights or settings; choose another folder"
            )


def _copy_references(shards: Sequence[Path], suite: Suite, out: Path) -> None:
    if suite.source != "procedural":
        return
    for subject in suite.subjects:
        for number in range(subject.n_references):
            path = reference_path(out, subject, number)
            for shard in shards:
                if path.exists() and read_stamp(path.read_bytes()) is not None:
                    break
                source = reference_path(shard, subject, number)
                data = source.read_bytes() if source.exists() else b""
                if read_stamp(data) is not None:
                    write_bytes(data, path)


def _copy_first(sources: Sequence[Path], path: Path, key: str, method: str) -> None:
    """Copies the first whole image; damaged ones are as good as missing."""
    for source in sources:
        state = image_state(source, key)
        if state == "done":
            write_bytes(source.read_bytes(), path)
            return
        if state == "other":
            raise InputError(
                f"{source} is no image of {method!r} as its folder's {RUN_FILE} tells of; take it out, or make it "
                "again with `bdkit bench --remake`"
            )


def _merged(shards: Sequence[Path], complete: bool) -> dict[str, Any]:
    """The run record of the whole."""
    records = [read_run(shard) for shard in shards]
    merged = {name: records[0][name] for name in ONCE if name in records[0]}
    fit_seconds: dict[str, list[float]] = {}
    for record in records:
        for method, seconds in record.get("fit_seconds", {}).items():
            fit_seconds.setdefault(method, []).extend(seconds)
    generating = [record.get("wall_seconds", {}).get("generate", 0.0) for record in records]
    return {
        "status": "generated" if complete else "generating",
        **merged,
        "fit_seconds": fit_seconds,
        # as if the shards had run one after the other
        "wall_seconds": {"generate": round(sum(generating), 1)},
        **{name: _joined([record.get(name) for record in records]) for name in ("commit", "device")},
        "versions": records[0].get("versions", {}),
        "shards": [
            {name: record.get(name) for name in ("commit", "device", "versions", "wall_seconds")} for record in records
        ],
    }


def _joined(values: Sequence[Any]) -> str | None:
    """Different values, each once, in one line."""
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None)) or None


def _incomplete(missing: Sequence[Path], out: Path, total: int) -> InputError:
    names = [path.relative_to(out).as_posix() for path in missing]
    write_text("\n".join(names) + "\n", out / MISSING_FILE)
    return InputError(
        f"{len(names)} of {total} images are missing or damaged in all of these folders: "
        f"{', '.join(names[:N_MISSING_NAMED])}{' ...' if len(names) > N_MISSING_NAMED else ''}, listed in "
        f"{out / MISSING_FILE}; finish those shards, then merge again"
    )
