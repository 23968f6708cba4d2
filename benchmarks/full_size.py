"""Seconds and memory at full size, against the limit that the counted FLOPs set; random weights, one call.

python benchmarks/full_size.py             full size on the GPU, where there is one
python benchmarks/full_size.py --tiny      the same code at tiny shapes, to see that it works
"""

import argparse
import csv
import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel
from full_size_tasks import (
    STAGE2_BATCH,
    draw_text,
    draw_with_diffusers,
    preparing,
    scoring,
    stage2_flop,
    stage2_step,
)
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from bdkit.editing.structure_control import StructureControl
from bdkit.methods import build_method
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.configs import FULL, FULL_CONTROLNET, TINY, TINY_CONTROLNET, ModelConfig
from bdkit.models.latent_diffusion import latent_factor
from bdkit.models.speed import speed_up
from bdkit.testing.full_size import random_model
from bdkit.testing.measuring import measured
from bdkit.utils.env import commit, device_name, library_versions, pick_device
from bdkit.utils.io import write_atomically, write_text

BATCH = 3  # of fine-tuning (Sec. 3.3)
PASSES = 3  # a training step costs a forward pass and, backwards, twice as much


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    seconds: median over the repeats
    gib: most memory in use at a time (on a CPU: of the process so far)
    tflop: counted, without the optimiser; 0 where it is not counted
    limit_seconds: tflop at the speed of the device's matrix product
    of_limit: limit_seconds / seconds
    """

    task: str
    seconds: float
    gib: float
    tflop: float
    limit_seconds: float
    of_limit: float


def main(argv: list[str] | None = None) -> int:
    """Measures all tasks and writes full_size.csv and full_size.md."""
    args = parse(argv)
    device = torch.device(pick_device())
    sizes, controlnet = (TINY, TINY_CONTROLNET) if args.tiny else (FULL, FULL_CONTROLNET)
    counted = count(sizes, controlnet)
    speed = args.tflops or matrix_speed(device, args.tiny)
    source = "given" if args.tflops else "measured"
    side = sizes.defaults.resolution
    drawing, precision = precisions(device)
    about = {
        "device": device_name(),
        "matrix product": f"{speed:.3g} TFLOP/s, {source}",
        "pixels": f"{side} x {side}",
        "sizes": "tiny" if args.tiny else "full",
        "precision": f"drawing {drawing} with channels last, training float32 with {precision} autocast".replace(
            "torch.", ""
        ),
        "repeats": str(args.repeats),
        "commit": commit() or "unknown",
        **library_versions(),
    }
    rows: list[Row] = []
    with TemporaryDirectory() as folder:
        jobs = list_jobs(args, device, sizes, controlnet, counted, Path(folder))
        for job in tqdm(jobs, desc="measuring", disable=args.quiet):
            rows.append(measure(*job, speed, args.repeats))
            write(args.out, rows, about)  # what was measured is there, should a later task fail
    print((args.out / "full_size.md").read_text())
    return 0


Job = tuple[str, Callable[[], Any], float]
"""What is timed, a call of it, and its FLOPs (0: not counted)."""


def precisions(device: torch.device) -> tuple[torch.dtype, str]:
    """Weights while drawing, and autocast while training."""
    return (torch.bfloat16, "bf16") if device.type == "cuda" else (torch.float32, "no")


def list_jobs(
    args: argparse.Namespace,
    device: torch.device,
    sizes: ModelConfig,
    controlnet: dict[str, Any],
    counted: dict[str, float],
    folder: Path,
) -> Iterator[Job]:
    """The jobs in their order; the model is brought into the precision of a job just before it."""
    steps = (4, 8, 4) if args.tiny else (50, 100, 80)
    drawing, precision = precisions(device)
    model = random_model(sizes, device).eval().to(drawing)
    image = noise_image(model.resolution)
    flop = zero_shot_flop(counted, steps[0])
    for number in steps[:2]:
        yield f"zero-shot, {number} steps", partial(draw, model, image, number), zero_shot_flop(counted, number)
    text = flop - counted["multimodal_encoder"]
    yield f"text to image, {steps[0]} steps", partial(draw_text, model, steps[0]), text
    run = partial(draw_with_diffusers, model, steps[0])
    yield f"the same by diffusers' StableDiffusionPipeline, {steps[0]} steps", run, text
    draw_once = partial(draw, model, image, steps[0])
    for part in (model.unet, model.vae):
        part.to(memory_format=torch.contiguous_format)
    yield f"zero-shot without channels last, {steps[0]} steps", draw_once, flop
    speed_up(model, channels_last=True)
    if args.compile:
        speed_up(model, compiled=True)
        yield f"zero-shot compiled, {steps[0]} steps", draw_once, flop
        del run, draw_once  # they hold the compiled model
        model = random_model(sizes, device).eval().to(drawing)
    if drawing is not torch.float32:
        yield f"zero-shot in float32, {steps[0]} steps", partial(draw, model.float(), image, steps[0]), flop
        model.to(drawing)
    with device:
        control = StructureControl(ControlNetModel(**controlnet), image)
    run = partial(draw, model, image, steps[0], control)
    yield f"zero-shot with a ControlNet, {steps[0]} steps", run, zero_shot_flop(counted, steps[0], control=True)
    control.nets.to("cpu")
    model.float()
    flop = steps[2] * BATCH * PASSES * counted["unet"]
    yield f"{steps[2]} fine-tuning steps at batch {BATCH}", partial(fine_tune, model, steps[2], precision), flop
    step = stage2_step(model, torch.bfloat16 if precision == "bf16" else None)
    yield f"a stage-2 step at batch {STAGE2_BATCH}", step, stage2_flop(counted, PASSES)
    del step, model
    number = 4 if args.tiny else 64
    run, flop = scoring(number, sizes.defaults.resolution, str(device), args.tiny)
    yield f"scoring {number} images", run, flop
    number = 2 if args.tiny else 8
    yield f"prepare {number} images on one core", preparing(number, sizes.defaults.resolution, folder), 0.0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/full-size"), help="folder for the table")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes: shows that it works, measures nothing")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each task, after one to warm up")
    parser.add_argument("--tflops", type=float, help="the device's TFLOP/s, instead of measuring a matrix product")
    parser.add_argument("--compile", action="store_true", help="also draw with torch.compile (minutes more)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(argv)


def count(sizes: ModelConfig, controlnet: dict[str, Any]) -> dict[str, float]:
    """FLOPs of one forward pass of each part for one image, counted on the meta device."""
    model = random_model(sizes, "meta")
    with torch.device("meta"):
        net = ControlNetModel(**controlnet)
    side = model.resolution // latent_factor(model.vae)
    vision = model.multimodal_encoder.image_size
    length, width = model.text_encoder.max_length, sizes.text_encoder["hidden_size"]
    meta = {"device": "meta"}
    latents, states = torch.empty(1, 4, side, side, **meta), torch.empty(1, length, width, **meta)
    time_step = torch.empty(1, dtype=torch.long, **meta)
    encoder, words = model.multimodal_encoder, torch.zeros(1, 4, dtype=torch.long, **meta)
    subject, queries = torch.empty(1, 3, vision, vision, **meta), encoder.config.num_query_tokens
    both = queries + words.shape[1]
    mask = torch.ones(1, 1, both, both, dtype=torch.bool, **meta)
    pixels = torch.empty(1, 3, model.resolution, model.resolution, **meta)
    passes: dict[str, Callable[[], Any]] = {
        "unet": lambda: model.unet(latents, time_step, states),
        "controlnet": lambda: net(latents, time_step, states, pixels),
        "decode": lambda: model.vae.decode(latents),
        "encode": lambda: model.vae.encode(pixels),
        "image_encoder": lambda: encoder.encode_image(subject),
        "multimodal_encoder": lambda: encoder.projection(
            encoder.query(encoder.encode_image(subject), words, mask)[:, :queries]
        ),
        "text_encoder": lambda: model.text_encoder(torch.zeros(1, length, dtype=torch.long, **meta)),
    }
    counted = {}
    for name, run in passes.items():
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run()
        counted[name] = float(counter.get_total_flops())
    return counted


def zero_shot_flop(counted: dict[str, float], steps: int, *, control: bool = False) -> float:
    """One image with guidance by PNDM, which evaluates the U-Net once more than it has steps."""
    a_step = 2 * (counted["unet"] + (counted["controlnet"] if control else 0))
    return counted["multimodal_encoder"] + 2 * counted["text_encoder"] + (steps + 1) * a_step + counted["decode"]


def matrix_speed(device: torch.device, tiny: bool) -> float:
    """TFLOP/s of the device's own matrix product, in the precision that the drawing uses."""
    cuda = device.type == "cuda"
    side = 256 if tiny else 8192 if cuda else 2048
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16 if cuda else None) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        with measured() as once:
            left @ right
        best = min(best, once.seconds)
    return 2 * side**3 / best / 1e12


def draw(model: BlipDiffusion, image: Image.Image, steps: int, control: StructureControl | None = None) -> None:
    """One image, zero-shot."""
    model("a {} in the jungle", image, "dog", num_inference_steps=steps, guidance_scale=7.5, control=control)


def fine_tune(model: BlipDiffusion, steps: int, precision: str) -> None:
    """Few-step fine-tuning as in the preset "paper", the encoding of the images included."""
    method = build_method(
        "blip-diffusion", model, preset="paper", steps=steps, snapshots=(), mixed_precision=precision, batch_size=BATCH
    )
    method.fit([noise_image(model.resolution, seed) for seed in range(4)], "dog", 0)


def noise_image(side: int, seed: int = 0) -> Image.Image:
    """An image of noise; what an image shows does not change how long it takes."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def measure(task: str, run: Callable[[], Any], flop: float, speed: float, repeats: int) -> Row:
    """Times a task: once to warm up, then ``repeats`` times; what earlier runs left in memory is collected before."""
    run()
    times = []
    for _ in range(repeats):
        gc.collect()
        with measured() as once:
            run()
        times.append(once)
    median = float(np.median([once.seconds for once in times]))
    limit = flop / 1e12 / speed
    return Row(
        task=task,
        seconds=median,
        gib=max(once.gib for once in times),
        tflop=flop / 1e12,
        limit_seconds=limit,
        of_limit=limit / median,
    )


def write(folder: Path, rows: list[Row], about: dict[str, str]) -> None:
    """full_size.csv, with the device in every row, and full_size.md."""

    def as_csv(path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)] + list(about))
            writer.writeheader()
            writer.writerows({**asdict(row), **about} for row in rows)

    lines = [
        "| task | seconds | GiB | TFLOP | limit, seconds | share of the limit |",
        "|---|---|---|---|---|---|",
        *(
            f"| {r.task} | {r.seconds:.3g} | {r.gib:.2f} | {r.tflop:.3g} | {r.limit_seconds:.3g} | {r.of_limit:.0%} |"
            if r.tflop
            else f"| {r.task} | {r.seconds:.3g} | {r.gib:.2f} | - | - | - |"
            for r in rows
        ),
        "",
        "Random weights. The limit is the counted FLOPs at the speed of the device's matrix product.",
        "",
        *(f"- {name}: {value}" for name, value in about.items()),
    ]
    write_atomically(folder / "full_size.csv", as_csv)
    write_text("\n".join(lines) + "\n", folder / "full_size.md")


if __name__ == "__main__":
    sys.exit(main())
