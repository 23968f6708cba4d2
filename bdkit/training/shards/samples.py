"""Records -> samples -> batches of each stage, in the loader's workers; no model is needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from bdkit.models.preprocessing import SubjectPixels, centre_crop, normalise
from bdkit.models.prompts import tokenize
from bdkit.training.pretraining.config import MultimodalRepresentationConfig, SubjectRepresentationConfig
from bdkit.training.pretraining.context_generation import (
    ContextDraw,
    PromptTokenizer,
    draw_context,
    synthesise_inputs,
)
from bdkit.training.shards.latents import Latents
from bdkit.training.shards.read import Record, Shards
from bdkit.utils.edges import canny

BICUBIC = Image.Resampling.BICUBIC


def square(image: np.ndarray, size: int, box: Sequence[float] | None = None) -> np.ndarray:
    """The square of an image (H, W) or (H, W, C) with the shorter side, around a box, else the middle; then resized.

    Paper: does not say how images become square; here: the subject's box (left, top, right, bottom) is centred as far
    as the image reaches.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    middle = (width / 2, height / 2) if box is None else ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    left = round(min(max(middle[0] - side / 2, 0), width - side))
    top = round(min(max(middle[1] - side / 2, 0), height - side))
    cropped = image[top : top + side, left : left + side]
    if side == size:
        return np.ascontiguousarray(cropped)
    return np.array(Image.fromarray(cropped).resize((size, size), BICUBIC))


def random_square(image: np.ndarray, size: int, min_crop: float, rng: np.random.Generator) -> np.ndarray:
    """A random crop with at least `min_crop` of the area and a ratio of 3:4 to 4:3, resized to a square.

    Args:
        image: uint8 (H, W, 3).
        min_crop: 1: the centre square, and nothing is drawn.
    """
    if min_crop == 1:
        return square(image, size)
    height, width = image.shape[:2]
    area, ratio = rng.uniform(min_crop, 1) * height * width, np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    across, down = (min(round(np.sqrt(area * r)), most) for r, most in ((ratio, width), (1 / ratio, height)))
    left, top = int(rng.integers(width - across + 1)), int(rng.integers(height - down + 1))
    cropped = Image.fromarray(image[top : top + down, left : left + across])
    return np.array(cropped.resize((size, size), BICUBIC))


@dataclass(frozen=True, kw_only=True)
class PairSamples:
    """Image and caption, for stage 1.

    size: of the image encoder
    """

    tokenizer: Any
    config: MultimodalRepresentationConfig
    size: int
    pixels: SubjectPixels

    def __call__(self, record: Record, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        """Image (S, S, 3) and text of a record."""
        return random_square(record.image(), self.size, self.config.min_crop, rng), record.text()

    def collate(self, samples: Sequence[tuple[np.ndarray, str]]) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels (B, 3, S, S), word ids and padding mask (B, T)."""
        images, texts = zip(*samples, strict=True)
        tokens = self.tokenizer(
            list(texts), padding="max_length", max_length=self.config.text_length, truncation=True, return_tensors="pt"
        )
        pixels = normalise(np.stack(images), self.pixels.mean, self.pixels.std)
        return pixels, tokens.input_ids, tokens.attention_mask


class Backgrounds:
    """Images without a subject, to blend cut-outs on: arrays (M, H, W, 3) uint8, or the images of shards."""

    def __init__(self, images: np.ndarray | Shards) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, number: int, size: int) -> np.ndarray:
        """One of them, uint8 (size, size, 3)."""
        image = self.images[number]
        return square(image.image() if isinstance(image, Record) else image, size)


@dataclass(frozen=True, kw_only=True)
class SubjectSample:
    """One sample of stage 2.

    target: uint8 (R, R, 3), or its latents (C, h, w)
    cutout: float32 (4, S, S), colours 0..255 multiplied by alpha, and alpha 0..1
    background: uint8 (S, S, 3)
    alpha: uint8 (R, R), where the target shows the subject; None where that does not matter
    """

    target: np.ndarray
    cutout: Tensor
    background: np.ndarray
    alpha: np.ndarray | None
    draw: ContextDraw
    template: str
    noun: str


@dataclass(frozen=True, kw_only=True)
class SubjectTensors:
    """A batch of stage 2, but for the latents: fields of `SubjectBatch`, and targets.

    targets: uint8 (B, R, R, 3), or latents (B, C, h, w)
    alphas: uint8 (B, R, R), or None
    """

    targets: Tensor
    pixels: Tensor
    word_ids: Tensor
    word_mask: Tensor
    input_ids: Tensor
    subject_mask: Tensor
    alphas: Tensor | None


@dataclass(frozen=True, kw_only=True)
class SubjectSamples:
    """The subject, cut out and blended on a random background, with its image and caption (Sec. 3.2), for stage 2.

    size: of the image encoder
    resolution: of the targets
    latents: of the targets, where they are cached
    """

    tokenizer: PromptTokenizer
    config: SubjectRepresentationConfig
    backgrounds: Backgrounds
    size: int
    resolution: int
    pixels: SubjectPixels
    latents: Latents | None = None

    def __call__(self, record: Record, rng: np.random.Generator) -> SubjectSample:
        """Decodes, crops and draws."""
        draw, box = draw_context(rng, len(self.backgrounds), self.config), record.details.get("box")
        if self.config.same_image:
            colours = record.image()
            alpha = np.full(colours.shape[:2], 255, dtype=np.uint8)
        else:
            colours, alpha = record.cutout()
        shown = record.pixels("alpha.png", "L") if self.config.subject_weight != 1 else None
        if self.latents is None:
            target = square(record.image(), self.resolution, box)
        else:
            target = self.latents[record.number]
        return SubjectSample(
            target=target,
            cutout=premultiplied(colours, alpha, self.size, box),
            background=self.backgrounds.read(draw.background, self.size),
            alpha=None if shown is None else square(shown, self.resolution, box),
            draw=draw,
            template=record.template(),
            noun=record.details["subject"],
        )

    def collate(self, samples: Sequence[SubjectSample]) -> SubjectTensors:
        """Blends and tokenises."""
        backgrounds = torch.from_numpy(np.stack([s.background for s in samples])).permute(0, 3, 1, 2).contiguous()
        inputs = synthesise_inputs(torch.stack([s.cutout for s in samples]), backgrounds, [s.draw for s in samples])
        nouns = [s.noun for s in samples]
        word_ids, word_mask = self.tokenizer.words(nouns)
        rows = [self.tokenizer.prompts([s.template], [s.noun], s.draw.kind) for s in samples]
        input_ids, subject_mask = (torch.cat(column) for column in zip(*rows, strict=True))
        alphas = [s.alpha for s in samples if s.alpha is not None]
        return SubjectTensors(
            targets=torch.from_numpy(np.stack([s.target for s in samples])),
            pixels=normalise(inputs, self.pixels.mean, self.pixels.std),
            word_ids=word_ids,
            word_mask=word_mask,
            input_ids=input_ids,
            subject_mask=subject_mask,
            alphas=torch.from_numpy(np.stack(alphas)) if alphas else None,
        )


def premultiplied(colours: np.ndarray, alpha: np.ndarray, size: int, box: Sequence[float] | None) -> Tensor:
    """A cut-out as `SubjectSample` holds it, of colours (H, W, 3) and alpha (H, W), uint8.

    It is multiplied before it is resized, so that no colour from outside the subject bleeds into its edge.
    """
    side = min(alpha.shape)
    straight = np.dstack([square(colours, side, box), square(alpha, side, box)])
    cutout = torch.from_numpy(straight).permute(2, 0, 1).contiguous().float()
    share = cutout[3:] / 255
    cutout = torch.cat([cutout[:3] * share, share])
    if side == size:
        return cutout
    resized = F.interpolate(cutout[None], (size, size), mode="bicubic", antialias=True)[0]
    share = resized[3:].clamp(0, 1)
    return torch.cat([resized[:3].clamp(min=0).minimum(255 * share), share])


@dataclass(frozen=True, kw_only=True)
class StructureSamples:
    """Image, caption and edges, for a ControlNet.

    length: positions of the text encoder
    empty_share: share of empty captions
    """

    tokenizer: Any
    length: int
    resolution: int
    empty_share: float

    def __call__(self, record: Record, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, str]:
        """Target (R, R, 3), Canny edges (R, R) uint8, and caption."""
        image = np.asarray(centre_crop(Image.fromarray(record.image()), self.resolution))
        text = "" if rng.random() < self.empty_share else str(record.details["caption"] or "")
        return image, canny(image), text

    def collate(self, samples: Sequence[tuple[np.ndarray, np.ndarray, str]]) -> tuple[Tensor, Tensor, Tensor]:
        """Targets, token ids (B, L) and edges (B, R, R) uint8."""
        targets, edges, texts = zip(*samples, strict=True)
        ids, _, _ = tokenize(self.tokenizer, texts, None, self.length)
        return torch.from_numpy(np.stack(targets)), ids, torch.from_numpy(np.stack(edges))
