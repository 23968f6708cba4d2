"""Images on disk -> OUT/scores.csv and scores.parquet, one row for each image and metric.

The images may come from any program: what counts is where they lie (`eval.results_dir`, `eval.score.images`).
"""

import io
import shutil
import tempfile
import warnings
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from bdkit.utils.env import device_name, library_versions
from bdkit.utils.errors import InputError
from bdkit.utils.io import write_bytes, write_json, write_text
from dreambench.suites import Suite
from eval.results_dir import (
    IMAGES,
    REAL,
    REAL_WITH_SELF,
    RUN_FILE,
    SCORES_FILE,
    Job,
    load_saved_suite,
    read_run,
    reference_paths,
    save_suite,
)
from eval.score.check import Audit, Key, audit, expected_keys, find_jobs, report, write_problems
from eval.score.decoding import Workers, default_workers
from eval.score.evaluators import WITHOUT_NETWORK, Embedder, Evaluators, Predictor, load_evaluators
from eval.score.extras import ExtraOptions, Extras
from eval.score.features import CLASSIFIER, Embeddings
from eval.score.images import Found, read_images, read_tree
from eval.score.metrics import METRICS, Metric
from eval.score.protocols import DEFAULT_TOKEN, Protocol, find_protocol
from eval.score.score_shards import (
    FOLDER,
    join_frames,
    join_problems,
    join_records,
    read_parts,
    run_key,
    task_of,
    tasks_of,
    write_part,
)
from eval.score.scorer import COLUMNS, NO_PROMPT, PROTOCOL_COLUMN, Scorer

PARQUET_FILE = "scores.parquet"
ORACLE_ROWS = (REAL, REAL_WITH_SELF)

__all__ = [
    "COLUMNS",
    "NO_PROMPT",
    "ORACLE_ROWS",
    "Embedder",
    "Evaluators",
    "Predictor",
    "ScoreOptions",
    "load_evaluators",
    "merge_scores",
    "read_scores",
    "score_folder",
    "score_images",
    "write_scores",
]


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """How to score.

    allow_missing: score what is there; the table then says how much of it that is
    ignore_surplus: pass over images that have no place in the suite
    workers: processes that decode images, 0 for none; None: as many as suit the machine and the number of images
    cache: folder in which embeddings are kept for other runs; None: they are kept for this run alone
    token: the method's token, for a protocol whose texts have it
    shard: score part number of count alone, (1, 1) for all: OUT/shards has its scores, for `merge_scores`
    extras: masks and sources, for the metrics that need them
    """

    allow_missing: bool = False
    ignore_surplus: bool = False
    workers: int | None = None
    cache: Path | None = None
    token: str = DEFAULT_TOKEN
    shard: tuple[int, int] = (1, 1)
    extras: ExtraOptions = field(default_factory=ExtraOptions)


def score_folder(
    out: Path,
    evaluators: Evaluators,
    *,
    photos: Path | None = None,
    jobs: Sequence[Job] | None = None,
    options: ScoreOptions | None = None,
    show_progress: bool = True,
) -> pd.DataFrame:
    """Scores the images of a results folder, OUT, and the oracle (its references): see `score_images`.

    out: a folder with suite.json, references (or photos, for a suite of photos) and images
    jobs: what to score; None for every method and seed set that has images
    """
    suite = load_saved_suite(out)
    return score_images(
        _read_own(out, suite, jobs),
        suite,
        evaluators,
        out,
        photos=photos,
        jobs=jobs,
        options=options,
        show_progress=show_progress,
    )


def score_images(
    found: Found,
    suite: Suite,
    evaluators: Evaluators,
    out: Path,
    *,
    photos: Path | None = None,
    jobs: Sequence[Job] | None = None,
    options: ScoreOptions | None = None,
    show_progress: bool = True,
) -> pd.DataFrame:
    """Scores images and the oracle, writes the scores into OUT, and returns them.

    found: what `eval.score.images.read_images` read
    photos: folder of the references of a suite of photos; None: BDKIT_DREAMBENCH_DIR's, else the fetched ones
    jobs: what to score; None for every method and seed set that was found

    The frame has the columns of COLUMNS and `protocol`, sorted by method, seed set, subject (suite order), prompt,
    sample and metric; values are rounded to 6 decimals, as in the file. The oracle's prompt is -1, its sample the
    reference's number.

    Raises InputError, and OUT/problems.csv has all of them, when images are missing, surplus, doubled or unreadable:
    a mean is never taken over fewer images unless `options` allow it.
    """
    options = options or ScoreOptions()
    return _score(found, suite, evaluators, out, photos, jobs, options, show_progress)


def _score(
    found: Found,
    suite: Suite,
    evaluators: Evaluators,
    out: Path,
    photos: Path | None,
    jobs: Sequence[Job] | None,
    options: ScoreOptions,
    show_progress: bool,
) -> pd.DataFrame:
    rules = find_protocol(evaluators.protocol)
    suite = rules.apply_to(suite)
    jobs = find_jobs(found) if jobs is None else list(jobs)
    if taken := sorted({job.method for job in jobs} & set(ORACLE_ROWS)):
        raise InputError(f"{taken[0]!r} is the name of the oracle's row; rename that folder of images")
    tasks = tasks_of(jobs, suite, options.shard)
    try:
        references = [reference_paths(out, suite, subject, photos) for subject in suite.subjects]
    except InputError:
        # what is wrong with the images comes first
        report(audit(found, suite, jobs, (), Workers(0), show_progress=False), out, allow_missing=options.allow_missing)
        raise
    metrics = scored_metrics(evaluators, suite)
    with ExitStack() as stack:
        count = default_workers(len(found.pictures)) if options.workers is None else options.workers
        workers = stack.enter_context(Workers(count))
        folder = options.cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bdkit-embeddings-")))
        extras = Extras(metrics, evaluators.encoders, options.extras, folder) if _needs_extras(metrics) else None
        checked = audit(
            found,
            suite,
            jobs,
            [path for paths in references for path in paths],
            workers,
            cut_out=rules.background == "removed",
            decoded=lambda key: task_of(key) in tasks,
            show_progress=show_progress,
        )
        warning = report(checked, out, allow_missing=options.allow_missing, ignore_surplus=options.ignore_surplus)
        if warning is not None:
            warnings.warn(warning, stacklevel=3)
        networks = dict(evaluators.encoders)
        if evaluators.classifier is not None:
            networks[CLASSIFIER] = evaluators.classifier
        embeddings = Embeddings(networks, folder)
        embeddings.embed(_files(checked, references, tasks), workers, show_progress)
        scorer = Scorer(suite, rules, metrics, checked, embeddings, references, options.token, extras)
        for job in jobs:
            scorer.score_job(job, {subject for *of, subject in tasks if of == [job.method, job.seed_set]})
        if options.shard[0] == 1:
            scorer.score_oracle()
        frame = scorer.frame()
    keys = [key for job in jobs for key in expected_keys(suite, job) if task_of(key) in tasks]
    record = _record(suite, rules, metrics, evaluators, options, _counts(checked, keys))
    if options.shard[1] > 1:
        write_part(frame, out, options.shard, run_key(record, checked, jobs), record, checked)
    else:
        _write_all(frame, read_run(out), record, out)
        shutil.rmtree(out / FOLDER, ignore_errors=True)
    return frame


def merge_scores(folders: Sequence[Path], out: Path) -> pd.DataFrame:
    """Puts together what all shards of one run scored (`ScoreOptions.shard`), in one folder or several: writes into OUT
    what one run would have written, byte for byte, and returns the scores. Neither images nor networks are needed.

    Raises InputError when a shard is missing or damaged, and when they are of different runs.
    """
    parts = read_parts(folders)
    folder = parts[0].path.parent.parent
    suite = load_saved_suite(folder)
    save_suite(suite, out)
    record = join_records(parts)
    frame = join_frames(parts, find_protocol(record["protocol"]).apply_to(suite))
    write_problems(join_problems(parts), out)
    _write_all(frame, read_run(out) or read_run(folder), record, out)
    return frame


def _write_all(frame: pd.DataFrame, run: dict[str, Any], record: dict[str, Any], out: Path) -> None:
    write_scores(frame, out)
    write_json({**run, "scoring": record}, out / RUN_FILE)


def _record(
    suite: Suite,
    rules: Protocol,
    metrics: Sequence[Metric],
    evaluators: Evaluators,
    options: ScoreOptions,
    counts: dict[str, Any],
) -> dict[str, Any]:
    """What run.json says of a scoring."""
    return {
        "protocol": rules.name,
        "protocol_settings": asdict(rules),
        "suite": suite.name,
        "suite_hash": suite.hash,
        "metrics": [metric.name for metric in metrics],
        "evaluators": evaluators.checkpoints,
        "token": options.token if rules.clip_t_text == "token" else None,
        "allow_missing": options.allow_missing,
        "images": counts,
        "device": device_name(),
        "versions": library_versions(),
    }


def scored_metrics(evaluators: Evaluators, suite: Suite) -> list[Metric]:
    """The metrics that these networks score on this suite, in the order of METRICS."""
    return [
        metric
        for name, metric in METRICS.items()
        if evaluators.has(metric.encoder)
        and (name in evaluators.metrics or not metric.optional)
        and not (metric.of_mini_world and suite.source == "photos")
        and not (metric.of_several and max(subject.n_references for subject in suite.subjects) < 2)
    ]


def _needs_extras(metrics: Sequence[Metric]) -> bool:
    return any(metric.encoder in WITHOUT_NETWORK for metric in metrics)


def write_scores(frame: pd.DataFrame, out: Path) -> None:
    """Writes OUT/scores.csv (6 decimals; the same scores give the same bytes) and scores.parquet."""
    write_text(frame.to_csv(index=False, float_format="%.6f", lineterminator="\n"), out / SCORES_FILE)
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    write_bytes(buffer.getvalue(), out / PARQUET_FILE)


def read_scores(out: Path) -> pd.DataFrame:
    """The frame of OUT/scores.csv, or where only that is there, of scores.parquet, a tenth of its size; one of an older
    bdkit has no column `protocol`.

    Raises InputError when both are missing, or the one that is read is damaged.
    """
    path, parquet = out / SCORES_FILE, out / PARQUET_FILE
    try:
        if parquet.exists() and not path.exists():
            path = parquet
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(path, keep_default_na=False)
        columns = [*COLUMNS, *([PROTOCOL_COLUMN] if PROTOCOL_COLUMN in frame else [])]
        return frame[columns].astype({"seed_set": int, "prompt": int, "sample": int, "value": float})
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; run `bdkit score {out}` first") from error
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}); run `bdkit score {out}` again") from error


def _read_own(out: Path, suite: Suite, jobs: Sequence[Job] | None) -> Found:
    """The images of a results folder; those of other methods than `jobs` are none of our business."""
    if jobs is None:
        return read_images(out, suite, layout="tree")
    found = read_tree(out, suite, out.name)
    own = [out / IMAGES / f"seed{job.seed_set}" / job.method for job in jobs]
    unknown = [(path, why) for path, why in found.unknown if any(path.is_relative_to(folder) for folder in own)]
    return Found(out, found.pictures, tuple(unknown))


def _files(
    checked: Audit, references: Iterable[Sequence[Path]], tasks: Collection[tuple[str, int, str]]
) -> dict[bytes, Path]:
    """Content hash -> a file that has it: the references, then the images of the tasks in their order."""
    paths = [path for paths in references for path in paths]
    paths += [picture.path for key, picture in sorted(checked.pictures.items()) if task_of(key) in tasks]
    files: dict[bytes, Path] = {}
    for path in paths:
        files.setdefault(checked.contents[path], path)
    return files


def _counts(checked: Audit, keys: Iterable[Key]) -> dict[str, Any]:
    """method -> how many images were scored, of how many."""
    counts: dict[str, dict[str, int]] = {}
    for key in keys:
        count = counts.setdefault(key[0], {"scored": 0, "expected": 0})
        count["scored"] += key in checked.pictures
        count["expected"] += 1
    return counts
