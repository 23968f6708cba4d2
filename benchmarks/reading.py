"""How many images a second one core reads from shards: decoded, in the training's order, in batches.

bdkit prepare mini --scenes 4000 --out shards/
python benchmarks/reading.py --data shards/
"""

import argparse
import statistics
import sys
import time

import numpy as np
import torch

from bdkit.training.shards.read import Record, ShardLoader, Shards


def pixels(record: Record, rng: np.random.Generator) -> np.ndarray:
    """The image, uint8 (H, W, 3)."""
    return record.image()


def main() -> int:
    """Prints the median rate of some epochs, by wall clock and by CPU seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="shards of images of one size")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shards = Shards(arguments.data)
    loader = ShardLoader(shards, pixels, arguments.batch_size)
    batches = iter(loader)
    count = len(shards) // arguments.batch_size * arguments.batch_size
    wall, busy = [], []
    for _ in range(arguments.epochs):
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(count // arguments.batch_size):
            next(batches)
        wall.append(count / (time.perf_counter() - start))
        busy.append(count / (time.process_time() - cpu))
    size = "x".join(map(str, shards[0].image().shape[:2]))
    print(f"{count} images of {size} px, median of {arguments.epochs} epochs, one process without loader workers:")
    print(f"{statistics.median(wall):,.0f} images a second, {statistics.median(busy):,.0f} a CPU second")
    return 0


if __name__ == "__main__":
    sys.exit(main())
