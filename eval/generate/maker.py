"""Makes units of work in this process: fits a subject, draws its images, writes them."""

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from PIL import Image

from bdkit.utils.errors import InputError
from bdkit.utils.images import read_image
from bdkit.utils.io import write_bytes
from bdkit.utils.seeds import derive_seed
from dreambench.suites import SuiteSubject
from eval.generate.locks import LOCKS, FileLock
from eval.generate.progress import Event, Report
from eval.generate.rows import Generation, Method, Row, batches, group_rows, image_seed
from eval.generate.stamps import write_stamped
from eval.generate.units import Plan, Task, Unit, find_slots, unit_states
from eval.results_dir import FITS, GROUND_TRUTH, Job, Slot, image_path, read_run, reference_paths

FULL_RESOLUTION = 512
# Pixels that are generated together where no batch size is given: enough to keep the device busy, and to fit in it
BATCH_PIXELS = {"cpu": 16 * 64**2, "cuda": 16 * FULL_RESOLUTION**2}
BUSY_SECONDS = 0.5

Build = Callable[[Row], Method]
DrawTruth = Callable[[SuiteSubject, str, int], Image.Image]


@contextmanager
def one_thread() -> Iterator[None]:
    """Keeps torch on one CPU thread within the block, where there is no GPU: then every process, alone or one of many,
    computes the same bits.
    """
    threads = torch.get_num_threads()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def make_plan(job: Generation, build: Build) -> Plan:
    """Builds every method of a job once, and writes down what it makes images with.

    A row that was begun in OUT keeps its batches.
    """
    begun = read_run(job.out).get("rows", {})
    entries: dict[str, dict[str, Any]] = {}
    steps = {}
    for group in group_rows(job.rows):
        method = build(group[0])
        steps[group[0].group] = max(method.snapshots, default=0)
        settings = _plain(method.settings)
        for row in group:
            entry = {
                "method": row.method,
                "overrides": _plain(dict(row.overrides)),
                "snapshot": row.snapshot,
                "prompts_per_batch": _prompts_per_batch(job, settings),
                "settings": settings,
            }
            before = begun.get(row.name, {})
            if {**before, "prompts_per_batch": entry["prompts_per_batch"]} == entry:
                entry = before
            entries[row.name] = entry
        del method
    photos = {}
    if job.suite.source == "photos":
        for subject in job.suite.subjects:
            paths = reference_paths(job.out, job.suite, subject, job.photos)
            photos[subject.name] = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    return Plan(entries, steps, photos)


class Maker:
    """Makes tasks, keeping the method of the last one.

    build: makes a row's method; draw_truth: (subject, template, seed) -> the mini world's own image
    """

    def __init__(self, job: Generation, plan: Plan, build: Build, draw_truth: DrawTruth) -> None:
        self.job, self.plan = job, plan
        self._build, self._draw_truth = build, draw_truth
        self._rows = {row.name: row for row in job.rows}
        self._built: tuple[str, Method] | None = None

    def run_all(self, tasks: Iterable[Task], report: Report) -> None:
        """Does tasks in order; those that another process works on last, when it is done with them or gone."""
        waiting = deque(tasks)
        refused = 0
        while waiting:
            if self.run(waiting[0], report):
                waiting.popleft()
                refused = 0
                continue
            waiting.rotate(-1)
            refused += 1
            if refused >= len(waiting):
                time.sleep(BUSY_SECONDS)
                refused = 0

    def run(self, task: Task, report: Report) -> bool:
        """Makes what is missing of a task; False, and nothing done, when another process works on it.

        Raises InputError when the weights are not those of the plan any more.
        """
        lock = FileLock(self.job.out / LOCKS / task.name)
        if not lock.acquire(wait=False):
            return False
        report(Event("begin", task.group, task.label))
        try:
            wanted = [unit for unit, state in unit_states(self.job, self.plan, task) if state != "done"]
            if len(wanted) < len(task.units):
                report(Event("found", task.group, task.label, len(task.units) - len(wanted)))
            if wanted:
                with one_thread():
                    self._make(task, wanted, report)
        finally:
            lock.release()
            report(Event("end", task.group, task.label))
        return True

    def _make(self, task: Task, wanted: Sequence[Unit], report: Report) -> None:
        places = find_slots(self.job, task.subject)
        by_row: dict[str, list[Slot]] = {}
        for unit in wanted:
            by_row.setdefault(unit.row, []).append(places[unit.prompt, unit.sample])
        subject = next(iter(places.values())).subject
        if GROUND_TRUTH in by_row:
            self._draw(task, subject, by_row[GROUND_TRUTH], report)
            return
        rows = [self._rows[name] for name in by_row]
        method = self._method(rows[0])
        fit = self._fit_path(task)
        self._fit(task, subject, method, fit, report)
        for row in rows:
            method.select(row.snapshot)
            for batch in batches(self.job.suite, subject, self.plan.entries[row.name]["prompts_per_batch"]):
                if missing := [slot for slot in batch if slot in by_row[row.name]]:
                    started = time.monotonic()
                    self._generate(row, method, batch, missing, task.seed_set)
                    seconds = time.monotonic() - started
                    report(Event("picture", task.group, task.label, len(missing), seconds))
        fit.unlink(missing_ok=True)

    def _method(self, row: Row) -> Method:
        if self._built is None or self._built[0] != row.group:
            self._built = None  # first, so that two are never in memory
            method = self._build(row)
            if _plain(method.settings) != self.plan.entries[row.name]["settings"]:
                raise InputError(f"the weights or settings of {row.name!r} changed during the run; run it again")
            self._built = (row.group, method)
        return self._built[1]

    def _fit_path(self, task: Task) -> Path:
        row = next(row for row in self.job.rows if row.group == task.group)
        made_with = [task.group, self.plan.entries[row.name]["settings"], self.plan.photos.get(task.subject)]
        key = hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()[:16]
        return self.job.out / FITS / key / f"seed{task.seed_set}" / f"{task.subject}.safetensors"

    def _fit(self, task: Task, subject: SuiteSubject, method: Method, path: Path, report: Report) -> None:
        """Fits a subject, or takes up a fit that a stopped run left behind."""
        job = self.job
        if path.exists():
            method.load_state(safetensors.torch.load_file(path))
            report(Event("fit", task.group, task.label, fresh=False))
            return
        images = [read_image(file) for file in reference_paths(job.out, job.suite, subject, job.photos)]
        seed = derive_seed("fit", job.suite.name, task.group, subject.name, task.seed_set)
        started = time.monotonic()
        method.fit(images, subject.class_noun, seed)
        seconds = time.monotonic() - started
        if method.snapshots:
            # clones, because safetensors refuses tensors that share memory
            state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in method.state().items()}
            write_bytes(safetensors.torch.save(state), path)
        report(Event("fit", task.group, task.label, seconds=seconds))

    def _generate(
        self, row: Row, method: Method, batch: Sequence[Slot], missing: Sequence[Slot], seed_set: int
    ) -> None:
        """Makes a whole batch and writes what is missing of it: then its images do not depend on what was there."""
        templates = [slot.prompt.template for slot in batch]
        seeds = [image_seed(self.job.suite, row.name, slot, seed_set) for slot in batch]
        one_template = templates[0] if len(set(templates)) == 1 else templates
        images = method.generate(one_template, batch[0].subject.class_noun, seeds)
        for slot, image in zip(batch, images, strict=True):
            if slot in missing:
                self._write(image, row.name, slot, seed_set)

    def _draw(self, task: Task, subject: SuiteSubject, places: Sequence[Slot], report: Report) -> None:
        started = time.monotonic()
        for slot in places:
            seed = image_seed(self.job.suite, GROUND_TRUTH, slot, task.seed_set)
            self._write(self._draw_truth(subject, slot.prompt.template, seed), GROUND_TRUTH, slot, task.seed_set)
        report(Event("picture", task.group, task.label, len(places), time.monotonic() - started))

    def _write(self, image: Image.Image, row: str, slot: Slot, seed_set: int) -> None:
        path = image_path(self.job.out, Job(row, seed_set), slot)
        write_stamped(image, path, self.plan.key(self.job, row, slot, seed_set))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back: tuples are lists there."""
    return dict(json.loads(json.dumps(values, default=str)))


def _prompts_per_batch(job: Generation, settings: Mapping[str, Any]) -> int:
    pictures = job.batch_size
    if pictures is None:
        pixels = BATCH_PIXELS["cuda" if torch.cuda.is_available() else "cpu"]
        pictures = pixels // int(settings.get("resolution", FULL_RESOLUTION)) ** 2
    return max(1, pictures // job.suite.samples_per_prompt)
