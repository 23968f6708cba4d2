"""Does identity move evenly between two subjects? Walks between held-out subjects of one class.

python -m eval.mini.interpolation --out results/editing/interpolation.csv
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from scipy.stats import spearmanr

from bdkit.checkpoints.load import load_model
from bdkit.editing.interpolation import PATHS, walk
from bdkit.miniworld.render import render
from bdkit.miniworld.scenes import CONTEXTS, STUDIO, sample_scene
from bdkit.miniworld.subjects import CLASSES, Subject, generator, sample_subject
from bdkit.models.blip_diffusion import BlipDiffusion, require_blip_diffusion
from bdkit.utils.env import commit, device_name, pick_device
from bdkit.utils.io import write_text
from eval.score.encoders import Encoder
from eval.score.weights import load_encoder

REFERENCES = 4
PROMPT = "a {} in the snow"


def pair_of_subjects(number: int, seed: int = 0) -> tuple[Subject, Subject]:
    """Two subjects that no training saw, of one class; the classes take turns."""
    noun = CLASSES[number % len(CLASSES)]
    first, second = (sample_subject(noun, f"interpolation/{seed}/{number}/{side}", "test") for side in "ab")
    return first, second


def references(subject: Subject, *words: object) -> list[Image.Image]:
    """The subject in the studio and in three other contexts."""
    rng = generator("interpolation", *words)
    contexts = [STUDIO, *rng.choice(CONTEXTS, REFERENCES - 1, replace=False)]
    return [Image.fromarray(render(sample_scene(subject, rng, context=str(c))).image) for c in contexts]


def identity_shift(
    images: list[Image.Image], ends: tuple[list[Image.Image], list[Image.Image]], encoder: Encoder
) -> npt.NDArray[np.floating]:
    """For each image its mean cosine to the second subject's references minus that to the first's; (steps,)."""
    embedded = encoder.embed_images(images)
    first, second = ((embedded @ encoder.embed_images(end).T).mean(axis=1) for end in ends)
    return np.asarray(second - first)


def measure(model: BlipDiffusion, encoder: Encoder, *, pairs: int = 20, steps: int = 9, seed: int = 0) -> pd.DataFrame:
    """A row a pair and path: Spearman's correlation of the step with `identity_shift`, and the shift at both ends."""
    rows = []
    for number in range(pairs):
        subjects = pair_of_subjects(number, seed)
        shown = [references(subject, seed, number, side) for subject, side in zip(subjects, "ab", strict=True)]
        noun = subjects[0].class_noun
        first, second = (model.mean_subjects(images, noun) for images in shown)
        for path in PATHS:
            images = walk(model, first, second, PROMPT, [noun, noun], steps=steps, path=path, seed=seed + number)
            shift = identity_shift(images, (shown[0], shown[1]), encoder)
            correlation = float(spearmanr(np.arange(steps), shift).statistic)
            ends = {"shift_first": float(shift[0]), "shift_last": float(shift[-1])}
            rows.append({"pair": number, "class_noun": noun, "path": path, "spearman": correlation, **ends})
    return pd.DataFrame(rows)


def main() -> None:
    """Measures the shipped model and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/editing/interpolation.csv"))
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    device = pick_device()
    model = require_blip_diffusion(load_model("mini"))
    model.to(device)
    frame = measure(
        model, load_encoder("identity", "mini", device), pairs=given.pairs, steps=given.steps, seed=given.seed
    )
    frame = frame.assign(steps=given.steps, n=given.pairs, seed=given.seed, device=device_name(), commit=commit())
    write_text(frame.to_csv(index=False, float_format="%.4f"), given.out)
    print(frame.groupby("path").spearman.agg(["mean", "min", "count"]).round(3).to_string())


if __name__ == "__main__":
    main()
