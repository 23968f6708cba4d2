"""How fast `bdkit score` is, beside what people write themselves, on the same images and weights.

    python benchmarks/scoring.py --photos DIR         # 3,000 images, peers on 60 of them
    python benchmarks/scoring.py --photos DIR --images 300 --peer-images 10 --linearity 150,300

The job is the whole one: DINO, CLIP-I and CLIP-T of PNGs of 512 pixels against the real photos. Weights are random:
that changes the figures, not the time. Each measurement is a process of its own, timed from the loaded networks to the
last score. Peers are measured on fewer images, and their time is given for an image; what they need to embed the
references once is not counted, because it is little in the whole job.

    ours             `score_images`: checked, decoded in workers, each image once through each network
    ours, again      the same with another protocol, from the cache
    torchmetrics     CLIPScore.update for each image with its text and with its references; DINO once an image
    per-pair loop    every pair opened, transformed and embedded, as in many public scripts
    embed-once loop  no pair twice, but one image at a time: what a careful person writes

Measurements are kept in --work: a stopped run goes on by the same command. Time grows linearly with the images, from
what the references and texts take; the line fitted to the measurements and the largest deviation from it are printed.

torchmetrics (`pip install 'bdkit[benchmarks]'`) is given our CLIP by an adapter, because its own loading of
transformers' CLIP depends on their versions; without it the same loop is run without the package, and is so named.
"""

import argparse
import io
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import timm
import torch
from PIL import Image, ImageEnhance
from safetensors.torch import save_file
from scoring_peers import MAX_PROMPTS, METHOD, Peers, has_torchmetrics

from bdkit.utils.images import read_image
from bdkit.utils.io import write_bytes, write_json
from dreambench.photos import photo_paths
from dreambench.registry import load_suite
from dreambench.suites import Suite
from eval.score.encoders import Evaluators
from eval.score.images import read_images
from eval.score.score import ScoreOptions, score_images
from eval.score.weights import WeightsSource, load_evaluators

SIDE = 512
DRAWN = 12
MAX_SAMPLES = 6


def suite_of(n_images: int, subjects: int | None = None) -> Suite:
    """All 30 subjects, or fewer, with as many prompts and samples as come nearest to a number of images."""
    whole = load_suite("dreambench").limited(subjects=subjects)
    sizes = [(prompts, samples) for samples in range(1, MAX_SAMPLES + 1) for prompts in range(1, MAX_PROMPTS + 1)]
    prompts, samples = min(sizes, key=lambda size: (abs(size[0] * size[1] * len(whole.subjects) - n_images), size[1]))
    return replace(whole.limited(prompts=prompts), samples_per_prompt=samples)


def make_images(suite: Suite, photos: Path, folder: Path) -> None:
    """PNGs of 512 pixels from the photos, no two files alike, where they are not there yet.

    Of a subject DRAWN are drawn; the others are these with a comment inside, which makes them files of their own to
    everything that reads them: hashed, decoded and embedded each.
    """
    for subject in suite.subjects:
        places = [(prompt, sample) for prompt in suite.prompts(subject) for sample in range(suite.samples_per_prompt)]
        paths = [folder / METHOD / subject.name / f"{prompt.index:02d}-{sample}.png" for prompt, sample in places]
        if all(path.exists() for path in paths):
            continue
        images = [read_image(path) for path in photo_paths(photos, subject)]
        squares = [image.resize((SIDE + 64, SIDE + 64), Image.Resampling.LANCZOS) for image in images]
        drawn: list[bytes] = []
        for number, path in enumerate(paths):
            if path.exists():
                data = path.read_bytes()
            elif number < DRAWN:
                left, top = (7 * number) % 64, (13 * number) % 64
                square = squares[number % len(squares)].crop((left, top, left + SIDE, top + SIDE))
                buffer = io.BytesIO()
                ImageEnhance.Color(square).enhance(0.5 + number / 100).save(buffer, "PNG")
                data = buffer.getvalue()
            else:
                data = drawn[number % DRAWN]
            if number < DRAWN:
                drawn.append(data)
            if not path.exists():
                write_bytes(with_comment(data, f"{subject.name} {path.stem}"), path)


def with_comment(png: bytes, text: str) -> bytes:
    """A PNG with a text chunk before its end."""
    chunk = b"tEXtComment\0" + text.encode()
    end = len(png) - 12
    return png[:end] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[end:]


def make_weights(folder: Path) -> None:
    """Random weights of both networks, as files."""
    torch.manual_seed(0)
    made = {
        "dino": timm.create_model("vit_small_patch16_224.dino", pretrained=False, num_classes=0),
        "clip": open_clip.create_model("ViT-B-32-quickgelu", pretrained=None),
    }
    for name, network in made.items():
        state = {key: value.contiguous() for key, value in network.state_dict().items()}
        save_file(state, folder / f"{name}.safetensors")


def load(folder: Path, protocol: str = "dreambench") -> Evaluators:
    """The networks with those weights."""
    files = tuple((name, folder / f"{name}.safetensors") for name in ("dino", "clip"))
    return load_evaluators(protocol, "cpu", WeightsSource(files=files, offline=True))


def ours(job: "Job") -> None:
    """Everything that `bdkit score` does, with an empty cache or a filled one."""
    tree = read_images(job.work / "images", job.suite, tree="tree")
    names = {subject.name: {prompt.index for prompt in job.suite.prompts(subject)} for subject in job.suite.subjects}
    wanted = tuple(
        image
        for image in tree.images
        if image.id.prompt in names[image.id.subject] and image.id.sample < job.suite.samples_per_prompt
    )
    options = ScoreOptions(workers=job.workers, cache=job.cache)
    score_images(
        replace(tree, images=wanted, unknown=()), job.suite, job.evaluators, job.out, photos=job.photos,
        options=options, show_progress=False,
    )  # fmt: skip


class Job:
    """What one measurement is of."""

    def __init__(self, args: argparse.Namespace, protocol: str = "dreambench") -> None:
        self.work, self.photos, self.n_images, self.workers = args.work, args.photos, args.images, args.workers
        self.suite = suite_of(args.of, args.subjects)
        self.evaluators = load(args.work, protocol)
        self.cache, self.out = args.work / f"cache-{args.of}", args.work / f"out-{args.of}"


def peak_kilobytes() -> int:
    """Of this process since its start; ru_maxrss would count its parent's memory too, which it had before exec."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(args: argparse.Namespace) -> None:
    """One measurement, as JSON: in the child process."""
    job = Job(args, "clip-t-x100" if args.what == "again" else "dreambench")
    peers = Peers(job)
    run: dict[str, Callable[[], None]] = {
        "ours": lambda: ours(job),
        "again": lambda: ours(job),
        "torchmetrics": peers.torchmetrics,
        "per-pair": peers.per_pair,
        "embed-once": peers.embed_once,
    }
    if args.what == "ours":
        # what a run before this one left there would make it "again"
        for folder in (job.cache, job.out):
            shutil.rmtree(folder, ignore_errors=True)
    started, processor = time.perf_counter(), time.process_time()
    run[args.what]()
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    seconds -= peers.reference_seconds
    processor += resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    count = job.suite.n_images if args.what in ("ours", "again") else len(peers.pairs)
    peak = peak_kilobytes() / 1024
    print(json.dumps({"images": count, "seconds": seconds, "cpu_seconds": processor, "peak_mb": peak}))


def child(args: argparse.Namespace, what: str, of: int, n_images: int) -> dict[str, float]:
    """One measurement in a process of its own; one that --work has already is shown again."""
    done_file = args.work / f"measured-{what}-{of}-{n_images}-{args.subjects}-{args.workers}.json"
    if done_file.exists():
        found = json.loads(done_file.read_text(encoding="utf-8"))
        show(what, found, " (measured before)")
        return dict(found)
    command = [sys.executable, __file__, "--what", what, "--of", str(of), "--images", str(n_images)]
    command += ["--photos", str(args.photos), "--work", str(args.work)]
    command += [] if args.workers is None else ["--workers", str(args.workers)]
    command += [] if args.subjects is None else ["--subjects", str(args.subjects)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ)
    found = json.loads(done.stdout.splitlines()[-1])
    found["per_second"] = found["images"] / found["seconds"]
    write_json(found, done_file)
    show(what, found)
    return dict(found)


def show(what: str, found: dict[str, float], more: str = "") -> None:
    """A line of the table."""
    name = f"{what}, {int(found['images'])} images"
    print(
        f"{name:32} {found['seconds']:8.1f} s  {found['per_second']:7.2f} images/s  "
        f"{found['cpu_seconds']:8.1f} CPU s  {found['peak_mb']:6.0f} MB{more}",
        flush=True,
    )


def fit_line(lines: dict[int, dict[str, float]]) -> tuple[float, float, float]:
    """Seconds before the first image (references, texts), seconds an image, and the largest relative deviation of a
    measurement from that line, which is fitted to relative errors.
    """
    counts = np.array([line["images"] for line in lines.values()])
    seconds = np.array([line["seconds"] for line in lines.values()])
    sides = np.stack([np.ones_like(counts), counts], axis=1) / seconds[:, None]
    (start, each), *_ = np.linalg.lstsq(sides, np.ones_like(seconds), rcond=None)
    return float(start), float(each), float(np.abs((start + each * counts) / seconds - 1).max())


def main() -> None:
    """Makes images and weights once, measures, and prints a table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of the DreamBench photos")
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--peer-images", type=int, default=60, help="how many of them the peers score")
    parser.add_argument("--linearity", default="500,1000,2000,4000", help="numbers of images; empty for none")
    parser.add_argument("--subjects", type=int, help="of so many subjects only, for a quick look")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--work", type=Path, help="folder for images, weights and caches (default: a temporary one)")
    parser.add_argument("--json", type=Path, help="write the measurements there too")
    parser.add_argument("--what", help=argparse.SUPPRESS)
    parser.add_argument("--of", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.what:
        measure(args)
        return
    with tempfile.TemporaryDirectory() as temporary:
        args.work = args.work or Path(temporary)
        args.work.mkdir(parents=True, exist_ok=True)
        sizes = [int(size) for size in args.linearity.split(",") if size]
        if not (args.work / "clip.safetensors").exists():
            make_weights(args.work)
        for size in {args.images, *sizes}:
            make_images(suite_of(size, args.subjects), args.photos, args.work / "images")
        print(f"{os.cpu_count()} processors, torch {torch.__version__} with {torch.get_num_threads()} threads")
        print("torchmetrics' own CLIPScore" if has_torchmetrics() else "no torchmetrics: its loop without the package")
        found = {what: child(args, what, args.images, args.images) for what in ("ours", "again")}
        for what in ("torchmetrics", "per-pair", "embed-once"):
            found[what] = child(args, what, args.images, args.peer_images)
        for what, other in found.items():
            print(f"ours is {found['ours']['per_second'] / other['per_second']:6.2f} x {what}")
        lines = {size: child(args, "ours", size, size) for size in sizes if size != args.images}
        lines[args.images] = found["ours"]
        each = {size: line["seconds"] / line["images"] for size, line in sorted(lines.items())}
        line: dict[str, float] = {}
        if sizes:
            print("seconds an image:", ", ".join(f"{size}: {value:.4f}" for size, value in each.items()))
            line = dict(zip(("start_seconds", "seconds_an_image", "largest_deviation"), fit_line(lines), strict=True))
            print(
                f"time = {line['start_seconds']:.1f} s + {line['seconds_an_image']:.4f} s an image; "
                f"every measurement within {line['largest_deviation']:.1%}"
            )
            print("peak memory:", ", ".join(f"{size}: {lines[size]['peak_mb']:.0f} MB" for size in sorted(lines)))
        if args.json:
            write_json({**found, "linearity": lines, "line": line, "processors": os.cpu_count()}, args.json)


if __name__ == "__main__":
    main()
