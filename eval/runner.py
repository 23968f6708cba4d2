"""Methods x suite -> pictures on disk. The only file of `eval` that knows bdkit.

A run that was stopped, however roughly, goes on where it was: pictures appear whole or not at all, are made in batches
that do not depend on what is there already, and are never written twice. So its results are the same bytes.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from bdkit.miniworld.render import render
from bdkit.miniworld.scenes import CONTEXTS, STUDIO, sample_scene, scene_for_prompt
from bdkit.miniworld.subjects import Subject, sample_subject
from dreambench.errors import InputError
from dreambench.files import remove_unfinished, write_bytes, write_json
from dreambench.photos import check_photos, photo_paths, photos_folder
from dreambench.pictures import read_picture, write_png
from dreambench.suites import Suite, SuiteSubject
from eval.layout import (
    FITS,
    GROUND_TRUTH,
    PICTURES,
    RUN_FILE,
    Job,
    Slot,
    picture_path,
    read_run,
    reference_path,
    reference_paths,
    save_suite,
    slots,
)
from eval.progress import JobProgress
from eval.rows import (
    Generation,
    Method,
    Row,
    Work,
    batches,
    check_rows,
    derive_seed,
    group_rows,
    missing_slots,
    open_work,
    picture_seed,
    write_manifest,
)

FULL_RESOLUTION = 512
# Pixels that are generated together where no batch size is given: enough to keep the device busy, and to fit in it
BATCH_PIXELS = {"cpu": 16 * 64**2, "cuda": 16 * FULL_RESOLUTION**2}


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
            if not all(path.exists() for path in paths):
                for path, image in zip(paths, draw_references(suite, subject), strict=True):
                    if not path.exists():
                        write_png(image, path)


def generate(job: Generation) -> dict[str, Any]:
    """Makes every picture that is not there yet, then writes OUT/manifest.csv and returns the run record.

    The record, OUT/run.json, holds for every row its method, overrides, snapshot and settings, and what was made.

    Raises InputError for a row name given twice or reserved, an unknown method, and when OUT holds pictures of another
    suite or of a row with other settings.
    """
    check_rows(job.rows)
    remove_unfinished(job.out)
    prepare(job.suite, job.out, job.photos)
    groups = group_rows(job.rows)
    work = {rows[0].group: open_work(job, rows) for rows in groups}
    total = job.suite.n_pictures * len(job.rows) * len(job.seed_sets)
    pictures = {group: sum(item.n_pictures for item in items) for group, items in work.items()}
    bar = JobProgress(
        pictures,
        {group: len(items) for group, items in work.items()},
        total - sum(pictures.values()),
        job.show_progress,
    )
    record = _start_record(job, sum(pictures.values()))
    started = monotonic()
    if job.draws_ground_truth:
        bar.describe(GROUND_TRUTH)
        _draw_ground_truth(job)
    for rows in groups:
        # also where nothing is left to do: building the method tells whether its weights are still the same
        _run_group(job, rows, work[rows[0].group], bar, record)
    bar.close()
    shutil.rmtree(job.out / FITS, ignore_errors=True)
    record["status"] = "generated"
    record["wall_seconds"] = {**record.get("wall_seconds", {}), "generate": round(monotonic() - started, 1)}
    write_json(record, job.out / RUN_FILE)
    write_manifest(job)
    return record


def _run_group(
    job: Generation, rows: Sequence[Row], work: Sequence[Work], bar: JobProgress, record: dict[str, Any]
) -> None:
    group = rows[0].group
    bar.describe(rows[0].method)
    method = _build(job, rows[0])
    bar.set_steps(group, max(method.snapshots, default=0))
    prompts_per_batch = _record_rows(job, rows, method, record)
    fits = job.out / FITS / _fit_key(group, method)
    for item in work:
        bar.describe(f"{rows[0].method}, {item.subject.name}")
        with bar.working("fit", group):
            seconds = _fit(job, group, method, item, _fit_path(fits, item))
        if seconds is not None:
            record["fit_seconds"].setdefault(rows[0].method, []).append(round(seconds, 2))
        for row in item.rows:
            method.select(row.snapshot)
            for batch in batches(job.suite, item.subject, prompts_per_batch):
                if missing := missing_slots(job, row, item.seed_set, batch):
                    with bar.working("picture", group, len(missing)):
                        _generate_batch(job, row, method, batch, missing, item.seed_set)
        _fit_path(fits, item).unlink(missing_ok=True)


def _build(job: Generation, row: Row) -> Method:
    if job.methods is None:
        from bdkit.methods import build_method

        return build_method(row.method, model=job.model, **row.overrides)
    if row.method not in job.methods:
        raise InputError(f"unknown method {row.method!r}; known are {', '.join(job.methods)}")
    return job.methods[row.method](model=job.model, **row.overrides)


def _fit_key(group: str, method: Method) -> str:
    text = json.dumps([group, method.settings], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _fit_path(fits: Path, item: Work) -> Path:
    return fits / f"seed{item.seed_set}" / f"{item.subject.name}.safetensors"


def _fit(job: Generation, group: str, method: Method, item: Work, path: Path) -> float | None:
    """Fits a subject, or takes up a fit that a stopped run left behind. Returns the seconds of a fit."""
    if path.exists():
        method.load_state(safetensors.torch.load_file(path))
        return None
    images = [read_picture(file) for file in reference_paths(job.out, job.suite, item.subject, job.photos)]
    started = monotonic()
    method.fit(
        images, item.subject.class_noun, derive_seed("fit", job.suite.name, group, item.subject.name, item.seed_set)
    )
    seconds = monotonic() - started
    if method.snapshots:
        # clones, because safetensors refuses tensors that share memory
        state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in method.state().items()}
        write_bytes(safetensors.torch.save(state), path)
    return seconds


def _generate_batch(
    job: Generation, row: Row, method: Method, batch: Sequence[Slot], missing: Sequence[Slot], seed_set: int
) -> None:
    """Makes a whole batch and writes what is missing of it: then its pictures do not depend on what was there."""
    templates = [slot.prompt.template for slot in batch]
    seeds = [picture_seed(job.suite, row.name, slot, seed_set) for slot in batch]
    one_template = templates[0] if len(set(templates)) == 1 else templates
    images = method.generate(one_template, batch[0].subject.class_noun, seeds)
    for slot, image in zip(batch, images, strict=True):
        if slot in missing:
            write_png(image, picture_path(job.out, Job(row.name, seed_set), slot))


def load_references(suite: Suite, subject: SuiteSubject, photos: Path | None = None) -> list[Image.Image]:
    """One subject's references without a results folder: drawn, or the photos of `photos` (see `photos_folder`).

    Raises InputError when the photos are not there.
    """
    if suite.source == "procedural":
        return draw_references(suite, subject)
    return [read_picture(path) for path in photo_paths(photos_folder(photos), subject)]


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


def _draw_ground_truth(job: Generation) -> None:
    for seed_set in job.seed_sets:
        for subject in job.suite.subjects:
            individual = _individual(job.suite, subject)
            for slot in slots(job.suite, subject):
                path = picture_path(job.out, Job(GROUND_TRUTH, seed_set), slot)
                if not path.exists():
                    seed = picture_seed(job.suite, GROUND_TRUTH, slot, seed_set)
                    scene = scene_for_prompt(individual, slot.prompt.template, seed)
                    write_png(Image.fromarray(render(scene).image), path)


def _start_record(job: Generation, n_open: int) -> dict[str, Any]:
    """The record of an earlier run in OUT, or a new one, written at once so that a stopped run can be judged."""
    record = read_run(job.out)
    record.update(
        status="generating",
        suite=job.suite.name,
        suite_hash=job.suite.hash,
        model=job.model,
        seed_sets=list(job.seed_sets),
        pictures_made_in_last_run=n_open,
    )
    record.setdefault("rows", {})
    record.setdefault("fit_seconds", {})
    write_json(record, job.out / RUN_FILE)
    return record


def _record_rows(job: Generation, rows: Sequence[Row], method: Method, record: dict[str, Any]) -> int:
    """Writes down what the rows are made with, and returns how many prompts make a batch: as many as when the rows
    were begun.
    """
    settings = method.settings
    begun = [record["rows"][row.name]["prompts_per_batch"] for row in rows if row.name in record["rows"]]
    prompts_per_batch = begun[0] if begun else _prompts_per_batch(job, settings)
    for row in rows:
        entry = {
            "method": row.method,
            "overrides": dict(row.overrides),
            "snapshot": row.snapshot,
            "prompts_per_batch": prompts_per_batch,
            "settings": settings,
        }
        # as JSON gives it back: tuples are lists there
        entry = json.loads(json.dumps(entry, default=str))
        if record["rows"].get(row.name) != entry and any((job.out / PICTURES).glob(f"seed*/{row.name}/*/*.png")):
            raise InputError(
                f"{job.out} holds pictures of {row.name!r} made with other weights or settings; choose another folder, "
                f"or delete {job.out / PICTURES}/seed*/{row.name}"
            )
        record["rows"][row.name] = entry
    write_json(record, job.out / RUN_FILE)
    return prompts_per_batch


def _prompts_per_batch(job: Generation, settings: Mapping[str, Any]) -> int:
    pictures = job.batch_size
    if pictures is None:
        pixels = BATCH_PIXELS["cuda" if torch.cuda.is_available() else "cpu"]
        pictures = pixels // int(settings.get("resolution", FULL_RESOLUTION)) ** 2
    return max(1, pictures // job.suite.samples_per_prompt)
