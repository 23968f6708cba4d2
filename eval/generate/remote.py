"""Tasks on other machines, which share no folder with this one: files go there and come back through Ray."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bdkit.utils.io import write_bytes
from bdkit.utils.ray_executor import RayExecutor
from dreambench.suites import Suite
from eval.experiments import BenchConfig
from eval.generate.methods import Methods
from eval.generate.task_files import TaskSeconds, fit_path, lock_task, make_files
from eval.generate.tasks import Task
from eval.results_dir import REFERENCES, RUN_FILE, SUITE_FILE, load_saved_suite, reference_paths

FIT_BYTES = 2**30  # a larger fit stays where it is: sending many of them would fill the network of this machine

Files = dict[str, bytes]
"""Path within the results folder -> content."""


def run_task_remotely(
    config: BenchConfig, task: Task, cluster: RayExecutor, methods: Methods | None = None, wait: bool = True
) -> TaskSeconds | None:
    """`run_task` on a machine of the cluster; the files that come back are written here, by rename.

    What a lost machine had sent already is kept, and what it had not is made again elsewhere.
    """
    lock = lock_task(config, task, wait)
    if lock is None:
        return None
    with lock:
        out = config.results_dir
        suite = load_saved_suite(out)
        fit, seconds = fit_path(config, task), TaskSeconds()
        if task.missing(suite, out):
            inputs = _inputs(config, suite, task, fit)
            for sent in cluster.stream(make_files_here, config, task, methods, inputs):
                if isinstance(sent, TaskSeconds):
                    seconds = sent
                    continue
                for name, data in sent.items():
                    if not (out / name).exists():
                        write_bytes(data, out / name)
            fit.unlink(missing_ok=True)
        return seconds


def make_files_here(
    config: BenchConfig, task: Task, methods: Methods | None, inputs: Files
) -> Iterator[Files | TaskSeconds]:
    """Makes the files of a task in a temporary folder; yields them as they are written, and what it took at the end."""
    with TemporaryDirectory(prefix="bdkit-") as folder:
        out = Path(folder)
        for name, data in inputs.items():
            path = out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        seconds = TaskSeconds()
        for paths in make_files(replace(config, out=out, photos=None), task, methods, seconds):
            sent = [path for path in paths if path.suffix == ".png" or path.stat().st_size <= FIT_BYTES]
            yield {path.relative_to(out).as_posix(): path.read_bytes() for path in sent}
        yield seconds


def _inputs(config: BenchConfig, suite: Suite, task: Task, fit: Path) -> Files:
    """What a machine needs: suite, record, references, a saved fit and, as empty files, the images that exist."""
    out = config.results_dir
    subject, _ = task.subject_and_templates(suite)
    references = [] if task.is_ground_truth else reference_paths(out, suite, subject, config.photos)
    files = {name: (out / name).read_bytes() for name in (SUITE_FILE, RUN_FILE)}
    for number, path in enumerate(references):
        files[f"{REFERENCES}/{subject.name}/{number:03d}{path.suffix}"] = path.read_bytes()
    if fit.exists():
        files[fit.relative_to(out).as_posix()] = fit.read_bytes()
    existing = set(task.images(suite)) - task.missing(suite, out)
    return files | {image.path(out).relative_to(out).as_posix(): b"" for image in existing}
