"""Methods x suite -> images on disk: `run_task` makes the images of one fit, `generate` those of a run.

A run that was stopped, however roughly, resumes: images that exist are skipped, files are written by rename, and images
are drawn in fixed batches with seeds from their ids. So they are the same bytes, whichever process makes which task.
"""

import json
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

import safetensors.torch
import torch
from filelock import FileLock, Timeout

from bdkit.checkpoints.load import read_files
from bdkit.methods.base import Method
from bdkit.utils.env import commit, device_name, library_versions
from bdkit.utils.errors import InputError
from bdkit.utils.images import read_image, write_png
from bdkit.utils.io import file_hash, remove_unfinished, write_bytes
from bdkit.utils.progress import progress_bar
from bdkit.utils.seeds import derive_seed
from dreambench.suites import Suite
from eval.experiments import BenchConfig
from eval.generate.executors import default_workers, local_processes, one_thread, run_all
from eval.generate.methods import Methods, check_methods, check_snapshot, forget_method, method_of
from eval.generate.references import draw_ground_truth, prepare
from eval.generate.tasks import Task, list_tasks, parse_shard
from eval.results_dir import FITS, IMAGES, ImageId, load_saved_suite, read_run, reference_paths, update_run

FULL_RESOLUTION = 512
# Pixels that are generated together where no batch size is given: enough to keep the device busy, and to fit in it
BATCH_PIXELS = {"cpu": 16 * 64**2, "cuda": 16 * FULL_RESOLUTION**2}
# Of the config, what changes no image and no score
NOT_RECORDED = ("out", "rows", "photos", "shard", "workers", "remake")
SECONDS = ("fit_seconds", "draw_seconds")


@dataclass(frozen=True)
class TaskSeconds:
    """Wall seconds in the process that did a task: row -> of its fit (one, or none where a saved fit was loaded), and
    row -> an image, the median over its batches.
    """

    fit_seconds: dict[str, list[float]] = field(default_factory=dict)
    draw_seconds: dict[str, list[float]] = field(default_factory=dict)


def generate(config: BenchConfig, *, methods: Methods | None = None, show_progress: bool = True) -> bool:
    """Makes every image of the config's shard that the results folder lacks; True when those of all shards exist.

    run.json holds each row's method, overrides, snapshot and settings. Any number of processes may work in one folder,
    on one shard or on several: they share the tasks.

    Raises InputError when the folder holds another suite, or a row with other weights, photos or settings (unless
    `remake` is on).
    """
    started, out, suite = time.monotonic(), config.results_dir, config.load_suite()
    number, count = parse_shard(config.shard)
    forget_method()  # of an earlier run in this process
    check_methods(config, methods)
    prepare(suite, out, config.photos)
    earlier = read_run(out).get("rows", {})
    rows = _guard_settings(config, suite, methods)
    changed: dict[str, list[float]] = {name: [] for name, row in rows.items() if earlier.get(name, row) != row}
    everything = list_tasks(config, suite)
    tasks = everything[number - 1 :: count]
    if config.remake:
        for task in tasks:
            for image in task.images(suite):
                image.path(out).unlink(missing_ok=True)
    update_run(
        out,
        status="generating",
        suite=suite.name,
        suite_hash=suite.hash,
        model=config.model,
        seed_sets=list(config.seed_sets),
        ground_truth=config.ground_truth and suite.source == "procedural",
        config={name: value for name, value in vars(config).items() if name not in NOT_RECORDED},
        commit=commit(),
        device=device_name(),
        versions=library_versions(),
        rows=rows,
        **dict.fromkeys(SECONDS, changed),
    )
    seconds = _run_tasks(config, suite, tasks, methods, show_progress)
    complete = not any(task.missing(suite, out) for task in everything)
    if complete:
        with suppress(FileNotFoundError):  # another process is removing the folder, too
            if not any((out / FITS).rglob("*.safetensors")):  # which another process would need
                shutil.rmtree(out / FITS, ignore_errors=True)
    before = read_run(out)
    update_run(
        out,
        status="generated" if complete else "generating",
        rows=rows,  # again, because another process may have written the file at the same moment
        **{name: _added(before.get(name, {}), [getattr(one, name) for one in seconds]) for name in SECONDS},
        wall_seconds={"generate": round(time.monotonic() - started, 1)},
    )
    return complete


def run_task(
    config: BenchConfig,
    task: Task,
    methods: Methods | None = None,
    wait: bool = True,
    on_images: Callable[[int], object] = lambda count: None,
) -> TaskSeconds | None:
    """Makes the missing images of a task; `generate` has prepared the folder.

    wait: for another process that works on the same task
    on_images: is told how many images were just written

    Returns what it took, None when another process is at work and `wait` is off.
    """
    out = config.results_dir
    suite, rows = load_saved_suite(out), read_run(out)["rows"]
    fit = task.fit_path(out, rows.get(task.rows[0].name, {}).get("settings"))
    while True:
        try:
            lock = FileLock(fit.with_suffix(".lock")).acquire(timeout=-1 if wait else 0)
            break
        except Timeout:
            return None
        except FileNotFoundError:
            pass  # a process that made its last image has just removed FITS
    with lock, one_thread():
        missing = task.missing(suite, out)
        for folder in {image.path(out).parent for image in missing}:
            remove_unfinished(folder)
        if task.is_ground_truth:
            subject, templates = task.subject_and_templates(suite)
            for image in sorted(missing):
                drawn = draw_ground_truth(suite, subject, templates[image.prompt], image.seed(suite.name))
                write_png(drawn, image.path(out))
                on_images(1)
        seconds = TaskSeconds()
        if task.is_ground_truth or not missing:
            return seconds
        method = method_of(config, task.rows[0], methods)
        fitted = _fit(config, suite, task, method, fit)
        for row in task.rows:
            seconds.fit_seconds[row.name] = fitted
            method.select(row.snapshot)
            images, size = task.images(suite, row), rows[row.name]["images_per_batch"]
            drawing: list[float] = []
            for start in range(0, len(images), size):
                batch = images[start : start + size]
                if not missing.isdisjoint(batch):
                    drawing.append(_generate(suite, task, method, batch, missing, out) / len(batch))
                    on_images(len(missing.intersection(batch)))
            seconds.draw_seconds[row.name] = [median(drawing)] if drawing else []
        fit.unlink(missing_ok=True)
        return seconds


def _guard_settings(config: BenchConfig, suite: Suite, methods: Methods | None) -> dict[str, dict[str, Any]]:
    """What run.json says of each row, after a look at what it says already. With `remake`, rows that were made with
    something else lose their images.
    """
    out, before = config.results_dir, read_run(config.results_dir).get("rows", {})
    rows: dict[str, dict[str, Any]] = {}
    subjects = suite.subjects if suite.source == "photos" else ()
    hashes = [file_hash(path) for one in subjects for path in reference_paths(out, suite, one, config.photos)]
    old_images: list[Path] = []
    for row in config.chosen_rows:
        method = method_of(config, row, methods)
        check_snapshot(row, method)
        settings = method.settings
        size = config.batch_size or before.get(row.name, {}).get("images_per_batch") or _fitting_batch(settings)
        entry = {
            "method": row.method,
            "overrides": dict(row.overrides),
            "snapshot": row.snapshot,
            # whole prompts
            "images_per_batch": max(1, size // suite.samples_per_prompt) * suite.samples_per_prompt,
            **({"photos": sha256("\n".join(hashes).encode()).hexdigest()} if hashes else {}),
            "settings": dict(settings),
        }
        rows[row.name] = json.loads(json.dumps(entry, default=str))  # as read_run gives it: lists for tuples
        changed = _changed(before.get(row.name, rows[row.name]), rows[row.name])
        if changed and not config.remake:
            raise InputError(
                f"{out} has {row.name!r} with other settings ({', '.join(changed)}); choose another folder, or make "
                "its images again with --remake"
            )
        folders = sorted((out / IMAGES).glob(f"seed*/{row.name}")) if changed else []
        for folder in folders:
            if folder.parent.name not in {f"seed{seed_set}" for seed_set in config.seed_sets}:
                raise InputError(f"{folder} has other settings ({', '.join(changed)}); delete it, or name its seed set")
        old_images += folders
    for folder in old_images:
        shutil.rmtree(folder)
    return rows


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names of settings that differ."""
    pairs = [({**before, "settings": None}, {**now, "settings": None}), (before["settings"], now["settings"])]
    names = [name for one, other in pairs for name in {**one, **other} if one.get(name) != other.get(name)]
    return list(dict.fromkeys(names))


def _fitting_batch(settings: Mapping[str, Any]) -> int:
    pixels = BATCH_PIXELS["cuda" if torch.cuda.is_available() else "cpu"]
    side = settings.get("resolution")
    return max(1, pixels // (side if isinstance(side, int) and side > 0 else FULL_RESOLUTION) ** 2)


def _run_tasks(
    config: BenchConfig, suite: Suite, tasks: Sequence[Task], methods: Methods | None, show_progress: bool
) -> list[TaskSeconds]:
    """Runs the tasks with missing images, here or in worker processes."""
    out = config.results_dir
    missing = {task: len(task.missing(suite, out)) for task in tasks}
    todo = [task for task in tasks if missing[task]]
    total = sum(len(task.images(suite)) for task in tasks)
    done = total - sum(missing.values())
    seconds: list[TaskSeconds] = []
    workers = _count_workers(config, todo, methods)
    if workers > 1:
        forget_method()
    with (
        progress_bar(total=total, initial=done, desc="generating", unit=" images", show=show_progress) as bar,
        local_processes(workers) if workers > 1 else nullcontext() as executor,
    ):
        # tasks that another process works on come last, when it has finished them or died
        for wait in (False, True):
            run = partial(run_task, config, methods=methods, wait=wait)
            here = ((task, run(task, on_images=bar.update)) for task in todo)
            busy = []
            for task, of_task in run_all(executor, run, todo) if executor else here:
                if of_task is None:
                    busy.append(task)
                    continue
                done += missing[task]
                bar.update(done - bar.n)
                seconds.append(of_task)
            todo = busy
    forget_method()
    return seconds


def _count_workers(config: BenchConfig, tasks: Sequence[Task], methods: Methods | None) -> int:
    fits = sum(not task.is_ground_truth for task in tasks)
    if config.workers is not None:
        return min(config.workers, len(tasks))
    if methods is not None or fits < 2 or any(row.is_own for row in config.chosen_rows):
        return 1  # what a worker takes is not known
    return min(fits, default_workers(sum(path.stat().st_size for path in read_files(config.model))))


def _fit(config: BenchConfig, suite: Suite, task: Task, method: Method, path: Path) -> list[float]:
    """Fits the subject and saves the fit at `path`, or loads the one that a stopped run left there."""
    if path.exists():
        method.load_state(safetensors.torch.load_file(path))
        return []
    subject, _ = task.subject_and_templates(suite)
    images = [read_image(file) for file in reference_paths(config.results_dir, suite, subject, config.photos)]
    started = time.monotonic()
    method.fit(
        images, subject.class_noun, derive_seed("fit", suite.name, task.rows[0].group, subject.name, task.seed_set)
    )
    seconds = time.monotonic() - started
    # clones, because safetensors refuses tensors that share memory
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in method.state().items()}
    if state:
        write_bytes(safetensors.torch.save(state), path)
    return [seconds]


def _generate(
    suite: Suite, task: Task, method: Method, batch: Sequence[ImageId], missing: Collection[ImageId], out: Path
) -> float:
    """Draws a whole batch and writes what is missing of it: so no image depends on which images existed. Returns the
    seconds of drawing.
    """
    subject, by_index = task.subject_and_templates(suite)
    templates = [by_index[image.prompt] for image in batch]
    one_template = templates[0] if len(set(templates)) == 1 else templates
    started = time.monotonic()
    images = method.generate(one_template, subject.class_noun, [image_id.seed(suite.name) for image_id in batch])
    seconds = time.monotonic() - started
    for image_id, image in zip(batch, images, strict=True):
        if image_id in missing:
            write_png(image, image_id.path(out))
    return seconds


def _added(before: Mapping[str, list[float]], more: Sequence[Mapping[str, list[float]]]) -> dict[str, list[float]]:
    """The lists of `before`, each continued by those of `more` under the same name."""
    joined = {name: list(values) for name, values in before.items()}
    for one in more:
        for name, values in one.items():
            joined.setdefault(name, []).extend(round(value, 4) for value in values)
    return joined
