"""Do two subjects in one prompt stay two? Pairs of held-out subjects of different classes, and their collapse rate.

python -m eval.mini.several_subjects --out results/editing/several_subjects.csv

An image is cut into its two largest objects (the halves of one, if there is no second), and these are given to the two
subjects so that the sum of their DINO is largest. A subject is collapsed where its object is closer to the other's
references than to its own.
"""

import argparse
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from bdkit.checkpoints.load import load_model
from bdkit.editing.several_subjects import draw_subjects
from bdkit.miniworld.subjects import CLASSES, Subject, sample_subject
from bdkit.models.blip_diffusion import BlipDiffusion, require_blip_diffusion
from bdkit.utils.env import commit, device_name, pick_device
from bdkit.utils.images import write_png
from bdkit.utils.io import write_text
from bdkit.utils.progress import progress_bar
from eval.mini.interpolation import references
from eval.mini.segmenter import SegmenterNet, load_segmenter, segment
from eval.report.grid import image_grid
from eval.report.statistics import interval
from eval.score.encoders import Encoder
from eval.score.weights import load_encoder

PROMPT = "a {{}} {} and a {{}} {} in the snow"
LEAST = 0.02  # share of the image from which a region is an object
ACROSS = 4  # pairs in a row of the grid
MARGIN = 2  # pixels around an object's box


def pair_of_subjects(number: int, seed: int = 0) -> tuple[Subject, Subject]:
    """Two subjects that no training saw, of different classes; the first's class takes turns."""
    shift = 1 + number // len(CLASSES) + seed
    nouns = CLASSES[number % len(CLASSES)], CLASSES[(number + 1 + shift % (len(CLASSES) - 1)) % len(CLASSES)]
    first, second = (
        sample_subject(noun, f"several/{seed}/{number}/{side}", "test") for noun, side in zip(nouns, "ab", strict=True)
    )
    return first, second


def two_objects(image: Image.Image, mask: npt.NDArray[np.bool_]) -> tuple[Image.Image, Image.Image, int]:
    """The image's two objects, cut out, and how many there are: the two largest regions, else halves of the largest.

    Args:
        mask: (H, W), where the image shows objects.
    """
    _, _, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    boxes = [row for row in statistics[1:] if row[cv2.CC_STAT_AREA] >= LEAST * mask.size]
    boxes = sorted(boxes, key=lambda row: -int(row[cv2.CC_STAT_AREA]))[:2]
    if len(boxes) == 2:
        return _cut(image, *boxes[0][:4]), _cut(image, *boxes[1][:4]), 2
    left, top, width, height = boxes[0][:4] if boxes else (0, 0, *image.size)
    half = max(1, int(width) // 2)
    return _cut(image, left, top, half, height), _cut(image, left + half, top, width - half, height), len(boxes)


def _cut(image: Image.Image, left: int, top: int, width: int, height: int) -> Image.Image:
    """The box with a margin, in a square of white as large as the image."""
    box = (
        max(0, int(left) - MARGIN),
        max(0, int(top) - MARGIN),
        min(image.width, int(left + width) + MARGIN),
        min(image.height, int(top + height) + MARGIN),
    )
    square = Image.new("RGB", image.size, "white")
    cut = image.crop(box)
    square.paste(cut, ((square.width - cut.width) // 2, (square.height - cut.height) // 2))
    return square


def similarities(
    crops: tuple[Image.Image, Image.Image], shown: tuple[list[Image.Image], list[Image.Image]], encoder: Encoder
) -> npt.NDArray[np.floating]:
    """(2, 2): mean cosine of each subject's object to its own references and to the other's."""
    embedded = encoder.embed_images(list(crops))
    cosines = np.stack([(embedded @ encoder.embed_images(images).T).mean(axis=1) for images in shown])  # subject, crop
    order = (0, 1) if np.trace(cosines) >= np.trace(cosines[:, ::-1]) else (1, 0)
    return np.array([[cosines[k, order[k]], cosines[1 - k, order[k]]] for k in range(2)])


def measure(
    model: BlipDiffusion, encoder: Encoder, segmenter: SegmenterNet, *, pairs: int = 20, seed: int = 0
) -> tuple[pd.DataFrame, Image.Image]:
    """A row a subject of a pair, and a grid of all pairs: both references and the image."""
    rows, tiles = [], []
    for number in progress_bar(range(pairs), desc="several subjects", unit=" pairs"):
        subjects = pair_of_subjects(number, seed)
        shown = tuple(references(subject, seed, number, side) for subject, side in zip(subjects, "ab", strict=True))
        nouns = [subject.class_noun for subject in subjects]
        embeddings = [model.mean_subjects(images, noun) for images, noun in zip(shown, nouns, strict=True)]
        (image,) = draw_subjects(model, PROMPT.format(*nouns), embeddings, [seed + number])
        first, second, found = two_objects(image, segment(segmenter, [image])[0])
        cosines = similarities((first, second), (shown[0], shown[1]), encoder)
        for noun, (own, other) in zip(nouns, cosines, strict=True):
            row = {"pair": number, "class_noun": noun, "objects": found, "dino_own": own, "dino_other": other}
            rows.append({**row, "collapsed": int(own < other)})
        tiles.append([shown[0][0], shown[1][0], image])
    blank = [Image.new("RGB", (64, 64), "white")] * 3
    tiles += [blank] * (-len(tiles) % ACROSS)
    lines = [[*chain.from_iterable(tiles[start : start + ACROSS])] for start in range(0, len(tiles), ACROSS)]
    return pd.DataFrame(rows), image_grid(lines, ["first", "second", "both"] * ACROSS, tile=64)


def main() -> None:
    """Measures the shipped model and writes the table, and the grid beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/editing/several_subjects.csv"))
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    device = pick_device()
    model = require_blip_diffusion(load_model("mini"))
    model.to(device)
    encoder = load_encoder("dino", "mini", device)
    frame, grid = measure(model, encoder, load_segmenter(), pairs=given.pairs, seed=given.seed)
    frame = frame.assign(n=given.pairs, seed=given.seed, device=device_name(), commit=commit())
    write_text(frame.to_csv(index=False, float_format="%.4f"), given.out)
    write_png(grid, given.out.with_suffix(".png"))
    rate = frame.groupby("pair").collapsed.mean().to_numpy()
    low, high = interval(rate)
    print(f"collapse rate {rate.mean():.2f} [{low:.2f}, {high:.2f}], {given.pairs} pairs")
    print(f"two objects in {(frame.groupby('pair').objects.first() == 2).sum()} of {given.pairs} images")


if __name__ == "__main__":
    main()
