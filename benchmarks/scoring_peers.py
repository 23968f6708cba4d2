"""What `bdkit score` is measured beside: loops that people write, on the same images and weights."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from bdkit.utils.images import read_image
from dreambench.photos import photo_paths
from eval.score.encoders import to_batch

METHOD = "made"
MAX_PROMPTS = 25


class Peers:
    """What people write: one image at a time. job: `scoring.Job`."""

    def __init__(self, job: Any) -> None:
        self.dino, self.clip = job.evaluators.encoders["dino"], job.evaluators.encoders["clip"]
        self.pairs = [
            (job.work / f"images/{METHOD}/{subject.name}/{prompt.index:02d}-{sample}.png",
             photo_paths(job.photos, subject), prompt.text(subject.class_noun))
            for sample in range(job.suite.samples_per_prompt)
            for number in range(MAX_PROMPTS)
            for subject in job.suite.subjects
            for prompt in job.suite.prompts(subject)[number : number + 1]
        ][: job.n_images]  # fmt: skip
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
        """One image, from the file."""
        return normalize(encoder.features(to_batch([read_image(path)], encoder.how)), dim=1)[0]

    @torch.inference_mode()
    def embed_text(self, text: str) -> torch.Tensor:
        """One text."""
        return normalize(self.clip.network.encode_text(self.clip.tokenizer([text])), dim=1)[0]

    def per_pair(self) -> None:
        """Both images of every pair."""
        for path, references, text in self.pairs:
            for encoder in (self.dino, self.clip):
                np.mean([float(self.embed(encoder, path) @ self.embed(encoder, other)) for other in references])
            float(self.embed(self.clip, path) @ self.embed_text(text))

    def embed_once(self) -> None:
        """Every image and text once."""
        texts: dict[str, torch.Tensor] = {}
        for path, references, text in self.pairs:
            for encoder in (self.dino, self.clip):
                own = self.embed(encoder, path)
                np.mean([float(own @ self.once(encoder, other)) for other in references])
            if text not in texts:
                texts[text] = self.embed_text(text)
            float(own @ texts[text])

    def torchmetrics(self) -> None:
        """CLIPScore for CLIP-T and CLIP-I, DINO once an image."""
        update = clip_score(self.clip)
        for path, references, text in self.pairs:
            image = torch.from_numpy(np.asarray(read_image(path)).copy()).permute(2, 0, 1)
            update(image, text)
            others = [torch.from_numpy(np.asarray(read_image(other)).copy()).permute(2, 0, 1) for other in references]
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
            drawn = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in images]
            return {"pixel_values": to_batch(drawn, self.clip.how)}
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
