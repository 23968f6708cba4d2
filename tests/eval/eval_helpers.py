"""What the tests of several rooms share: a tiny method, tiny and exact encoders, images, folders of made-up scores."""

import csv
import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from bdkit.utils.images import write_png
from dreambench.registry import load_suite
from dreambench.suites import Suite
from eval.experiments import Row
from eval.generate.references import prepare
from eval.results_dir import REAL, REAL_WITH_SELF, save_suite, subject_ids
from eval.score.encoders import OUTPUTS, Classifier, ClipEncoder, Encoder
from eval.score.images import ImageTree
from eval.score.metrics import Batch
from eval.score.protocols import Preprocessing
from eval.score.score import Evaluators
from eval.score.scores_file import COLUMNS, NO_PROMPT, write_scores

# A method, encoders and a classifier that are real but tiny

SIDE = 16
ROWS = (
    Row(name="tiny-2", method="tiny", snapshot=2),
    Row(name="tiny", method="tiny"),
    Row(name="plain", method="plain", overrides={"contrast": 0.5}),
)


TINY = Preprocessing(short_side=None, crop=SIDE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def pixels(images: list[Image.Image]) -> torch.Tensor:
    arrays = [np.asarray(image.convert("RGB").resize((SIDE, SIDE)), dtype=np.float32) for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 255


def word_vector(word: str, size: int) -> torch.Tensor:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4])
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


class TinyEncoder(ClipEncoder):
    """A fixed random convolution network; texts are sums of fixed random word vectors."""

    def __init__(self, seed: int, size: int = 12) -> None:
        torch.manual_seed(seed)
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 5, stride=3), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(128, size)
        )
        super().__init__(network, TINY, "tiny", {"file": "tiny", "sha256": str(seed)}, batch_size=32, tokenizer=list)
        self.size, self.n_embedded = size, 0

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.network(pixels)

    def embed(self, crops: np.ndarray) -> np.ndarray:
        self.n_embedded += len(crops)
        return super().embed(crops)

    def embed_texts(self, texts: list[str], batch_size: int = 16) -> np.ndarray:
        sums = torch.stack([sum(word_vector(word, self.size) for word in text.split()) for text in texts])
        return torch.nn.functional.normalize(sums, dim=1).numpy()


class TinyHeads(torch.nn.Module):
    """Fixed random linear heads on the mean colour."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.heads = {name: torch.randn(3, size, generator=generator) for name, size in OUTPUTS.items()}

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        means = pixels.mean(dim=(2, 3))
        return {name: means @ head for name, head in self.heads.items()}


def tiny_classifier(seed: int) -> Classifier:
    return Classifier(TinyHeads(seed), TINY, "classifier", {"file": "tiny", "sha256": str(seed)})


class TinyMethod:
    """Learns the mean colour of the references by gradient steps, and paints it with noise."""

    def __init__(
        self, model: str, contrast: float = 1.0, steps: int = 6, delay: float = 0.0, weights: str = "a"
    ) -> None:
        self.snapshots: tuple[int, ...] = (2, steps) if steps > 2 else ()
        self.contrast, self.steps, self.delay = contrast, steps, delay
        self.settings: dict[str, Any] = {"steps": steps, "lr": 0.2, "model": model, "checkpoint_hash": weights}
        self.fitted: dict[int, torch.Tensor] = {0: torch.full((3,), 0.5)}
        self.chosen = 0

    def fit(self, images: list[Image.Image], class_noun: str, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        target = pixels(images).mean(dim=(0, 2, 3))
        colour = torch.rand(3, generator=generator)
        self.fitted = {0: colour.clone()}
        for step in range(1, self.steps + 1):
            colour += 0.2 * (target - colour)
            time.sleep(self.delay)
            if step in (*self.snapshots, self.steps):
                self.fitted[step] = colour.clone()
        self.chosen = self.steps

    def select(self, step: int | None) -> None:
        self.chosen = max(self.fitted) if step is None else step

    def generate(self, prompt_template: str | list[str], class_noun: str, seeds: list[int]) -> list[Image.Image]:
        templates = [prompt_template] * len(seeds) if isinstance(prompt_template, str) else prompt_template
        images = []
        for template, seed in zip(templates, seeds, strict=True):
            time.sleep(self.delay)
            texture = word_vector(template.format("sks", class_noun), SIDE).view(1, SIDE, 1) * 0.1
            noise = torch.randn(SIDE, SIDE, 3, generator=torch.Generator().manual_seed(seed))
            image = (self.fitted[self.chosen] + texture + 0.1 * self.contrast * noise).clamp(0, 1)
            images.append(Image.fromarray((image * 255).round().to(torch.uint8).numpy()))
        return images

    def state(self) -> dict[str, torch.Tensor]:
        return {str(step): colour for step, colour in self.fitted.items()}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self.fitted = {int(step): colour for step, colour in state.items()}


def plain(model: str, contrast: float) -> TinyMethod:
    """A method that doesn't train."""
    return TinyMethod(model, contrast=contrast, steps=0)


METHODS = {"tiny": TinyMethod, "plain": plain}


def tiny_evaluators(classifier: bool = True) -> Evaluators:
    encoders = {"dino": TinyEncoder(1), "clip": TinyEncoder(2)}
    if classifier:
        encoders["identity"] = TinyEncoder(3)
    return Evaluators(protocol="mini", encoders=encoders, classifier=tiny_classifier(4) if classifier else None)


# Small networks inside this package's own encoders: an image's row is the same bits in every run

HOW = Preprocessing(short_side=32, crop=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def small_network(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 8, stride=8), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(128, 24)
    )


class ExactClip(ClipEncoder):
    """Images by a network, texts as the tiny encoder has them."""

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.network(pixels)

    def embed_texts(self, texts: list[str], batch_size: int = 16) -> np.ndarray:
        return TinyEncoder(2, size=24).embed_texts(texts)


def exact_evaluators(protocol: str = "dreambench", seed: int = 1) -> Evaluators:
    dino = Encoder(small_network(seed), HOW, "dino", {"file": "a", "sha256": str(seed)}, batch_size=5)
    named = {"file": "b", "sha256": str(seed)}
    clip = ExactClip(small_network(seed + 1), HOW, "clip", named, batch_size=5, tokenizer=list)
    return Evaluators(protocol=protocol, encoders={"dino": dino, "clip": clip})


def cosine(one: list[float], other: list[float]) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / math.sqrt(sum(a * a for a in one)) / math.sqrt(sum(b * b for b in other))


def cosines(batch: Batch, encoder: str) -> list[list[float]]:
    """Each image with those references that it is compared with."""
    generated, references = batch.generated[encoder].tolist(), batch.references[encoder].tolist()
    return [
        [cosine(image, references[column]) for column in range(len(references)) if batch.pairs[row, column]]
        for row, image in enumerate(generated)
    ]


# Images to score, and where they lie

PHOTO_SUITE = load_suite("dreambench").limited(subjects=2, prompts=3, samples=2)


def texture(width: int, height: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def draw(path: Path, seed: int, size: tuple[int, int] = (48, 40), **how: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, **how)


def suite_keys(suite: Suite = PHOTO_SUITE) -> list[tuple[str, int, int]]:
    """(subject, prompt, sample) of every image that a suite asks for, in order."""
    ids = [one for subject in suite.subjects for one in subject_ids(suite, "any", 0, subject)]
    return [(one.subject, one.prompt, one.sample) for one in ids]


def draw_tree(root: Path, suite: Suite = PHOTO_SUITE) -> Path:
    for seed, (subject, prompt, sample) in enumerate(suite_keys(suite)):
        draw(root / subject / f"{prompt:02d}-{sample}.png", seed)
    return root


def keys_of(tree: ImageTree) -> set[tuple[str, int, int]]:
    return {(image.id.subject, image.id.prompt, image.id.sample) for image in tree.images}


def write_manifest(path: Path, lines: list[dict[str, object]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, fieldnames=list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return path


def draw_manifest(folder: Path, **more: object) -> Path:
    """A manifest of images that lie in one flat folder beside it."""
    lines: list[dict[str, object]] = []
    for seed, (subject, prompt, sample) in enumerate(suite_keys()):
        draw(folder / "flat" / f"{seed}.png", seed)
        line = {"path": f"{seed}.png", "method": "any", "subject": subject, "prompt_index": prompt, "sample": sample}
        lines.append({**line, **more})
    return write_manifest(folder / "m.csv", lines)


# Scored folders with made-up values: no network is run, images are noise

MAIN_METRICS = ("dino", "clip_i", "clip_t")
QUICK_SUITE = load_suite("mini-quick").limited(samples=1)
Value = Callable[[np.random.Generator, str, str], float]


def any_value(rng: np.random.Generator, method: str, metric: str) -> float:
    return round(float(rng.random()), 6)


def make_scores(
    methods: tuple[str, ...] = ("base", "dreambooth"),
    suite: Suite = QUICK_SUITE,
    seed_sets: int = 2,
    metrics: tuple[str, ...] = MAIN_METRICS,
    value: Value = any_value,
    seed: int = 0,
) -> pd.DataFrame:
    """Scores of the oracle (always the same) and of methods."""
    rows: list[tuple] = []
    rng = np.random.default_rng(99)
    for method in (REAL, REAL_WITH_SELF):
        for subject in suite.subjects:
            for number in range(subject.n_references):
                for metric in metrics:
                    if metric != "clip_t":
                        rows.append((method, 0, subject.name, NO_PROMPT, number, metric, any_value(rng, "", "")))
    rng = np.random.default_rng(seed)
    for method in methods:
        for seed_set in range(seed_sets):
            for subject in suite.subjects:
                for one in subject_ids(suite, method, seed_set, subject):
                    key = (method, seed_set, one.subject, one.prompt, one.sample)
                    rows += [(*key, metric, value(rng, method, metric)) for metric in metrics]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def make_folder(
    out: Path, scores: pd.DataFrame | None = None, suite: Suite = QUICK_SUITE, protocol: str = "mini", **record: Any
) -> Path:
    """OUT with suite.json, scores.csv and run.json, no images."""
    scores = make_scores(suite=suite) if scores is None else scores
    save_suite(suite, out)
    write_scores(scores.assign(protocol=protocol), out)
    allow_missing = record.pop("allow_missing", False)
    run = {"scoring": {"protocol": protocol, "allow_missing": allow_missing}, **record}
    (out / "run.json").write_text(json.dumps(run))
    return out


def add_images(out: Path, methods: tuple[str, ...], suite: Suite = QUICK_SUITE, seed_sets: int = 2) -> None:
    """References as the mini world draws them, and images of noise, where bdkit puts them."""
    prepare(suite, out)
    rng = np.random.default_rng(1)
    for method in methods:
        for seed_set in range(seed_sets):
            for subject in suite.subjects:
                for one in subject_ids(suite, method, seed_set, subject):
                    noise = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
                    write_png(noise, one.path(out))
