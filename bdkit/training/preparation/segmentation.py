"""Where a subject is, by its class noun (Sec. 3.2, step 1), and captions where there are none: transformers' models."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from bdkit.training.shards.sources import Location, read_location
from bdkit.utils.errors import InputError
from bdkit.utils.images import decode_image

CLIPSEG = "CIDAS/clipseg-rd64-refined"


class Rejected(Exception):
    """Why an image is left out: a reason, which is counted, and a detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class ClipSeg:
    """Confidence maps by CLIPSeg (Lüddecke and Ecker 2022).

    Args:
        weights: local folder or hub id.
    """

    def __init__(self, weights: str = CLIPSEG, device: str = "cpu") -> None:
        from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

        self.device = device
        self.processor = _load(CLIPSegProcessor.from_pretrained, weights, "--segmenter or masks with --masks")
        model = _load(CLIPSegForImageSegmentation.from_pretrained, weights, "--segmenter or masks with --masks")
        self.model = model.to(device).eval()

    def __call__(self, images: Sequence[Image.Image], class_nouns: Sequence[str]) -> list[np.ndarray]:
        """How sure each pixel shows the noun, 0 to 1, float32 (H, W) at each RGB image's own size."""
        import torch
        import torch.nn.functional as F

        inputs = self.processor(text=list(class_nouns), images=list(images), padding=True, return_tensors="pt")
        with torch.inference_mode():
            logits = self.model(**inputs.to(self.device)).logits
            logits = logits.reshape(len(images), 1, *logits.shape[-2:])  # of one image there is no batch
            return [
                F.interpolate(row[None], size=image.size[::-1], mode="bilinear")[0, 0].sigmoid().float().cpu().numpy()
                for row, image in zip(logits, images, strict=True)
            ]


class Captioner:
    """Captions by an image-to-text model of transformers, such as BLIP-2 (the paper: OPT-6.7B).

    Args:
        weights: local folder or hub id.
    """

    def __init__(self, weights: str, device: str = "cpu") -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.device = device
        self.processor = _load(AutoProcessor.from_pretrained, weights, "--captioner")
        self.model = _load(AutoModelForImageTextToText.from_pretrained, weights, "--captioner").to(device).eval()

    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """One caption an RGB image, by greedy search."""
        import torch

        inputs = self.processor(images=list(images), return_tensors="pt").to(self.device)
        with torch.inference_mode():
            ids = self.model.generate(**inputs, max_new_tokens=30, do_sample=False)
        return [" ".join(text.split()) for text in self.processor.batch_decode(ids, skip_special_tokens=True)]


def read_mask(location: Location, source: str, size: tuple[int, int]) -> np.ndarray:
    """The mask file of an image, in 0..1, float64, at `size`: its own transparency where it has one, else its grey."""
    try:
        image, alpha = decode_image(read_location(location), f"the mask of {source}")
    except (InputError, OSError) as error:
        raise Rejected("no mask", " ".join(str(error).split())) from error
    grey = image.convert("L") if alpha is None else alpha
    if abs(grey.width * size[1] - grey.height * size[0]) > max(*grey.size, *size):
        raise Rejected("no mask", f"the mask is {grey.width} x {grey.height}, in other proportions than the image")
    return np.asarray(grey.resize(size, Image.Resampling.BILINEAR)) / 255.0


def check_area(area: float, least: float, most: float) -> None:
    """Rejects a subject that covers too little or too much of the image."""
    if area < least:
        raise Rejected("mask too small", f"{100 * area:.1f}% of the image")
    if area > most:
        raise Rejected("mask too large", f"{100 * area:.1f}% of the image")


def check_mask(alpha: np.ndarray, least: float, most: float) -> None:
    """Rejects a subject of a wrong size, or cut off on all four sides; alpha (H, W) in 0..1."""
    solid = alpha > 0.5
    if not solid.any():
        raise Rejected("subject not found", "the mask is empty")
    check_area(float(alpha.mean()), least, most)
    if all(edge.any() for edge in (solid[0], solid[-1], solid[:, 0], solid[:, -1])):
        raise Rejected("touches all borders")


def inside(box: tuple[float, ...], shape: tuple[int, ...]) -> np.ndarray:
    """1 for the pixels within left, top, right and bottom edge, else 0; float32 of `shape`."""
    left, top, right, bottom = box
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    return ((x > left) & (x < right) & (y > top) & (y < bottom)).astype(np.float32)


@lru_cache(maxsize=1)
def clipseg(weights: str, device: str) -> ClipSeg:
    """A segmenter, loaded once a process."""
    return ClipSeg(weights, device)


@lru_cache(maxsize=1)
def captioner(weights: str, device: str) -> Captioner:
    """A captioner, loaded once a process."""
    return Captioner(weights, device)


def _load(from_pretrained: Callable[[str], Any], weights: str, flag: str) -> Any:
    try:
        return from_pretrained(weights)
    except (OSError, ValueError, KeyError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{weights} cannot be loaded ({line}); give a folder with {flag}") from error
