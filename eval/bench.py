"""The benchmark from end to end: generate -> score -> tables -> grid and report."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from time import monotonic
from typing import Any

from bdkit.utils.env import commit, device_name, library_versions, pick_device
from bdkit.utils.errors import InputError
from bdkit.utils.io import write_json
from dreambench.suites import Suite, load_suite
from eval.generate.rows import Generation, MethodBuilder, Row
from eval.generate.runner import default_rows, generate
from eval.generate.units import parse_shard
from eval.report.html import make_report
from eval.report.tables import make_tables
from eval.results_dir import GROUND_TRUTH, RUN_FILE, Job, read_run
from eval.score.cache import default_cache
from eval.score.score import Evaluators, ScoreOptions, load_evaluators, score_folder

# Where and how a run is made, which changes no figure, and the rows, which the record tells of in full
NOT_RECORDED = ("out", "rows", "photos", "shard", "workers", "remake")
# Models that photos are scored for with the small shipped evaluators, because their images have 64 pixels a side
SMALL_MODELS = ("mini", "mini-base")


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """A benchmark run.

    suite: dreambench, dreambench-plus, mini, mini@SEED, mini-dev or mini-quick
    model: a folder of weights, a hub id, or mini
    out: folder for the results; a run that was stopped goes on there; none: results/SUITE
    rows: rows of the table; none: the paper's
    methods: names of the rows to run; none: all
    seed_sets: independent seed sets, such as 0,1,2
    photos: folder of the suite's photos; none: BDKIT_DREAMBENCH_DIR, else the fetched ones (of DreamBench)
    subjects: measure only so many subjects, spread evenly over the suite
    prompts: measure only so many prompts of each list, spread evenly over it
    samples: measure only the first so many images a prompt
    protocol: encoders that score, mini or dreambench; none: mini for mini suites and models, else dreambench
    batch_size: images generated together; none: as many as suit the device
    ground_truth: add the mini world's own image of each prompt as a row
    shard: make only the images of part i of n, written i/n; `bdkit merge`, or the command without it, scores them all
    workers: processes that work at the same time, each on one thread; none: as many as suit the machine, 1 with a GPU
    remake: make images again that are there, but were made with other weights or settings
    """

    suite: str = "mini-quick"
    model: str = "mini"
    out: Path | None = None
    rows: tuple[Row, ...] | None = None
    methods: tuple[str, ...] | None = None
    seed_sets: tuple[int, ...] = (0,)
    photos: Path | None = None
    subjects: int | None = None
    prompts: int | None = None
    samples: int | None = None
    protocol: str | None = None
    batch_size: int | None = None
    ground_truth: bool = True
    shard: str | None = None
    workers: int | None = None
    remake: bool = False


def run_bench(
    config: BenchConfig,
    *,
    builders: Mapping[str, MethodBuilder] | None = None,
    evaluators: Evaluators | None = None,
    show_progress: bool = True,
) -> Path:
    """Runs the benchmark and returns the folder of its results.

    Writes suite.json, references/, images/, manifest.csv, run.json, scores.csv, scores.parquet, table.csv, table.md,
    by_subject.csv, by_prompt.csv, by_split.csv, differences.csv, correlations.csv, plots/, grid.png and report.html.
    Finished images are kept; everything after them is made again. Of a shard (`config.shard`) only the images are
    made.

    builders: method name -> builder; None for bdkit's own methods
    evaluators: None for the protocol's own

    Raises InputError for an unknown suite, row or protocol, when weights or photos are not there, and when the folder
    holds something else.
    """
    suite = load_suite(config.suite, config.photos).limited(config.subjects, config.prompts, config.samples)
    out = config.out or Path("results") / config.suite
    rows = chosen_rows(config)
    if config.batch_size is not None and config.batch_size < 1:
        raise InputError(f"a batch of {config.batch_size} images makes nothing; give at least 1")
    if not config.seed_sets or min(config.seed_sets) < 0 or len(set(config.seed_sets)) < len(config.seed_sets):
        raise InputError(f"seed sets must be different whole numbers from 0, not {config.seed_sets}")
    job = Generation(
        suite=suite,
        rows=rows,
        model=config.model,
        out=out,
        seed_sets=config.seed_sets,
        photos=config.photos,
        ground_truth=config.ground_truth,
        batch_size=config.batch_size,
        methods=builders,
        shard=parse_shard(config.shard),
        workers=config.workers,
        remake=config.remake,
        notes=_notes(config),
        show_progress=show_progress,
    )
    cache = default_cache() if evaluators is None else None
    if config.shard is None:
        # before hours of generation, not after
        evaluators = evaluators or load_evaluators(protocol_of(config, suite), pick_device())
    generate(job)
    if evaluators is not None and config.shard is None:
        score_and_report(job, evaluators, cache=cache, show_progress=show_progress)
    return out


def score_and_report(
    job: Generation, evaluators: Evaluators, *, cache: Path | None = None, show_progress: bool = True
) -> None:
    """Scores the images of a job that are all there, and writes tables, grid and report.

    cache: folder of embeddings for other runs; None: they are kept for this run alone

    Raises InputError when images or photos are missing.
    """
    names = [row.name for row in job.rows] + ([GROUND_TRUTH] if job.draws_ground_truth else [])
    jobs = [Job(name, seed_set) for name in names for seed_set in job.seed_sets]
    started = monotonic()
    options = ScoreOptions(cache=cache)
    score_folder(job.out, evaluators, photos=job.photos, jobs=jobs, options=options, show_progress=show_progress)
    scored = monotonic()
    _add_seconds(job.out, "scored", score=scored - started)
    make_report(job.out, make_tables(job.out), job.photos, show_progress=show_progress)
    _add_seconds(job.out, "complete", report=monotonic() - scored)


def chosen_rows(config: BenchConfig) -> tuple[Row, ...]:
    """The rows that `config` asks for. Raises InputError for a name that no row has."""
    rows = default_rows() if config.rows is None else config.rows
    if config.methods is None:
        return rows
    known = [row.name for row in rows]
    for name in config.methods:
        if name not in known:
            raise InputError(f"unknown method {name!r}; known are {', '.join(known)}")
    return tuple(row for row in rows if row.name in config.methods)


def protocol_of(config: BenchConfig, suite: Suite) -> str:
    """The protocol that `config` names, else the one that fits the suite and the model."""
    if config.protocol is not None:
        return config.protocol
    return "mini" if suite.source == "procedural" or config.model in SMALL_MODELS else "dreambench"


def _notes(config: BenchConfig) -> dict[str, Any]:
    """What the run record says besides what `generate` knows."""
    names = [field.name for field in fields(config) if field.name not in NOT_RECORDED]
    return {
        "config": {name: getattr(config, name) for name in names},
        "commit": commit(),
        "device": device_name(),
        "versions": library_versions(),
    }


def _add_seconds(out: Path, status: str, **seconds: float) -> None:
    record = read_run(out)
    record["status"] = status
    record["wall_seconds"] = {
        **record.get("wall_seconds", {}),
        **{name: round(value, 1) for name, value in seconds.items()},
    }
    write_json(record, out / RUN_FILE)
