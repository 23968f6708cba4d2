"""On paper: how long and how much, from seconds a task, an image and a step; every constant with its origin.

python benchmarks/scaling.py              the tables of docs/scaling.md
python benchmarks/scaling.py --price 2.5 --cores 16 --utilisation 0.4
"""

import argparse
import sys
from dataclasses import dataclass

GPUS = (1, 8, 256)
HOUR, DAY = 3600.0, 86400.0


@dataclass(frozen=True)
class Constant:
    """A number of the model, its unit and where it comes from ("measured", "counted" or "assumed", and how)."""

    value: float
    unit: str
    origin: str


CONSTANTS = {
    "peak": Constant(776, "TFLOP/s a GPU", "measured: full_size.py, an H100's bf16 matrix product"),
    "prepare": Constant(0.25, "CPU s an image", "measured: 60 DreamBench photos, 512 px, closed form, pretraining.md"),
    "clipseg": Constant(0.1, "TFLOP an image", "assumed: ViT-B/16 at 352 px and its decoder"),
    "decode224": Constant(0.0006, "CPU s an image", "measured: JPEG of 224 px, 32 KB, 12 photos, median of 9"),
    "decode512": Constant(0.0023, "CPU s an image", "measured: JPEG of 512 px, 129 KB, 12 photos, median of 9"),
    "png": Constant(0.053, "CPU s an image", "measured: writing a PNG of 512 px, 0.29 MB"),
    "unet": Constant(0.803, "TFLOP a pass", "counted: full_size.py, 64 x 64 latents"),
    "encode": Constant(1.117, "TFLOP an image", "counted: the VAE's encoder at 512 px"),
    "vision": Constant(0.155, "TFLOP an image", "counted: ViT-L/14 of 23 layers"),
    "qformer": Constant(0.014, "TFLOP an image", "counted: Q-Former and projection"),
    "text": Constant(0.013, "TFLOP a text", "counted: CLIP's text encoder, 77 tokens"),
    "draw": Constant(84.6, "TFLOP an image", "counted: zero-shot, 50 steps with guidance, decoded"),
    "finetune": Constant(578, "TFLOP a fit", "counted: 80 steps at batch 3"),
    "dreambooth": Constant(4819, "TFLOP a fit", "counted: 1,000 steps at batch 2 (subject and class), U-Net alone"),
    "score": Constant(0.315, "CPU s an image", "measured: docs/scoring.md, 3,000 images in 472 s on two cores"),
    "qformer_bytes": Constant(0.4e9, "bytes", "counted: 199 million parameters, bf16 gradients"),
    "features_bytes": Constant(17e3, "bytes an image", "counted: 32 queries and a text of 256 values, bf16"),
    "network": Constant(50e9, "bytes/s a GPU", "assumed: 400 Gb/s a GPU, ring all-reduce"),
    "disk": Constant(2e9, "bytes/s a node of 8 GPUs", "assumed: object store or NVMe"),
}


@dataclass(frozen=True)
class Assumptions:
    """What a reader may know better.

    utilisation: share of the peak that training reaches; on an H100 full_size.py measured 15% for a stage-2 step at
        batch 16
    small_utilisation: share that fits and drawing reach; measured there: 6% for fine-tuning at batch 3, 7% for drawing
        (15% compiled)
    cores: CPU cores beside each GPU
    price: dollars an hour of one GPU with its cores
    """

    utilisation: float = 0.15
    small_utilisation: float = 0.06
    cores: int = 16
    price: float = 2.5


def get(name: str) -> float:
    """A constant's value."""
    return CONSTANTS[name].value


def main(argv: list[str] | None = None) -> int:
    """Prints the constants and the tables as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in vars(Assumptions()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    given = Assumptions(**vars(parser.parse_args(argv)))
    print("| constant | value | unit | origin |\n|---|---|---|---|")
    for name, constant in CONSTANTS.items():
        print(f"| {name} | {constant.value:g} | {constant.unit} | {constant.origin} |")
    shares = f"{given.utilisation:.0%}, of fits and drawing {given.small_utilisation:.0%}"
    print(f"\nUtilisation {shares}; {given.cores} cores a GPU, ${given.price:g} a GPU-hour.\n")
    print("| job | GPUs | GPU | CPU cores | network or disk | time | $ | first bottleneck |")
    print("|---|---|---|---|---|---|---|---|")
    for job, parts in jobs(given).items():
        for gpus in GPUS:
            seconds = parts(gpus)
            longest = max(seconds, key=lambda name: seconds[name])
            total = seconds[longest]
            columns = [time_text(seconds[name]) if name in seconds else "-" for name in ("GPU", "CPU", "network")]
            cost = gpus * total / HOUR * given.price
            print(f"| {job} | {gpus} | {' | '.join(columns)} | {time_text(total)} | {cost:,.0f} | {longest} |")
    return 0


def jobs(given: Assumptions) -> dict:
    """Job -> (number of GPUs -> seconds of the GPUs, of the CPU cores and of the network, which overlap)."""
    speed = get("peak") * given.utilisation  # TFLOP/s a GPU

    def stage1(gpus: int, pairs: float = 129e6, batch: int = 2048) -> dict[str, float]:
        # three losses of the Q-Former, each forward and twice backward; the frozen image encoder once
        flop = get("vision") + 3 * 3 * get("qformer")
        traffic = 2 * get("qformer_bytes") + batch * get("features_bytes")  # a step: gradients, and ITC's features
        return {
            "GPU": pairs * flop / speed / gpus,
            "CPU": pairs * get("decode224") / (gpus * given.cores),
            "network": (pairs / batch * traffic / get("network") if gpus > 1 else 0.0),
        }

    def prepare(images: float) -> dict:
        return lambda gpus: {
            "GPU": images * get("clipseg") / speed / gpus,
            "CPU": images * get("prepare") / (gpus * given.cores),
            "network": images * 2 * 129e3 / (get("disk") * max(1, gpus / 8)),
        }

    def stage2(images: float, most: int) -> dict:
        flop = 3 * (get("unet") + get("text") + get("qformer")) + get("vision") + get("encode")
        return lambda gpus: {
            "GPU": images * flop / speed / min(gpus, most),
            "CPU": images * get("decode512") / (gpus * given.cores),
            "network": images * 129e3 / (get("disk") * max(1, gpus / 8)),
        }

    def leaderboard(gpus: int, methods: int = 50) -> dict[str, float]:
        subjects, images = 30 + 150, 3000 + 150 * 9 * 4
        fits = subjects * get("dreambooth")  # as dear as DreamBooth, all of them: an upper bound
        return {
            "GPU": methods * (fits + images * get("draw")) / (get("peak") * given.small_utilisation) / gpus,
            "CPU": methods * images * (get("score") + get("png")) / (gpus * given.cores),
            "network": methods * images * 0.29e6 / 1e9,  # back to one driver, at 1 GB/s
        }

    return {
        "(a) stage 1, 129M pairs once, batch 2,048": stage1,
        "(b) prepare 292K images": prepare(292e3),
        "(b) stage 2, 500K steps at batch 16": stage2(8e6, 16),
        "(b) prepare 30M images": prepare(30e6),
        "(b) stage 2, 30M images once, batch 2,048": stage2(30e6, 2048),
        "(c) 50 methods, DreamBench and DreamBench++": leaderboard,
    }


def time_text(seconds: float) -> str:
    """Seconds, minutes, hours or days, in three digits."""
    for unit, length in (("d", DAY), ("h", HOUR), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


if __name__ == "__main__":
    sys.exit(main())
