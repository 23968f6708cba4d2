"""Matting methods: CPU seconds a megapixel, and error against the mini world's exact alpha.

    OMP_NUM_THREADS=1 python benchmarks/matting.py                                       (minutes, lkm most of them)
    OMP_NUM_THREADS=1 python benchmarks/matting.py --size 64 --scenes 30 --bands 0.03 0.06

Measured on one core of a shared x86 machine, 3 scenes of 512 x 512 pixels:

| band | method | s / megapixel | mean error (%) | RMSE (%) |
|---|---|---|---|---|
| 2% | cf | 1.6 | 0.8 | 7.5 |
| 2% | knn | 15 | 4.1 | 11 |
| 2% | lkm | 96 | 1.7 | 5.6 |
| 2% | guided | 0.5 | 14 | 21 |
| 6% | cf | 43 | 1.7 | 10 |
| 6% | knn | 21 | 11 | 18 |
| 6% | guided | 0.5 | 23 | 30 |

Closed form (cf) is the default of `bdkit prepare`: it is the paper's, has the smallest mean error at both widths of the
band and, at 2%, costs a tenth of knn; the guided filter costs a third, but its error is ten times as large. Where the
band is wide and the colours flat, as here at 6%, cf's preconditioner fails and it takes longer; of the 158 DreamBench
photos at 512 pixels and 2%, all of `bdkit prepare` took 0.8 CPU seconds a photo. guided is for a first look at a set.
"""

import argparse
import sys
import time
from collections.abc import Iterator

import numpy as np

from bdkit.miniworld.render import render
from bdkit.training.preparation.matting_methods import MATTING_METHODS, band_trimap, estimate_alpha
from bdkit.training.pretraining.corpus import CorpusConfig, corpus_scene


def main(argv: list[str] | None = None) -> int:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=512, help="pixels a side")
    parser.add_argument("--scenes", type=int, default=6)
    parser.add_argument("--bands", type=float, nargs="+", default=[0.02, 0.06], help="unknown, as shares of the side")
    args = parser.parse_args(argv)
    for number, row in enumerate(measure(args.size, args.scenes, args.bands)):
        if number == 0:
            print("| " + " | ".join(row) + " |\n|" + "---|" * len(row))
        values = (f"{value:.2f}" if isinstance(value, float) else value for value in row.values())
        print("| " + " | ".join(values) + " |", flush=True)
    return 0


def measure(size: int, scenes: int, bands: list[float]) -> Iterator[dict[str, str | float]]:
    """One row a method and band: CPU seconds a megapixel, and errors of alpha in the unknown band, in percent.

    The trimap is made from the exact alpha at 0.5. "guess": 0.5 wherever the trimap is unknown.
    """
    drawn = [render(corpus_scene(CorpusConfig(), index)[0], size) for index in range(scenes)]
    for band in bands:
        for method in ("guess", *MATTING_METHODS):
            seconds, errors, squares = [], [], []
            for number, one in enumerate(drawn):
                exact = one.alpha / 255
                known = band_trimap(exact, band)
                if number == 0 and method != "guess":
                    estimate_alpha(one.image, known, method)  # compiles
                start = time.process_time()
                alpha = known if method == "guess" else estimate_alpha(one.image, known, method)
                seconds.append((time.process_time() - start) / exact.size * 1e6)
                difference = np.abs(alpha - exact)[known == 0.5]
                errors.append(difference.mean())
                squares.append((difference**2).mean())
            yield {
                "size": f"{size} px",
                "band": f"{100 * band:.0f}%",
                "method": method,
                "s / megapixel": float(np.median(seconds)),
                "mean error (%)": 100 * float(np.mean(errors)),
                "RMSE (%)": 100 * float(np.sqrt(np.mean(squares))),
            }


if __name__ == "__main__":
    sys.exit(main())
