"""Methods x suite -> images on disk. The only file of `eval` that knows bdkit.

A run that was stopped, however roughly, goes on where it was: images appear whole or not at all, are made in batches
that do not depend on what is there already, and are never written twice. So its results are the same bytes, whoever
makes which of its units (`eval.generate.units`).
"""

import re
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bdkit.miniworld.render import render
from bdkit.miniworld.scenes import CONTEXTS, STUDIO, sample_scene, scene_for_prompt
from bdkit.miniworld.subjects import Subject, sample_subject
from bdkit.utils.errors import InputError
from bdkit.utils.images import read_image, write_png
from bdkit.utils.io import remove_unfinished
from bdkit.utils.seeds import derive_seed
from dreambench.photos import check_photos, photo_paths, photos_folder
from dreambench.suites import Suite, SuiteSubject
from eval.generate.locks import at_work
from eval.generate.maker import Maker, make_plan, one_thread
from eval.generate.progress import Event, JobProgress, Report
from eval.generate.records import begin_record, end_record
from eval.generate.rows import Generation, Method, Row, check_rows, write_manifest
from eval.generate.stamps import read_stamp
from eval.generate.units import Plan, Task, Unit, enumerate_tasks, group_units, unit_states
from eval.generate.workers import run_in_workers, suitable_workers
from eval.results_dir import FITS, IMAGES, read_run, reference_path, save_suite


def default_rows() -> tuple[Row, ...]:
    """The rows of the paper's table that bdkit has, and the base model."""
    from bdkit.methods.presets import BENCH_ROWS

    return tuple(
        Row(name=row.name, method=row.method, overrides=dict(row.overrides), snapshot=row.snapshot)
        for row in BENCH_ROWS
    )


def prepare(suite: Suite, out: Path, photos: Path | None = None) -> None:
    """Writes OUT/suite.json and the references of a procedural suite, or checks that the photos are there.

    Raises InputError when OUT holds another suite, or photos are missing.
    """
    if suite.source == "photos":
        check_photos(photos_folder(photos), suite)
    save_suite(suite, out)
    if suite.source == "procedural":
        for subject in suite.subjects:
            paths = [reference_path(out, subject, number) for number in range(subject.n_references)]
            whole = [path.exists() and read_stamp(path.read_bytes()) is not None for path in paths]
            if not all(whole):
                for path, image, there in zip(paths, draw_references(suite, subject), whole, strict=True):
                    if not there:
                        write_png(image, path)


def generate(job: Generation) -> dict[str, Any]:
    """Makes every image of the job's shard that is not there or not whole, and returns the run record.

    Writes OUT/manifest.csv as soon as the images of all shards are in OUT. The record, OUT/run.json, holds for every
    row its method, overrides, snapshot and settings, and what was made. Any number of processes may work in one OUT, on
    one shard or on several: they share the work, and the images are the same bytes.

    Raises InputError for a row name given twice or reserved, an unknown method, and when OUT holds images of another
    suite, or of a row with other weights or settings (those `job.remake` makes again).
    """
    check_rows(job.rows)
    started = time.monotonic()
    with at_work(job.out, lambda: remove_unfinished(job.out)):
        prepare(job.suite, job.out, job.photos)
        maker = open_maker(job)
        plan = maker.plan
        tasks = open_tasks(job, plan)
        workers = _count_workers(job, tasks)
        left: Counter[str] = Counter()
        for task in tasks:
            left[task.group] += len(task.units)
        n_open = left.total()
        begin_record(job, plan, n_open)
        bar = JobProgress(
            left,
            Counter(task.group for task in tasks if not task.is_truth),
            plan.steps,
            sum(len(task.units) for task in enumerate_tasks(job)) - n_open,
            workers=workers,
            show=job.show_progress,
        )
        fit_seconds: dict[str, list[float]] = {}

        def report(event: Event) -> None:
            bar.handle(event)
            if event.kind == "fit" and event.fresh:
                fit_seconds.setdefault(event.label.partition(",")[0], []).append(event.seconds)

        if workers > 1:
            run_in_workers(job, plan, tasks, workers, report, bar.refresh)
        else:
            maker.run_all(tasks, report)
        bar.close()
        missing = write_manifest(job, lambda row, slot, seed_set: plan.key(job, row, slot, seed_set))
        if not missing:
            shutil.rmtree(job.out / FITS, ignore_errors=True)
        return end_record(job, fit_seconds, time.monotonic() - started, workers, not missing)


def run_units(job: Generation, units: Iterable[Unit], report: Report = lambda _: None) -> None:
    """Makes those of the given units that OUT does not hold yet, in this process.

    For programs that divide the work themselves: `units` are any of `eval.generate.units.enumerate_units(job)`. Units of one
    subject and method are best given together, because they share a fit. `generate` on the same OUT then finds all
    images there and writes the manifest.

    Raises InputError like `generate`.
    """
    tasks = group_units(job, units)
    with at_work(job.out, lambda: remove_unfinished(job.out)):
        prepare(job.suite, job.out, job.photos)
        maker = open_maker(job)
        tasks = _open_parts(job, maker.plan, tasks)
        begin_record(job, maker.plan, sum(len(task.units) for task in tasks))
        maker.run_all(tasks, report)


def open_maker(job: Generation, plan: Plan | None = None) -> Maker:
    """What makes the job's images in this process; without a plan, every method is built once to make one."""

    def build(row: Row) -> Method:
        return _build(job, row)

    def draw_truth(subject: SuiteSubject, template: str, seed: int) -> Image.Image:
        scene = scene_for_prompt(_individual(job.suite, subject), template, seed)
        return Image.fromarray(render(scene).image)

    if plan is None:
        with one_thread():
            plan = make_plan(job, build)
    return Maker(job, plan, build, draw_truth)


def open_tasks(job: Generation, plan: Plan) -> list[Task]:
    """The tasks of the job's shard with the units that are still to be made: images missing, damaged, or made with
    other weights or settings where `job.remake` is on.

    Raises InputError when images were made with other weights or settings and `job.remake` is off, or they are of
    seed sets that the job leaves out.
    """
    _check_other_seed_sets(job, plan)
    return _open_parts(job, plan, enumerate_tasks(job))


def _open_parts(job: Generation, plan: Plan, tasks: Sequence[Task]) -> list[Task]:
    parts = []
    damaged = 0
    for task in tasks:
        states = unit_states(job, plan, task)
        others = [unit for unit, state in states if state == "other"]
        if others and not job.remake:
            raise InputError(
                f"{job.out} holds images of {others[0].row!r} made with other weights or settings; choose another "
                "folder, or make them again with --remake"
            )
        damaged += sum(state == "broken" for _, state in states)
        if units := tuple(unit for unit, state in states if state != "done"):
            parts.append(replace(task, units=units))
    if damaged:
        warnings.warn(f"{damaged} damaged images in {job.out} are made again", stacklevel=2)
    return parts


def _check_other_seed_sets(job: Generation, plan: Plan) -> None:
    """A row's settings are written down once for all seed sets, so they must hold for those that are there already."""
    begun = read_run(job.out).get("rows", {})
    for row in job.rows:
        if begun.get(row.name) == plan.entries[row.name]:
            continue
        for folder in (job.out / IMAGES).glob(f"seed*/{row.name}"):
            number = re.fullmatch(r"seed(\d+)", folder.parent.name)
            if number is None or int(number[1]) in job.seed_sets:
                continue
            whole = replace(job, seed_sets=(int(number[1]),), rows=(row,), ground_truth=False, shard=(1, 1))
            states = (state for task in enumerate_tasks(whole) for _, state in unit_states(whole, plan, task))
            if "other" in states:
                raise InputError(
                    f"{folder} holds images of {row.name!r} made with other weights or settings; choose another "
                    f"folder, delete that one, or make seed set {number[1]} again too"
                )


def _count_workers(job: Generation, tasks: Sequence[Task]) -> int:
    fits = sum(not task.is_truth for task in tasks)
    if job.workers is not None:
        return min(job.workers, max(1, len(tasks)))
    if job.methods is not None or torch.cuda.is_available() or fits < 2:
        return 1
    from bdkit.checkpoints.load import resolve

    model_bytes = sum(path.stat().st_size for path in resolve(job.model).rglob("*.safetensors"))
    return min(suitable_workers(model_bytes), fits)


def _build(job: Generation, row: Row) -> Method:
    if job.methods is None:
        from bdkit.methods import build_method

        return build_method(row.method, model=job.model, **row.overrides)
    if row.method not in job.methods:
        raise InputError(f"unknown method {row.method!r}; known are {', '.join(job.methods)}")
    return job.methods[row.method](model=job.model, **row.overrides)


def load_references(suite: Suite, subject: SuiteSubject, photos: Path | None = None) -> list[Image.Image]:
    """One subject's references without a results folder: drawn, or the photos of `photos` (see `photos_folder`).

    Raises InputError when the photos are not there.
    """
    if suite.source == "procedural":
        return draw_references(suite, subject)
    return [read_image(path) for path in photo_paths(photos_folder(photos), subject)]


def draw_references(suite: Suite, subject: SuiteSubject) -> list[Image.Image]:
    """A procedural subject's references: one in the studio, the others in different contexts, as it is, unchanged."""
    individual = _individual(suite, subject)
    key = ("references", suite.split, suite.seed, subject.name)
    shuffled = sorted(CONTEXTS, key=lambda context: derive_seed(*key, context))
    contexts = sorted(
        [STUDIO, *shuffled[: subject.n_references - 1]], key=lambda context: derive_seed(*key, 1, context)
    )
    rng = np.random.default_rng(derive_seed(*key))
    scenes = [sample_scene(individual, rng, context=context, outfit=None, change=None) for context in contexts]
    return [Image.fromarray(render(scene).image) for scene in scenes]


def _individual(suite: Suite, subject: SuiteSubject) -> Subject:
    assert suite.split is not None
    key = f"{suite.split}/{suite.seed}/{subject.name}"
    return sample_subject(subject.class_noun, key=key, split=suite.split)
