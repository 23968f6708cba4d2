"""How fast `bdkit score` is, beside what people write themselves, on the same pictures and weights.

    python benchmarks/scoring.py --photos DIR         # 3,000 pictures, peers on 60 of them
    python benchmarks/scoring.py --photos DIR --pictures 300 --peer-pictures 10 --linearity 150,300

The job is the whole one: DINO, CLIP-I and CLIP-T of PNGs of 512 pixels against the real photos. Weights are random:
that changes the figures, not the time. Each measurement is a process of its own, timed from the loaded networks to the
last score. Peers are measured on fewer pictures, and their time is given for a picture; what they need to embed the
references once is not counted, because it is little in the whole job.

    ours             `score_pictures`: checked, decoded in workers, each picture once through each network
    ours, again      the same with another protocol, from the cache
    torchmetrics     CLIPScore.update for each picture with its text and with its references; DINO once a picture
    per-pair loop    every pair opened, transformed and embedded, as in many public scripts
    embed-once loop  no pair twice, but one picture at a time: what a careful person writes

torchmetrics (`pip install 'bdkit[benchmarks]'`) is given our CLIP by an adapter, because its own loading of
transformers' CLIP depends on their versions; without it the same loop is run without the package, and is so named.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch
from PIL import Image, ImageEnhance
from safetensors.torch import save_file
from torch.nn.functional import normalize

from dreambench.photos import photo_paths
from dreambench.pictures import read_picture
from dreambench.suites import Suite, load_suite
from eval.checkpoints import WeightsSource
from eval.evaluators import Evaluators, load_evaluators
from eval.manifest import read_pictures
from eval.preprocessing import to_batch
from eval.score import ScoreOptions, score_pictures

SIDE = 512
MAX_PROMPTS, MAX_SAMPLES = 25, 6
METHOD = "made"


def suite_of(pictures: int, subjects: int | None = None) -> Suite:
    """All 30 subjects, or fewer, with as many prompts and samples as come nearest to a number of pictures."""
    whole = load_suite("dreambench").limited(subjects=subjects)
    sizes = [(prompts, samples) for samples in range(1, MAX_SAMPLES + 1) for prompts in range(1, MAX_PROMPTS + 1)]
    prompts, samples = min(sizes, key=lambda size: (abs(size[0] * size[1] * len(whole.subjects) - pictures), size[1]))
    return replace(whole.limited(prompts=prompts), samples_per_prompt=samples)


def make_pictures(suite: Suite, photos: Path, folder: Path) -> None:
    """PNGs of 512 pixels from the photos, each different, where they are not there yet."""
    for subject in suite.subjects:
        images = [read_picture(path) for path in photo_paths(photos, subject)]
        squares = [image.resize((SIDE + 64, SIDE + 64), Image.Resampling.LANCZOS) for image in images]
        for number, (prompt, sample) in enumerate(
            (prompt, sample) for prompt in suite.prompts(subject) for sample in range(suite.samples_per_prompt)
        ):
            path = folder / METHOD / subject.name / f"{prompt.index:02d}-{sample}.png"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                left, top = (7 * number) % 64, (13 * number) % 64
                square = squares[number % len(squares)].crop((left, top, left + SIDE, top + SIDE))
                ImageEnhance.Color(square).enhance(0.5 + number / 100).save(path)


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
    found = read_pictures(job.work / "pictures", job.suite, layout="tree")
    names = {subject.name: {prompt.index for prompt in job.suite.prompts(subject)} for subject in job.suite.subjects}
    wanted = tuple(
        picture
        for picture in found.pictures
        if picture.prompt in names[picture.subject] and picture.sample < job.suite.samples_per_prompt
    )
    options = ScoreOptions(workers=job.workers, cache=job.cache)
    score_pictures(
        replace(found, pictures=wanted), job.suite, job.evaluators, job.out, photos=job.photos, options=options,
        show_progress=False,
    )  # fmt: skip


class Peers:
    """What people write: one picture at a time."""

    def __init__(self, job: "Job") -> None:
        self.dino, self.clip = job.evaluators.encoders["dino"], job.evaluators.encoders["clip"]
        self.pairs = [
            (job.work / f"pictures/{METHOD}/{subject.name}/{prompt.index:02d}-{sample}.png",
             photo_paths(job.photos, subject), prompt.text(subject.class_noun))
            for sample in range(job.suite.samples_per_prompt)
            for number in range(MAX_PROMPTS)
            for subject in job.suite.subjects
            for prompt in job.suite.prompts(subject)[number : number + 1]
        ][: job.pictures]  # fmt: skip
        self.reference_seconds = 0.0
        self.known: dict[tuple[str, Path], torch.Tensor] = {}

    def once(self, encoder: Any, path: Path) -> torch.Tensor:
        """A reference's embedding, made the first time; the time is not the job's."""
        started = time.perf_counter()
        if (encoder.name, path) not in self.known:
            self.known[encoder.name, path] = self.embed(encoder, path)
        self.reference_seconds += time.perf_counter() - started
        return self.known[encoder.name, path]

    @torch.inference_mode()
    def embed(self, encoder: Any, path: Path) -> torch.Tensor:
        """One picture, from the file."""
        return normalize(encoder.features(to_batch([read_picture(path)], encoder.how)), dim=1)[0]

    @torch.inference_mode()
    def embed_text(self, text: str) -> torch.Tensor:
        """One text."""
        return normalize(self.clip.network.encode_text(self.clip.tokenizer([text])), dim=1)[0]

    def per_pair(self) -> None:
        """Both pictures of every pair."""
        for path, references, text in self.pairs:
            for encoder in (self.dino, self.clip):
                np.mean([float(self.embed(encoder, path) @ self.embed(encoder, other)) for other in references])
            float(self.embed(self.clip, path) @ self.embed_text(text))

    def embed_once(self) -> None:
        """Every picture and text once."""
        texts: dict[str, torch.Tensor] = {}
        for path, references, text in self.pairs:
            for encoder in (self.dino, self.clip):
                own = self.embed(encoder, path)
                np.mean([float(own @ self.once(encoder, other)) for other in references])
            if text not in texts:
                texts[text] = self.embed_text(text)
            float(own @ texts[text])

    def torchmetrics(self) -> None:
        """CLIPScore for CLIP-T and CLIP-I, DINO once a picture."""
        update = clip_score(self.clip)
        for path, references, text in self.pairs:
            image = torch.from_numpy(np.asarray(read_picture(path)).copy()).permute(2, 0, 1)
            update(image, text)
            others = [torch.from_numpy(np.asarray(read_picture(other)).copy()).permute(2, 0, 1) for other in references]
            update([image] * len(others), others)
            own = self.embed(self.dino, path)
            np.mean([float(own @ self.once(self.dino, other)) for other in references])


class _Model(torch.nn.Module):
    """Our CLIP as torchmetrics calls transformers' one."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.network = clip.network
        self.config = argparse.Namespace(text_config=argparse.Namespace(max_position_embeddings=77))

    def get_image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.network.encode_image(pixels)

    def get_text_features(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.network.encode_text(tokens)


class _Processor:
    def __init__(self, clip: Any) -> None:
        self.clip = clip

    def __call__(self, text: Any = None, images: Any = None, **_: Any) -> dict[str, torch.Tensor]:
        if images is not None:
            pictures = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in images]
            return {"pixel_values": to_batch(pictures, self.clip.how)}
        tokens = self.clip.tokenizer(text)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def clip_score(clip: Any) -> Callable[[Any, Any], None]:
    """torchmetrics' update, or the same without the package."""
    try:
        from torchmetrics.multimodal import CLIPScore
    except ImportError:
        model, processor = _Model(clip), _Processor(clip)

        @torch.inference_mode()
        def update(source: Any, target: Any) -> None:
            features = []
            for side in (source, target):
                side = side if isinstance(side, list) else [side]
                if isinstance(side[0], str):
                    found = processor(text=side)
                    features.append(model.get_text_features(found["input_ids"], found["attention_mask"]))
                else:
                    features.append(model.get_image_features(processor(images=side)["pixel_values"]))
            (100 * (normalize(features[0], dim=1) * normalize(features[1], dim=1)).sum(dim=1)).sum()

        return update
    metric = CLIPScore(model_name_or_path=lambda: (_Model(clip), _Processor(clip)))
    return torch.inference_mode()(metric.update)


def has_torchmetrics() -> bool:
    """Whether the package is there."""
    try:
        import torchmetrics  # noqa: F401
    except ImportError:
        return False
    return True


class Job:
    """What one measurement is of."""

    def __init__(self, args: argparse.Namespace, protocol: str = "dreambench") -> None:
        self.work, self.photos, self.pictures, self.workers = args.work, args.photos, args.pictures, args.workers
        self.suite = suite_of(args.of, args.subjects)
        self.evaluators = load(args.work, protocol)
        self.cache, self.out = args.work / f"cache-{args.of}", args.work / f"out-{args.of}"


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
    started, processor = time.perf_counter(), time.process_time()
    run[args.what]()
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    seconds -= peers.reference_seconds
    processor += resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    count = job.suite.n_pictures if args.what in ("ours", "again") else len(peers.pairs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"pictures": count, "seconds": seconds, "cpu_seconds": processor, "peak_mb": peak}))


def child(args: argparse.Namespace, what: str, of: int, pictures: int) -> dict[str, float]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--what", what, "--of", str(of), "--pictures", str(pictures)]
    command += ["--photos", str(args.photos), "--work", str(args.work)]
    command += [] if args.workers is None else ["--workers", str(args.workers)]
    command += [] if args.subjects is None else ["--subjects", str(args.subjects)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    found["per_second"] = found["pictures"] / found["seconds"]
    name = f"{what}, {int(found['pictures'])} pictures"
    print(
        f"{name:32} {found['seconds']:8.1f} s  {found['per_second']:7.2f} pictures/s  "
        f"{found['cpu_seconds']:8.1f} CPU s  {found['peak_mb']:6.0f} MB",
        flush=True,
    )
    return found


def main() -> None:
    """Makes pictures and weights once, measures, and prints a table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of the DreamBench photos")
    parser.add_argument("--pictures", type=int, default=3000)
    parser.add_argument("--peer-pictures", type=int, default=60, help="how many of them the peers score")
    parser.add_argument("--linearity", default="500,1000,2000,4000", help="numbers of pictures; empty for none")
    parser.add_argument("--subjects", type=int, help="of so many subjects only, for a quick look")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--work", type=Path, help="folder for pictures, weights and caches (default: a temporary one)")
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
        for size in {args.pictures, *sizes}:
            make_pictures(suite_of(size, args.subjects), args.photos, args.work / "pictures")
        print(f"{os.cpu_count()} processors, torch {torch.__version__} with {torch.get_num_threads()} threads")
        print("torchmetrics' own CLIPScore" if has_torchmetrics() else "no torchmetrics: its loop without the package")
        found = {what: child(args, what, args.pictures, args.pictures) for what in ("ours", "again")}
        for what in ("torchmetrics", "per-pair", "embed-once"):
            found[what] = child(args, what, args.pictures, args.peer_pictures)
        for what, other in found.items():
            print(f"ours is {found['ours']['per_second'] / other['per_second']:6.2f} x {what}")
        lines = {size: child(args, "ours", size, size) for size in sizes if size != args.pictures}
        lines[args.pictures] = found["ours"]
        each = {size: line["seconds"] / line["pictures"] for size, line in sorted(lines.items())}
        if sizes:
            print("seconds a picture:", ", ".join(f"{size}: {value:.4f}" for size, value in each.items()))
        if args.json:
            args.json.write_text(json.dumps({**found, "linearity": lines}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
