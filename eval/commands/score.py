"""`bdkit score IMAGES`: scores the images of a folder, whoever made them.

examples:
  bdkit score results/mini-quick
  bdkit score outputs/mine --suite dreambench --photos dreambooth/dataset --out scores/mine
  bdkit score outputs/mine --suite dreambench --out scores/mine --tree prompt-folders --protocol clip-score
"""

import argparse
from pathlib import Path

from bdkit.utils.errors import InputError
from dreambench.registry import KNOWN_SUITES, load_suite
from dreambench.suites import Suite
from eval.experiments import BenchConfig, protocol_of
from eval.generate.tasks import parse_shard
from eval.results_dir import SCORES_FILE, SUITE_FILE, load_saved_suite, read_run, save_suite
from eval.score.images import TREES, read_images
from eval.score.protocols import DEFAULT, DEFAULT_TOKEN, PROTOCOLS, find_protocol


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the folder, its tree, its suite, and how to score it."""
    parser.add_argument("images", type=Path, help="a results folder of bdkit, or any other folder of images")
    parser.add_argument(
        "--suite", help=f"the suite of the images ({', '.join(KNOWN_SUITES)}); default: the folder's own"
    )
    parser.add_argument("--photos", type=Path, help="folder of the suite's photos")
    parser.add_argument(
        "--protocol", help=f"{', '.join(PROTOCOLS)}; 'bdkit protocols' tells them apart (default: the folder's own)"
    )
    parser.add_argument("--out", type=Path, help="folder for the scores (default: the images' folder)")
    parser.add_argument(
        "--manifest", type=Path, metavar="CSV", help="path, method, subject, prompt_index, sample[, seed_set]"
    )
    parser.add_argument("--tree", default="auto", help=f"how the images lie: auto, {', '.join(TREES)} (default: auto)")
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
    parser.add_argument("--workers", type=int, metavar="N", help="processes that read images, 0 for none")
    parser.add_argument(
        "--shard", metavar="I/N", help="only embed part I of N into the cache; the same command without it then scores"
    )
    parser.add_argument("--cache", type=Path, metavar="DIR", help="folder of embeddings for other runs to use again")
    parser.add_argument("--no-cache", action="store_true", help="keep no embeddings for other runs")


def run(args: argparse.Namespace) -> int:
    """Writes scores.csv and scores.parquet, of a shard only the cache, or problems.csv when something is wrong with the
    images.
    """
    from bdkit.utils.env import pick_device
    from eval.score.features import default_cache
    from eval.score.score import ScoreOptions, load_evaluators, score_folder, score_images
    from eval.score.weights import WeightsSource

    out = args.out or args.images
    suite = _suite(args)
    protocol = find_protocol(args.protocol or _protocol(args.images, suite))
    shard = parse_shard(args.shard)
    # before anything is written, and before hours of scoring
    tree = None
    if not _is_results_dir(args):
        tree = read_images(
            args.images, protocol.apply_to(suite), tree=args.tree, manifest=args.manifest, method=args.method
        )
    files = {"dino": args.dino_weights, "clip": args.clip_weights}
    source = WeightsSource(files=tuple((name, path) for name, path in files.items() if path), offline=args.offline)
    names = tuple(name.strip() for name in (args.metrics or "").split(",") if name.strip())
    evaluators = load_evaluators(protocol.name, pick_device(), source, names)
    options = ScoreOptions(
        allow_missing=args.allow_missing,
        ignore_surplus=args.ignore_surplus,
        workers=args.workers,
        cache=None if args.no_cache else args.cache or default_cache(),
        token=args.token,
        shard=shard,
        masks=args.masks,
        sources=args.sources,
    )
    if tree is None:
        frame = score_folder(out, evaluators, photos=args.photos, options=options)
    else:
        _prepare(suite, out)
        frame = score_images(tree, suite, evaluators, out, photos=args.photos, options=options)
    if shard[1] > 1:
        print(f"Shard {args.shard} is in the cache {options.cache}; run without --shard to score.")
    else:
        print(f"{len(frame)} scores are in {out / SCORES_FILE}; 'bdkit table {out}' makes the table.")
    return 0


def _is_results_dir(args: argparse.Namespace) -> bool:
    """Whether a results folder of bdkit is scored where it is."""
    plain = args.manifest is None and args.tree == "auto" and args.method is None
    return plain and args.out in (None, args.images) and (args.images / SUITE_FILE).exists()


def _prepare(suite: Suite, out: Path) -> None:
    """Writes the suite, and the references of a procedural one, into OUT."""
    save_suite(suite, out)
    if suite.source == "procedural":
        # only these need the mini world
        from eval.generate.references import prepare

        prepare(suite, out)


def _suite(args: argparse.Namespace) -> Suite:
    if args.suite is not None:
        return load_suite(args.suite, args.photos)
    if args.out is not None and not (args.images / SUITE_FILE).exists() and args.images.is_dir():
        raise InputError(f"--suite is missing: name the suite of the images in {args.images}")
    return load_saved_suite(args.images)


def _protocol(images: Path, suite: Suite) -> str:
    """The protocol that a results folder was scored with before, or that fits what made it."""
    record = read_run(images)
    stated = record.get("scoring", {}).get("protocol")
    if stated is not None or "model" in record or suite.source == "procedural":
        return str(stated or protocol_of(BenchConfig(model=record.get("model", "")), suite))
    return DEFAULT
