"""Methods x suite -> images on disk: `run_task` makes the images of one fit, `generate` those of a run.

A run that was stopped, however roughly, resumes: images that exist are skipped, files are written by rename, and images
are drawn in fixed batches with seeds from their ids. So they are the same bytes, whichever process makes which task.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from filelock import FileLock, Timeout

from bdkit.checkpoints.load import resolve
from bdkit.methods import Method, build_method
from bdkit.utils.env import commit, device_name, library_versions
from bdkit.utils.errors import InputError
from bdkit.utils.images import read_image, write_png
from bdkit.utils.io import file_hash, remove_unfinished, write_bytes
from bdkit.utils.progress import progress_bar
from bdkit.utils.seeds import derive_seed
from dreambench.suites import Suite, SuiteSubject
from eval.experiments import BenchConfig, Row
from eval.generate.executors import default_workers, local_processes, one_thread, run_all
from eval.generate.references import draw_ground_truth, prepare
from eval.generate.tasks import Task, list_tasks, parse_shard
from eval.results_dir import FITS, IMAGES, ImageId, load_saved_suite, read_run, reference_paths, update_run

FULL_RESOLUTION = 512
# Pixels that are generated together where no batch size is given: enough to keep the device busy, and to fit in it
BATCH_PIXELS = {"cpu": 16 * 64**2, "cuda": 16 * FULL_RESOLUTION**2}
# Of the config, what changes no image and no score
NOT_RECORDED = ("out", "rows", "photos", "shard", "workers", "remake")

Methods = Mapping[str, Callable[..., Method]]

_last: tuple[str, Method] | None = None
"""The method of this process's last task and its `Row.group`: building it takes longer than many a task."""


def generate(config: BenchConfig, *, methods: Methods | None = None, show_progress: bool = True) -> bool:
    """Makes every image of the config's shard that is not in the results folder; True when those of all shards are.

    run.json then holds each row's method, overrides, snapshot and settings. Any number of processes may work in one
    folder, on one shard or on several: they share the work.

    methods: method name -> what is called with model=... and a row's overrides; None for bdkit's own. They are sent to
        worker processes by name.

    Raises InputError when the folder holds another suite, or images of a row with other weights or settings (which
    `remake` makes again).
    """
    global _last
    started, out, suite = time.monotonic(), config.results_dir, config.load_suite()
    number, count = parse_shard(config.shard)
    prepare(suite, out, config.photos)
    rows = _guarded_settings(config, suite, methods)
    everything = list_tasks(config, suite)
    tasks = everything[number - 1 :: count]
    if config.remake:
        for task in tasks:
            for image in (image for row in task.rows for image in task.images(suite, row)):
                image.path(out).unlink(missing_ok=True)
    missing = {task.label: 0 for task in tasks}
    todo = [task for task in tasks if task.missing(suite, out)]
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
    )
