"""One task -> its files: the fit, then the images in fixed batches, each written by rename."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import safetensors.torch
from filelock import AcquireReturnProxy, FileLock, Timeout

from bdkit.methods.base import Method, TrainedMethod
from bdkit.utils.images import read_image, write_png
from bdkit.utils.io import remove_unfinished, write_bytes
from bdkit.utils.seeds import derive_seed
from dreambench.suites import Suite
from eval.experiments import BenchConfig
from eval.generate.executors import one_thread
from eval.generate.methods import Methods, method_of
from eval.generate.references import draw_ground_truth
from eval.generate.tasks import Task
from eval.results_dir import ImageId, load_saved_suite, read_run, reference_paths


@dataclass(frozen=True)
class TaskSeconds:
    """Wall seconds in the process that did a task: row -> of its fit (one, or none where a saved fit was loaded), and
    row -> an image, the median over its batches. Of a fit that chose its number of steps, row -> "seed0/SUBJECT" ->
    that number.
    """

    fit_seconds: dict[str, list[float]] = field(default_factory=dict)
    draw_seconds: dict[str, list[float]] = field(default_factory=dict)
    fit_steps: dict[str, dict[str, int]] = field(default_factory=dict)


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
    lock = lock_task(config, task, wait)
    if lock is None:
        return None
    seconds = TaskSeconds()
    with lock:
        for paths in make_files(config, task, methods, seconds):
            if paths != [fit_path(config, task)]:
                on_images(len(paths))
    return seconds


def lock_task(config: BenchConfig, task: Task, wait: bool) -> AcquireReturnProxy | None:
    """The held lock of a task: no other process works on it; None when one does and `wait` is off."""
    return acquire(fit_path(config, task).with_suffix(".lock"), wait)


def acquire(path: Path, wait: bool) -> AcquireReturnProxy | None:
    """The held lock of a file in FITS; None when another process has it and `wait` is off."""
    while True:
        try:
            return FileLock(path).acquire(timeout=-1 if wait else 0)
        except Timeout:
            return None
        except FileNotFoundError:
            pass  # a process that made its last image has just removed FITS


def make_files(config: BenchConfig, task: Task, methods: Methods | None, seconds: TaskSeconds) -> Iterator[list[Path]]:
    """Writes the missing images of a task, and its fit as long as images are missing; yields what was just written.

    seconds: is filled with what it took
    """
    out, fit = config.results_dir, fit_path(config, task)
    suite, rows = load_saved_suite(out), read_run(out)["rows"]
    with one_thread():
        missing = task.missing(suite, out)
        for folder in {image.path(out).parent for image in missing}:
            remove_unfinished(folder)
        if task.is_ground_truth:
            subject, templates = task.subject_and_templates(suite)
            for image in sorted(missing):
                drawn = draw_ground_truth(suite, subject, templates[image.prompt], image.seed(suite.name))
                write_png(drawn, image.path(out))
                yield [image.path(out)]
        if task.is_ground_truth or not missing:
            return
        method = method_of(config, task.rows[0], methods)
        fitted = _fit(config, suite, task, method, fit)
        if fit.exists():
            yield [fit]
        for row in task.rows:
            seconds.fit_seconds[row.name] = fitted
            if isinstance(method, TrainedMethod) and method.chosen_steps is not None:
                seconds.fit_steps[row.name] = {f"seed{task.seed_set}/{task.subject}": method.chosen_steps}
            method.select(row.snapshot)
            images, size = task.images(suite, row), rows[row.name]["images_per_batch"]
            drawing: list[float] = []
            for start in range(0, len(images), size):
                batch = images[start : start + size]
                if not missing.isdisjoint(batch):
                    drawing.append(_generate(suite, task, method, batch, missing, out) / len(batch))
                    yield [image.path(out) for image in batch if image in missing]
            seconds.draw_seconds[row.name] = [median(drawing)] if drawing else []
        fit.unlink(missing_ok=True)


def fit_path(config: BenchConfig, task: Task) -> Path:
    """Where the fit of a task is saved while images are missing."""
    rows = read_run(config.results_dir)["rows"]
    return task.fit_path(config.results_dir, rows.get(task.rows[0].name, {}).get("settings"))


def _fit(config: BenchConfig, suite: Suite, task: Task, method: Method, path: Path) -> list[float]:
    """Fits the subject and saves the fit at `path`, or loads the one that a stopped run left there."""
    if path.exists():
        method.load_state(safetensors.torch.load_file(path))
        return []
    subject, _ = task.subject_and_templates(suite)
    files = reference_paths(config.results_dir, suite, subject, config.photos)
    images = [read_image(file) for file in files[: len(files) - config.held_out]]
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
