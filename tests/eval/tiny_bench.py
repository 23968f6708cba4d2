"""A method, encoders and a classifier that are real but tiny, for tests of the runner and the scoring."""

import hashlib
import time
from typing import Any

import numpy as np
import torch
from PIL import Image

from eval.generate.rows import Row
from eval.score.score import Evaluators

SIDE = 16
ROWS = (
    Row(name="tiny-2", method="tiny", snapshot=2),
    Row(name="tiny", method="tiny"),
    Row(name="plain", method="plain", overrides={"contrast": 0.5}),
)


def pixels(images: list[Image.Image]) -> torch.Tensor:
    arrays = [np.asarray(image.convert("RGB").resize((SIDE, SIDE)), dtype=np.float32) for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 255


def word_vector(word: str, size: int) -> torch.Tensor:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4])
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


class TinyEncoder:
    """A fixed random convolution network; texts are sums of fixed random word vectors."""

    def __init__(self, seed: int, size: int = 12) -> None:
        torch.manual_seed(seed)
        self.size = size
        self.network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 5, stride=3), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(128, size)
        )
        self.checkpoint = {"file": "tiny", "sha256": str(seed)}
        self.n_embedded = 0

    @torch.no_grad()
    def embed_images(self, images: list[Image.Image]) -> np.ndarray:
        self.n_embedded += len(images)
        return torch.nn.functional.normalize(self.network(pixels(images)), dim=1).numpy()

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        sums = torch.stack([sum(word_vector(word, self.size) for word in text.split()) for text in texts])
        return torch.nn.functional.normalize(sums, dim=1).numpy()


class TinyClassifier:
    """Fixed random linear heads on the mean colour."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        sizes = {"class": 15, "context": 21, "outfit": 11, "change": 6}
        self.heads = {name: torch.randn(3, size, generator=generator) for name, size in sizes.items()}
        self.checkpoint = {"file": "tiny", "sha256": str(seed)}

    def predict(self, images: list[Image.Image]) -> dict[str, np.ndarray]:
        means = pixels(images).mean(dim=(2, 3))
        return {name: (means @ head).log_softmax(dim=1).numpy() for name, head in self.heads.items()}


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


def evaluators(classifier: bool = True) -> Evaluators:
    encoders = {"dino": TinyEncoder(1), "clip": TinyEncoder(2)}
    if classifier:
        encoders["identity"] = TinyEncoder(3)
    return Evaluators(protocol="mini", encoders=encoders, classifier=TinyClassifier(4) if classifier else None)


METHODS = {"tiny": TinyMethod, "plain": plain}
