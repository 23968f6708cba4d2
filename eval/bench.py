"""The benchmark from end to end: one config -> generate -> score -> report."""

from pathlib import Path
from time import monotonic

from bdkit.utils.env import pick_device
from eval.experiments import BenchConfig, protocol_of
from eval.generate.methods import Methods, check_methods
from eval.generate.run import generate
from eval.report.html import make_report
from eval.report.tables import make_tables
from eval.results_dir import GROUND_TRUTH, read_run, update_run
from eval.score.features import default_cache
from eval.score.score import Evaluators, ScoreOptions, load_evaluators, score_folder

__all__ = ["BenchConfig", "run_bench"]


def run_bench(
    config: BenchConfig,
    *,
    methods: Methods | None = None,
    evaluators: Evaluators | None = None,
    report: bool = True,
    show_progress: bool = True,
) -> Path:
    """Runs the benchmark and returns the folder of its results.

    Writes suite.json, references/, images/, run.json, scores.csv, scores.parquet, table.csv, table.md, by_subject.csv,
    by_prompt.csv, by_split.csv, differences.csv, correlations.csv, plots/, grid.png and report.html. Images that exist
    are kept; everything after them is made again. Of a shard (`config.shard`) only the images are made.

    methods: method name -> what builds it; None for bdkit's own
    evaluators: None for the protocol's own
    report: make plots, grid.png and report.html; without it, tables alone
    """
    out, cache = config.results_dir, None
    check_methods(config, methods)
    if config.shard is not None:
        generate(config, methods=methods, show_progress=show_progress)
        return out
    if evaluators is None:
        # before hours of generation, not after
        evaluators, cache = load_evaluators(protocol_of(config, config.load_suite()), pick_device()), default_cache()
    generate(config, methods=methods, show_progress=show_progress)
    generated = monotonic()
    names = [row.name for row in config.chosen_rows] + [GROUND_TRUTH] * read_run(out)["ground_truth"]
    score_folder(
        out,
        evaluators,
        photos=config.photos,
        rows=[(name, seed_set) for name in names for seed_set in config.seed_sets],
        options=ScoreOptions(cache=cache),
        show_progress=show_progress,
    )
    scored = monotonic()
    results = make_tables(out)
    if report:
        make_report(out, results, config.photos, show_progress=show_progress)
    seconds = {"score": round(scored - generated, 1), "report": round(monotonic() - scored, 1)}
    update_run(out, status="complete", wall_seconds=seconds)
    return out
