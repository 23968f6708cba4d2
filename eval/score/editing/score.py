"""Edited images on disk -> OUT/scores.csv, one row for each image and metric: what `bdkit score --benchmark` runs.

Values are kept in the cache as embeddings are, by what they depend on, so that a killed run goes on where it was.
"""

import tempfile
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bdkit.utils.env import device_name, library_versions
from bdkit.utils.errors import InputError
from bdkit.utils.images import read_image
from bdkit.utils.io import write_text
from bdkit.utils.progress import progress_bar
from eval.results_dir import SCORES_FILE, update_run
from eval.score.check import Checker
from eval.score.editing import dreameditbench, pie_bench
from eval.score.editing.benchmark import EditBenchmark, EditMetric, choose_metrics, needed
from eval.score.editing.edited_images import find_edited
from eval.score.editing.structure import StructureEncoder
from eval.score.encoders import ENCODERS, ClipEncoder
from eval.score.features import EmbeddingCache, content_hash
from eval.score.masks import load_lpips
from eval.score.weights import WeightsSource, build_encoder, load_encoder

COLUMNS = ("method", "kind", "image", "metric", "value", "protocol")
# Images after which values are written to the cache
FLUSH_EVERY = 16
METRICS: dict[str, dict[str, EditMetric]] = {
    pie_bench.NAME: pie_bench.METRICS,
    dreameditbench.NAME: dreameditbench.METRICS,
}


@dataclass(frozen=True, kw_only=True)
class EditScoreOptions:
    """How to score.

    method: the name of the method where the folder is of one
    allow_missing: score fewer images than the benchmark has; the table then says how many
    ignore_surplus: pass over images that the benchmark does not have
    cache: folder in which values are kept for other runs; None: for this run alone
    """

    method: str | None = None
    allow_missing: bool = False
    ignore_surplus: bool = False
    cache: Path | None = None


def load_pie_bench(
    folder: Path, *, metrics: tuple[str, ...] = (), device: str = "cpu", source: WeightsSource | None = None
) -> pie_bench.PieBench:
    """PIE-Bench from its published folder, with the networks that the metrics need.

    source: where to look for public weights; None: $BDKIT_WEIGHTS_DIR, the hub's cache, the hub
    """
    cases, chosen = pie_bench.read_cases(folder), choose_metrics(pie_bench.METRICS, metrics)
    found: dict[str, Any] = {}
    checkpoints: dict[str, Any] = {}
    if "lpips" in needed(chosen):
        found["perceptual"] = tuple(
            load_lpips(source, device, net="squeeze", spatial=spatial) for spatial in (False, True)
        )
    if "structure" in needed(chosen):
        dino = build_encoder("dino", ENCODERS["dino-b8"], None, device, source)
        found["structure"] = StructureEncoder(dino.network, dino.checkpoint, device)
        checkpoints["structure"] = dino.checkpoint
    if "clip" in needed(chosen):
        clip = build_encoder("clip", ENCODERS["clip-l14"], None, device, source)
        assert isinstance(clip, ClipEncoder)
        found["clip"], checkpoints["clip"] = clip, clip.checkpoint
    return pie_bench.PieBench(cases, chosen, checkpoints=checkpoints, **found)


def load_dreameditbench(
    folder: Path,
    *,
    metrics: tuple[str, ...] = (),
    device: str = "cpu",
    source: WeightsSource | None = None,
    photos: Path | None = None,
    masks: str | None = None,
) -> dreameditbench.DreamEditBench:
    """DreamEditBench from its published folder, with the networks of the protocol `dreambench`.

    photos, masks: as in `dreameditbench.read_cases` and `dreameditbench.DreamEditBench`
    """
    cases, chosen = dreameditbench.read_cases(folder, photos), choose_metrics(dreameditbench.METRICS, metrics)
    dino, clip = (load_encoder(name, "dreambench", device, source) for name in ("dino", "clip"))
    checkpoints = {"dino": dino.checkpoint, "clip": clip.checkpoint}
    return dreameditbench.DreamEditBench(cases, chosen, dino=dino, clip=clip, masks=masks, checkpoints=checkpoints)


LOADERS: dict[str, Callable[..., EditBenchmark]] = {
    pie_bench.NAME: load_pie_bench,
    dreameditbench.NAME: load_dreameditbench,
}


def score_edits(
    benchmark: EditBenchmark,
    images: Path,
    out: Path,
    options: EditScoreOptions | None = None,
    *,
    show_progress: bool = True,
) -> pd.DataFrame:
    """Scores the edited images of every method below `images`, writes the scores into OUT, and returns them.

    The frame has the columns COLUMNS, in the order of methods, then of the benchmark's images and metrics; values are
    NaN where a metric is not defined, and count in no mean.

    Raises InputError, and OUT/problems.csv has all of them, when images are missing, surplus, doubled, or not of their
    source's size.
    """
    options = options or EditScoreOptions()
    edited = find_edited(images, benchmark, options.method)
    checker = Checker(images, options.allow_missing, options.ignore_surplus)
    if warning := checker.report(edited.problems, out):
        warnings.warn(warning, stacklevel=2)
    names = list(benchmark.metrics)
    rows: dict[tuple[str, str], np.ndarray] = {}
    with ExitStack() as stack:
        folder = options.cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bdkit-values-")))
        cache = EmbeddingCache(folder / f"{benchmark.name}-{benchmark.key}")
        stack.callback(cache.flush)
        total = sum(map(len, edited.files.values()))
        bar = stack.enter_context(progress_bar(total=total, desc="scoring", unit=" images", show=show_progress))
        n_new = 0
        for case in benchmark.cases:
            for method, files in edited.files.items():
                if case.name not in files:
                    continue
                contents = [path.read_bytes() for path in (case.source, files[case.name])]
                parts = [*contents, benchmark.content(case, method)]
                key = content_hash(b"".join(map(content_hash, parts)))
                if key not in cache:
                    pair = [
                        read_image(path, data, to_srgb=False)
                        for path, data in zip((case.source, files[case.name]), contents, strict=True)
                    ]
                    found = benchmark.values(case, method, *pair)
                    cache.put([key], np.array([[found[name] for name in names]], dtype=np.float32))
                    n_new += 1
                    if n_new % FLUSH_EVERY == 0:
                        cache.flush()
                rows[method, case.name] = cache.get([key])[0]
                bar.update()
    lines = [
        (method, case.kind, case.name, name, float(value), benchmark.name)
        for method in edited.files
        for case in benchmark.cases
        if (method, case.name) in rows
        for name, value in zip(names, rows[method, case.name], strict=True)
    ]
    frame = pd.DataFrame(lines, columns=list(COLUMNS))
    record = {
        "benchmark": benchmark.name,
        "protocol": benchmark.name,
        "metrics": names,
        "evaluators": dict(benchmark.checkpoints),
        "allow_missing": options.allow_missing,
        "images": {
            method: {"scored": len(files), "expected": edited.expected[method]}
            for method, files in edited.files.items()
        },
        "device": device_name(),
        "versions": library_versions(),
    }
    text = frame.to_csv(index=False, float_format="%.7g", na_rep="nan", lineterminator="\n")
    write_text(text, out / SCORES_FILE)
    update_run(out, scoring=record)
    return frame


def read_edit_scores(out: Path) -> pd.DataFrame:
    """The frame of OUT/scores.csv."""
    path = out / SCORES_FILE
    try:
        frame = pd.read_csv(path, keep_default_na=False, na_values={"value": ["nan"]}, dtype={"kind": str})
        return frame[list(COLUMNS)].astype({"value": float})
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; run `bdkit score --benchmark` first") from error
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}); run `bdkit score --benchmark` again") from error
