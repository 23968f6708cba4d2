"""Scored folders with figures of our choice: no network is run, images are noise."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from bdkit.utils.images import write_png
from dreambench.suites import Suite, load_suite
from eval.generate.runner import prepare
from eval.results_dir import REAL, REAL_WITH_SELF, Job, image_path, save_suite, slots
from eval.score.score import COLUMNS, NO_PROMPT, write_scores

METRICS = ("dino", "clip_i", "clip_t")
SUITE = load_suite("mini-quick").limited(samples=1)
Value = Callable[[np.random.Generator, str, str], float]


def any_value(rng: np.random.Generator, method: str, metric: str) -> float:
    return round(float(rng.random()), 6)


def make_scores(
    methods: tuple[str, ...] = ("base", "dreambooth"),
    suite: Suite = SUITE,
    seed_sets: int = 2,
    metrics: tuple[str, ...] = METRICS,
    value: Value = any_value,
    seed: int = 0,
) -> pd.DataFrame:
    """Scores of the oracle (always the same) and of methods."""
    rows: list[tuple] = []
    rng = np.random.default_rng(99)
    for method in (REAL, REAL_WITH_SELF):
        for subject in suite.subjects:
            for number in range(subject.n_references):
                for metric in metrics:
                    if metric != "clip_t":
                        rows.append((method, 0, subject.name, NO_PROMPT, number, metric, any_value(rng, "", "")))
    rng = np.random.default_rng(seed)
    for method in methods:
        for seed_set in range(seed_sets):
            for subject in suite.subjects:
                for slot in slots(suite, subject):
                    key = (method, seed_set, subject.name, slot.prompt.index, slot.sample)
                    rows += [(*key, metric, value(rng, method, metric)) for metric in metrics]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def make_folder(
    out: Path, scores: pd.DataFrame | None = None, suite: Suite = SUITE, protocol: str = "mini", **record: Any
) -> Path:
    """OUT with suite.json, scores.csv and run.json, no images."""
    scores = make_scores(suite=suite) if scores is None else scores
    save_suite(suite, out)
    write_scores(scores.assign(protocol=protocol), out)
    allow_missing = record.pop("allow_missing", False)
    run = {"scoring": {"protocol": protocol, "allow_missing": allow_missing}, **record}
    (out / "run.json").write_text(json.dumps(run))
    return out


def add_images(out: Path, methods: tuple[str, ...], suite: Suite = SUITE, seed_sets: int = 2) -> None:
    """References as the mini world draws them, and images of noise, where bdkit puts them."""
    prepare(suite, out)
    rng = np.random.default_rng(1)
    for method in methods:
        for seed_set in range(seed_sets):
            for subject in suite.subjects:
                for slot in slots(suite, subject):
                    noise = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
                    write_png(noise, image_path(out, Job(method, seed_set), slot))
