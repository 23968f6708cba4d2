"""Methods x suite -> images on disk: `generate` makes those of a run, `task_files` those of one fit.

A run that was stopped, however roughly, resumes: images that exist are skipped, files are written by rename, and images
are drawn in fixed batches with seeds from their ids. So they are the same bytes, whichever process makes which task.
"""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from filelock import AcquireReturnProxy

from bdkit.utils.errors import InputError
from bdkit.utils.io import file_hash
from bdkit.utils.progress import progress_bar
from bdkit.utils.ray_executor import RayExecutor, ray_executor
from dreambench.suites import Suite
from eval.experiments import BenchConfig
from eval.generate.executors import local_processes, run_all, workers_of
from eval.generate.methods import Methods, check_methods, check_snapshot, forget_method, method_of
from eval.generate.references import prepare
from eval.generate.remote import run_task_remotely
from eval.generate.task_files import TaskSeconds, acquire, run_task
from eval.generate.tasks import Task, list_tasks, parse_shard
from eval.results_dir import FITS, IMAGES, read_run, record_maker, reference_paths, update_run

FULL_RESOLUTION = 512
# Pixels that are generated together where no batch size is given: enough to keep the device busy, and to fit in it
BATCH_PIXELS = {"cpu": 16 * 64**2, "cuda": 16 * FULL_RESOLUTION**2}
# Of the config, what changes no image and no score
NOT_RECORDED = ("out", "rows", "photos", "shard", "workers", "executor", "address", "remake")
SECONDS = ("fit_seconds", "draw_seconds")


def generate(config: BenchConfig, *, methods: Methods | None = None, show_progress: bool = True) -> bool:
    """Makes every image of the config's shard that the results folder lacks; True when those of all shards exist.

    run.json holds each row's method, overrides, snapshot and settings. Any number of processes may work in one folder,
    on one shard or on several: they share the tasks.

    Raises InputError when the folder holds another suite, or a row with other weights, photos or settings (unless
    `remake` is on).
    """
    parse_shard(config.shard)
    if config.executor == "processes":
        return _generate_all(config, methods, show_progress, None)
    with ray_executor(config.address, config.workers) as cluster:
        return _generate_all(config, methods, show_progress, cluster)


def _generate_all(
    config: BenchConfig, methods: Methods | None, show_progress: bool, cluster: RayExecutor | None
) -> bool:
    started, out, suite = time.monotonic(), config.results_dir, config.load_suite()
    number, count = parse_shard(config.shard)
    cuda = torch.cuda.is_available() if cluster is None else cluster.about["cuda"]
    forget_method()  # of an earlier run in this process
    check_methods(config, methods)
    prepare(suite, out, config.photos)
    earlier = read_run(out).get("rows", {})
    rows = _guard_settings(config, suite, methods, cuda)
    changed = [name for name, row in rows.items() if earlier.get(name, row) != row]
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
        rows=rows,
        **{key: {name: [] for name in changed} for key in SECONDS},
        fit_steps={name: {} for name in changed},
    )
    _run_tasks(config, suite, tasks, methods, show_progress, cluster)
    complete = not any(task.missing(suite, out) for task in everything)
    with _run_lock(out):
        update_run(
            out,
            status="generated" if complete else "generating",
            rows=rows,  # again, because another process may have written the file when this one began
            wall_seconds={"generate": round(time.monotonic() - started, 1)},
        )
    if complete:
        with suppress(FileNotFoundError):  # another process is removing the folder, too
            if not any((out / FITS).rglob("*.safetensors")):  # which another process would need
                shutil.rmtree(out / FITS, ignore_errors=True)
    return complete


def _guard_settings(
    config: BenchConfig, suite: Suite, methods: Methods | None, cuda: bool
) -> dict[str, dict[str, Any]]:
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
        size = config.batch_size or before.get(row.name, {}).get("images_per_batch") or _fitting_batch(settings, cuda)
        entry = {
            "method": row.method,
            "overrides": dict(row.overrides),
            "snapshot": row.snapshot,
            # whole prompts
            "images_per_batch": max(1, size // suite.samples_per_prompt) * suite.samples_per_prompt,
            **({"drawing": config.drawing} if config.drawing and not row.is_own else {}),
            **({"held_out": config.held_out} if config.held_out else {}),
            **({"photos": sha256("\n".join(hashes).encode()).hexdigest()} if hashes else {}),
            "settings": dict(settings),
        }
        rows[row.name] = json.loads(json.dumps(entry, default=str))  # as read_run gives it: lists for tuples
        changed = _changed(before.get(row.name, rows[row.name]), rows[row.name])
        if changed and not config.remake:
            raise InputError(
                f"{out} has {row.name!r} with other settings ({', '.join(changed)}); choose another folder, or make "
                "its images again with bench --remake"
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


def _fitting_batch(settings: Mapping[str, Any], cuda: bool) -> int:
    pixels = BATCH_PIXELS["cuda" if cuda else "cpu"]
    side = settings.get("resolution")
    return max(1, pixels // (side if isinstance(side, int) and side > 0 else FULL_RESOLUTION) ** 2)


def _run_tasks(
    config: BenchConfig,
    suite: Suite,
    tasks: Sequence[Task],
    methods: Methods | None,
    show_progress: bool,
    cluster: RayExecutor | None,
) -> None:
    """Runs the tasks with missing images, here, in worker processes or on the cluster. What each took is in run.json as
    soon as it is done: it stays known when the run is stopped.
    """
    out = config.results_dir
    missing = {task: len(task.missing(suite, out)) for task in tasks}
    todo = [task for task in tasks if missing[task]]
    if todo:
        with _run_lock(out):
            record_maker(out, None if cluster is None else cluster.about["device"])
    total = sum(len(task.images(suite)) for task in tasks)
    done = total - sum(missing.values())
    workers = 1 if cluster else _count_workers(config, todo, methods)
    if cluster or workers > 1:
        forget_method()
    with (
        progress_bar(total=total, initial=done, desc="generating", unit=" images", show=show_progress) as bar,
        local_processes(workers) if workers > 1 else nullcontext() as executor,
    ):
        # tasks that another process works on come last, when it has finished them or died
        for wait in (False, True):
            run = partial(run_task, config, methods=methods, wait=wait)
            if cluster:
                remotely = partial(run_task_remotely, config, cluster=cluster, methods=methods, wait=wait)
                results = run_all(cluster.threads, remotely, todo)
            elif executor:
                results = run_all(executor, run, todo)
            else:
                results = ((task, run(task, on_images=bar.update)) for task in todo)
            busy = []
            for task, of_task in results:
                if of_task is None:
                    busy.append(task)
                    continue
                done += missing[task]
                bar.update(done - bar.n)
                _record_seconds(out, of_task)
            todo = busy
    forget_method()


def _record_seconds(out: Path, seconds: TaskSeconds) -> None:
    with _run_lock(out):
        before = read_run(out)
        steps = before.get("fit_steps", {})
        update_run(
            out,
            **{name: _added(before.get(name, {}), getattr(seconds, name)) for name in SECONDS},
            fit_steps={name: steps.get(name, {}) | new for name, new in seconds.fit_steps.items()},
        )


def _run_lock(out: Path) -> AcquireReturnProxy:
    """Of run.json, which another process may write at the same moment."""
    lock = acquire(out / FITS / "run.lock", wait=True)
    assert lock is not None
    return lock


def _count_workers(config: BenchConfig, tasks: Sequence[Task], methods: Methods | None) -> int:
    fits = sum(not task.is_ground_truth for task in tasks)
    if config.workers is not None:
        return min(config.workers, len(tasks))
    if methods is not None or fits < 2 or any(row.is_own for row in config.chosen_rows):
        return 1  # what a worker takes is not known
    return min(fits, workers_of(config.model))


def _added(before: Mapping[str, list[float]], more: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """The lists of `before`, each continued by that of `more` under the same name."""
    added = {name: [round(value, 4) for value in values] for name, values in more.items()}
    return {**before, **{name: [*before.get(name, []), *values] for name, values in added.items()}}
