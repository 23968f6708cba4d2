"""The benchmark from end to end: generate -> score -> tables -> grid and report."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from dreambench.errors import InputError
from dreambench.files import write_json
from dreambench.suites import Suite, load_suite
from eval.layout import GROUND_TRUTH, RUN_FILE, Job, read_run
from eval.report import make_report
from eval.rows import Generation, MethodBuilder, Row
from eval.runner import default_rows, generate
from eval.score import Evaluators, load_evaluators, score_folder
from eval.system import commit, device_name, library_versions, pick_device
from eval.tables import make_tables

# Models that photos are scored for with the small shipped evaluators, because their pictures have 64 pixels a side
SMALL_MODELS = ("mini", "mini-base")


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """A benchmark run.

    suite: dreambench, mini, mini@SEED, mini-dev or mini-quick
    model: a folder of weights, a hub id, or mini
    out: folder for the results; a run that was stopped goes on there; none: results/SUITE
    rows: rows of the table; none: the paper's
    methods: names of the rows to run; none: all
    seed_sets: independent seed sets, such as 0,1,2
    photos: folder of the DreamBench photos; none: BDKIT_DREAMBENCH_DIR, else the fetched ones
    subjects: measure only so many subjects, spread evenly over the suite
    prompts: measure only so many prompts of each list, spread evenly over it
    samples: measure only the first so many pictures a prompt
    protocol: encoders that score, mini or dreambench; none: mini for mini suites and models, else dreambench
    batch_size: pictures generated together; none: as many as suit the device
    ground_truth: add the mini world's own picture of each prompt as a row
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


def run_bench(
    config: BenchConfig,
    *,
    builders: Mapping[str, MethodBuilder] | None = None,
    evaluators: Evaluators | None = None,
    show_progress: bool = True,
) -> Path:
    """Runs the benchmark and returns the folder of its results.

    Writes suite.json, references/, pictures/, manifest.csv, run.json, scores.csv, scores.parquet, table.csv, table.md,
    differences.csv, correlations.csv, grid.png and report.html. Finished pictures are kept; everything after them is
    made again.

    builders: method name -> builder; None for bdkit's own methods
    evaluators: None for the protocol's own

    Raises InputError for an unknown suite, row or protocol, when weights or photos are not there, and when the folder
    holds something else.
    """
    suite = load_suite(config.suite).limited(config.subjects, config.prompts, config.samples)
    out = config.out or Path("results") / config.suite
    rows = chosen_rows(config)
    if config.batch_size is not None and config.batch_size < 1:
        raise InputError(f"a batch of {config.batch_size} pictures makes nothing; give at least 1")
    if not config.seed_sets or min(config.seed_sets) < 0 or len(set(config.seed_sets)) < len(config.seed_sets):
        raise InputError(f"seed sets must be different whole numbers from 0, not {config.seed_sets}")
    # before hours of generation, not after
    evaluators = evaluators or load_evaluators(protocol_of(config, suite), pick_device())
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
        show_progress=show_progress,
    )
    generate(job)
    names = [row.name for row in rows] + ([GROUND_TRUTH] if job.draws_ground_truth else [])
    jobs = [Job(name, seed_set) for name in names for seed_set in config.seed_sets]
    started = monotonic()
    score_folder(out, evaluators, photos=config.photos, jobs=jobs, show_progress=show_progress)
    scored = monotonic()
    _complete_record(out, config, score=scored - started)
    make_report(out, make_tables(out), config.photos, show_progress=show_progress)
    _complete_record(out, config, report=monotonic() - scored)
    return out


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


def _complete_record(out: Path, config: BenchConfig, **seconds: float) -> None:
    record = read_run(out)
    wall: dict[str, Any] = record.get("wall_seconds", {})
    record["status"] = "complete" if "report" in seconds else "scored"
    record["config"] = {
        "suite": config.suite,
        "model": config.model,
        "methods": config.methods,
        "seed_sets": config.seed_sets,
        "subjects": config.subjects,
        "prompts": config.prompts,
        "samples": config.samples,
        "protocol": config.protocol,
        "batch_size": config.batch_size,
        "ground_truth": config.ground_truth,
    }
    record["commit"] = commit()
    record["device"] = device_name()
    record["versions"] = library_versions()
    record["wall_seconds"] = {**wall, **{name: round(value, 1) for name, value in seconds.items()}}
    write_json(record, out / RUN_FILE)
