"""`bdkit score IMAGES`: scores the images of a folder, whoever made them."""

import argparse
from pathlib import Path

from bdkit.utils.env import pick_device
from bdkit.utils.errors import InputError
from dreambench.suites import KNOWN_SUITES, Suite, load_suite
from eval.experiments import BenchConfig, protocol_of
from eval.generate.references import prepare
from eval.generate.tasks import parse_shard
from eval.results_dir import SUITE_FILE, load_saved_suite, read_run, save_suite
from eval.score.cache import default_cache
from eval.score.checkpoints import WeightsSource
from eval.score.extras import ExtraOptions
from eval.score.images import LAYOUTS, read_images
from eval.score.protocols import DEFAULT, DEFAULT_TOKEN, PROTOCOLS, find_protocol
from eval.score.score import SCORES_FILE, ScoreOptions, load_evaluators, score_folder, score_images
from eval.score.score_shards import FOLDER


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the folder, how it is laid out, what it answers, and how to score it."""
    parser.add_argument("pictures", type=Path, help="a results folder of bdkit, or any other folder of images")
    parser.add_argument(
        "--suite", help=f"what the images answer ({', '.join(KNOWN_SUITES)}); default: the folder's own"
    )
    parser.add_argument("--photos", type=Path, help="folder of the suite's photos")
    parser.add_argument(
        "--protocol", help=f"{', '.join(PROTOCOLS)}; 'bdkit protocols' tells them apart (default: the folder's own)"
    )
    parser.add_argument("--out", type=Path, help="folder for the scores (default: the images' folder)")
    parser.add_argument(
        "--manifest", type=Path, metavar="CSV", help="path, method, subject, prompt_index, sample[, seed_set]"
    )
    parser.add_argument("--layout", default="auto", help=f"how the folder is laid out: auto, {', '.join(LAYOUTS)}")
    parser.add_argument(
        "--method", metavar="NAME", help="the method, where the folders do not say (default: IMAGES' name)"
    )
    parser.add_argument("--metrics", metavar="A,B", help="optional metrics beside the standard ones, such as dinov2")
    parser.add_argument(
        "--masks", metavar="DIR", help="the subjects' masks, for metrics of a part of the image; clipseg: find them"
    )
    parser.add_argument("--sources", type=Path, metavar="DIR", help="what edits were made from, for metrics of edits")
    parser.add_argument("--allow-missing", action="store_true", help="means over fewer images; tables then say n/N")
    parser.add_argument(
        "--ignore-surplus", action="store_true", help="pass over images that the suite has no place for"
    )
    parser.add_argument(
        "--dino-weights", type=Path, metavar="FILE", help="DINO's weights (default: $BDKIT_WEIGHTS_DIR, hub)"
    )
    parser.add_argument("--clip-weights", type=Path, metavar="FILE", help="CLIP's weights")
    parser.add_argument("--offline", action="store_true", help="never ask the Hugging Face hub")
    parser.add_argument(
        "--token", default=DEFAULT_TOKEN, help="the method's token, for texts that have it (default: sks)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes that decode images, 0 for none")
    parser.add_argument("--shard", metavar="I/N", help="score part I of N alone; 'bdkit merge' joins the parts' scores")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="folder of embeddings for other runs to use again")
    parser.add_argument("--no-cache", action="store_true", help="keep no embeddings for other runs")


def run(args: argparse.Namespace) -> int:
    """Writes scores.csv and scores.parquet, of a shard shards/, or problems.csv when there is something wrong with the
    images.
    """
    out = args.out or args.pictures
    suite = _suite(args)
    rules = find_protocol(args.protocol or _protocol(args.pictures, suite))
    shard = parse_shard(args.shard)
    # before anything is written, and before hours of scoring
    found = (
        None
        if _is_own(args)
        else read_images(
            args.pictures, rules.apply_to(suite), layout=args.layout, manifest=args.manifest, method=args.method
        )
    )
    evaluators = load_evaluators(rules.name, pick_device(), _source(args), _names(args.metrics))
    options = ScoreOptions(
        allow_missing=args.allow_missing,
        ignore_surplus=args.ignore_surplus,
        workers=args.workers,
        cache=None if args.no_cache else args.cache or default_cache(),
        token=args.token,
        shard=shard,
        extras=ExtraOptions(masks=args.masks, sources=args.sources),
    )
    if found is None:
        frame = score_folder(out, evaluators, photos=args.photos, options=options)
    else:
        if suite.source == "procedural":
            prepare(suite, out, args.photos)
        else:
            save_suite(suite, out)
        frame = score_images(found, suite, evaluators, out, photos=args.photos, options=options)
    if shard[1] > 1:
        print(
            f"{len(frame)} scores, those of shard {args.shard}, are in {out / FOLDER}. When all shards are done: "
            "'bdkit merge FOLDERS --out OUT' with the folders that they are in, were it one."
        )
        return 0
    print(f"{len(frame)} scores are in {out / SCORES_FILE}; 'bdkit table {out}' makes the table.")
    return 0


def _is_own(args: argparse.Namespace) -> bool:
    """Whether a results folder of bdkit is scored where it is."""
    plain = args.manifest is None and args.layout == "auto" and args.method is None
    return plain and args.out in (None, args.pictures) and (args.pictures / SUITE_FILE).exists()


def _suite(args: argparse.Namespace) -> Suite:
    if args.suite is not None:
        return load_suite(args.suite, args.photos)
    if args.out is not None and not (args.pictures / SUITE_FILE).exists() and args.pictures.is_dir():
        raise InputError(f"--suite is missing: which suite do the images in {args.pictures} answer?")
    return load_saved_suite(args.pictures)


def _protocol(pictures: Path, suite: Suite) -> str:
    """The protocol that a results folder was scored with before, or that fits what made it."""
    record = read_run(pictures)
    stated = record.get("scoring", {}).get("protocol")
    if stated is not None or "model" in record or suite.source == "procedural":
        return str(stated or protocol_of(BenchConfig(model=record.get("model", "")), suite))
    return DEFAULT


def _source(args: argparse.Namespace) -> WeightsSource:
    files = {"dino": args.dino_weights, "clip": args.clip_weights}
    return WeightsSource(files=tuple((name, path) for name, path in files.items() if path), offline=args.offline)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())
