"""`bdkit score IMAGES`: scores the images of a folder, whoever made them; or edited images, as a benchmark does.

examples:
  bdkit score results/mini-quick
  bdkit score outputs/mine --suite dreambench --photos dreambooth/dataset --out scores/mine
  bdkit score outputs/mine --suite dreambench --out scores/mine --tree prompt-folders --protocol clip-score
  bdkit score edits/ --benchmark pie-bench --benchmark-dir PIE-Bench/data --out scores/edits
  bdkit score swaps/ --benchmark dreameditbench --benchmark-dir DreamEditBench --photos photos/ --out scores/swaps
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bdkit.utils.config import add_dataclass_arguments, config_from_args, flag_of, given_fields
from bdkit.utils.errors import InputError
from bdkit.utils.io import check_writable
from dreambench.registry import load_suite
from dreambench.suites import Suite
from eval.experiments import BenchConfig, protocol_of
from eval.generate.tasks import parse_shard
from eval.results_dir import SCORES_FILE, SUITE_FILE, load_saved_suite, read_run, save_suite
from eval.score.images import TREES, read_images
from eval.score.protocols import DEFAULT, DEFAULT_TOKEN, find_protocol

if TYPE_CHECKING:
    from eval.score.weights import WeightsSource


@dataclass(frozen=True, kw_only=True)
class ScoreInputConfig:
    """Images.

    images: a results folder of bdkit, or any other folder of images
    suite: dreambench, dreambench-plus, mini, mini@SEED, mini-dev or mini-quick (default: the folder's own)
    photos: folder of the suite's photos
    manifest: CSV with path, method, subject, prompt_index, sample[, seed_set]
    tree: how the images lie
    method: the method, where the folders do not say (default: IMAGES' name)
    masks: folder of the subjects' masks, for metrics of a part of the image; clipseg: find them
    sources: folder of what edits were made from, for metrics of edits
    allow_missing: means over fewer images; tables then say n/N
    ignore_surplus: skip images that the suite does not have
    """

    images: Path = field(metadata={"positional": True})
    suite: str | None = None
    photos: Path | None = None
    manifest: Path | None = None
    tree: str = field(default="auto", metadata={"metavar": "{auto," + ",".join(TREES) + "}"})
    method: str | None = field(default=None, metadata={"metavar": "NAME"})
    masks: str | None = field(default=None, metadata={"metavar": "PATH"})
    sources: Path | None = None
    allow_missing: bool = False
    ignore_surplus: bool = False


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(ScoreInputConfig):
    """Scoring.

    protocol: how to score; 'bdkit protocols' lists them (default: the folder's own)
    out: folder for the scores (default: the images' folder)
    metrics: optional metrics beside the standard ones, such as dinov2
    token: the method's token, for texts that have it
    dino_weights: file of DINO's weights (default: BDKIT_WEIGHTS_DIR, else the hub)
    clip_weights: file of CLIP's weights
    offline: never ask the Hugging Face hub
    workers: processes that read images, 0 for none
    shard: only embed part I of N into the cache, written I/N; the same command without it then scores
    cache: folder of embeddings for other runs to use again (default: the user's cache folder)
    no_cache: keep no embeddings for other runs
    """

    protocol: str | None = None
    out: Path | None = None
    metrics: tuple[str, ...] = ()
    token: str = DEFAULT_TOKEN
    dino_weights: Path | None = None
    clip_weights: Path | None = None
    offline: bool = False
    workers: int | None = None
    shard: str | None = None
    cache: Path | None = None
    no_cache: bool = False


@dataclass(frozen=True, kw_only=True)
class EditBenchmarkConfig:
    """Edited images.

    benchmark: the published benchmark in place of a suite; IMAGES has METHOD/... with the names of the sources
    benchmark_dir: the benchmark's published folder (PIE-Bench: with mapping_file.json; DreamEditBench: with data/)
    """

    benchmark: Literal["pie-bench", "dreameditbench"] | None = None
    benchmark_dir: Path | None = None


# The flags that go with --benchmark
OF_EDITS = (
    *("images", "out", "method", "metrics", "allow_missing", "ignore_surplus", "dino_weights", "clip_weights"),
    *("offline", "cache", "no_cache"),
)
OF_BENCHMARK: dict[str, tuple[str, ...]] = {"pie-bench": (), "dreameditbench": ("photos", "masks")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `ScoreConfig` and `EditBenchmarkConfig`."""
    add_dataclass_arguments(parser, ScoreConfig)
    add_dataclass_arguments(parser, EditBenchmarkConfig)


def run(args: argparse.Namespace) -> int:
    """Writes scores.csv and scores.parquet, of a shard only the cache, or problems.csv when something is wrong with the
    images.
    """
    edits = config_from_args(EditBenchmarkConfig, args)
    if edits.benchmark is not None:
        return run_edits(edits.benchmark, edits.benchmark_dir, args)
    if edits.benchmark_dir is not None:
        raise InputError("--benchmark-dir needs --benchmark, the name of the benchmark")

    from bdkit.utils.env import pick_device
    from eval.score.features import default_cache
    from eval.score.score import ScoreOptions, load_evaluators, score_folder, score_images

    config = config_from_args(ScoreConfig, args)
    out = config.out or config.images
    if config.out is not None:
        check_writable(config.out)
    suite = _suite(config)
    protocol = find_protocol(config.protocol or _protocol(config.images, suite))
    shard = parse_shard(config.shard)
    # before anything is written, and before hours of scoring
    tree = None
    if not _is_results_dir(config):
        tree = read_images(
            config.images, protocol.apply_to(suite), tree=config.tree, manifest=config.manifest, method=config.method
        )
    evaluators = load_evaluators(protocol.name, pick_device(), _weights(config), config.metrics)
    options = ScoreOptions(
        allow_missing=config.allow_missing,
        ignore_surplus=config.ignore_surplus,
        workers=config.workers,
        cache=None if config.no_cache else config.cache or default_cache(),
        token=config.token,
        shard=shard,
        masks=config.masks,
        sources=config.sources,
    )
    if tree is None:
        frame = score_folder(out, evaluators, photos=config.photos, options=options)
    else:
        _prepare(suite, out)
        frame = score_images(tree, suite, evaluators, out, photos=config.photos, options=options)
    if shard[1] > 1:
        print(f"Shard {config.shard} is in the cache {options.cache}; run without --shard to score.")
    else:
        print(f"{len(frame)} scores are in {out / SCORES_FILE}; 'bdkit table {out}' makes the table.")
    return 0


def run_edits(benchmark: str, folder: Path | None, args: argparse.Namespace) -> int:
    """Writes scores.csv of edited images, or problems.csv when something is wrong with them."""
    for name in given_fields(ScoreConfig, args):
        if name not in (*OF_EDITS, *OF_BENCHMARK[benchmark]):
            raise InputError(f"--benchmark {benchmark} has no {flag_of(name)}; leave it out")
    config = config_from_args(ScoreConfig, args)
    if folder is None:
        raise InputError(f"--benchmark-dir is missing: give {benchmark}'s published folder")
    if config.out is None:
        raise InputError("--out is missing: give a folder for the scores")
    check_writable(config.out)
    if not config.images.is_dir():
        raise InputError(f"{config.images} is not a folder; give the folder of the edited images")

    from bdkit.utils.env import pick_device
    from eval.score.editing.score import LOADERS, EditScoreOptions, score_edits
    from eval.score.features import default_cache

    more = {name: getattr(config, name) for name in OF_BENCHMARK[benchmark]}
    loaded = LOADERS[benchmark](folder, metrics=config.metrics, device=pick_device(), source=_weights(config), **more)
    options = EditScoreOptions(
        method=config.method,
        allow_missing=config.allow_missing,
        ignore_surplus=config.ignore_surplus,
        cache=None if config.no_cache else config.cache or default_cache(),
    )
    frame = score_edits(loaded, config.images, config.out, options)
    scores = config.out / SCORES_FILE
    print(f"{len(frame)} scores are in {scores}; 'bdkit table {config.out} --published' makes the table.")
    return 0


def _weights(config: ScoreConfig) -> "WeightsSource":
    from eval.score.weights import WeightsSource

    files = {"dino": config.dino_weights, "clip": config.clip_weights}
    return WeightsSource(files=tuple((name, path) for name, path in files.items() if path), offline=config.offline)


def _is_results_dir(config: ScoreConfig) -> bool:
    """Whether a results folder of bdkit is scored where it is."""
    plain = config.manifest is None and config.tree == "auto" and config.method is None
    return plain and config.out in (None, config.images) and (config.images / SUITE_FILE).exists()


def _prepare(suite: Suite, out: Path) -> None:
    """Writes the suite, and the references of a procedural one, into OUT."""
    save_suite(suite, out)
    if suite.source == "procedural":
        # only these need the mini world
        from eval.generate.references import prepare

        prepare(suite, out)


def _suite(config: ScoreConfig) -> Suite:
    if config.suite is not None:
        return load_suite(config.suite, config.photos)
    if config.out is not None and not (config.images / SUITE_FILE).exists() and config.images.is_dir():
        raise InputError(f"--suite is missing: name the suite of the images in {config.images}")
    return load_saved_suite(config.images)


def _protocol(images: Path, suite: Suite) -> str:
    """The protocol that a results folder was scored with before, or that fits what made it."""
    record = read_run(images)
    stated = record.get("scoring", {}).get("protocol")
    if stated is not None or "model" in record or suite.source == "procedural":
        return str(stated or protocol_of(BenchConfig(model=record.get("model", "")), suite))
    return DEFAULT
