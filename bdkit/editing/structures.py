"""Structure maps of an image, which a ControlNet keeps: edges, depth, soft edges and scribbles (Sec. 4.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from bdkit.utils.edges import CANNY_HIGH, CANNY_LOW, canny
from bdkit.utils.errors import InputError
from bdkit.utils.rgb import as_rgb

DEPTH_MODEL = "Intel/dpt-large"  # what the public depth ControlNet was shown with
ANNOTATORS = "lllyasviel/Annotators"
EXTRA = "pip install 'bdkit[structure]'"


def canny_edges(image: Image.Image, *, low: float = CANNY_LOW, high: float = CANNY_HIGH) -> Image.Image:
    """Edges by Canny, white on black, RGB, of the image's own size.

    Args:
        low: gradients below this (of 0..255 values) are no edge.
        high: gradients above this are; those between are where they touch one.
    """
    return Image.fromarray(canny(np.asarray(as_rgb(image)), low, high)).convert("RGB")


def depth_map(image: Image.Image, *, model: str = DEPTH_MODEL) -> Image.Image:
    """Depth by a transformers depth-estimation model, near is bright, RGB, of the image's own size.

    Args:
        model: id or folder of the model.
    """
    from transformers import pipeline

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        estimator: Any = pipeline("depth-estimation", model=model, device=device)
    except (OSError, ValueError, RuntimeError) as error:
        line = str(error).strip().splitlines()[0]
        raise InputError(
            f"the depth model {model!r} cannot be read: {line}; fetch it once with a network, or give a folder"
        ) from None
    depth: Image.Image = estimator(as_rgb(image))["depth"]
    return depth.convert("L").resize(image.size, Image.Resampling.BICUBIC).convert("RGB")


def hed_edges(image: Image.Image, *, scribble: bool = False, model: str = ANNOTATORS) -> Image.Image:
    """Soft edges by HED, or scribbles made of them, white on black, RGB, of the image's own size.

    Args:
        model: id or folder with the weights, ControlNetHED.pth.
    """
    try:
        from controlnet_aux import HEDdetector
    except ImportError:
        kind = "scribble" if scribble else "hed"
        raise InputError(f"the structure {kind!r} needs controlnet_aux; install it with: {EXTRA}") from None
    try:
        detector = HEDdetector.from_pretrained(model)
    except Exception as error:  # a damaged pickle raises anything
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"the weights of HED ({model}) cannot be read: {line}; fetch them once with a network, or give a folder"
        ) from None
    side = max(64, min(image.size))  # it works on multiples of 64
    edges: Image.Image = detector(as_rgb(image), detect_resolution=side, image_resolution=side, scribble=scribble)
    return edges.convert("RGB").resize(image.size, Image.Resampling.BICUBIC)


def scribbles(image: Image.Image, *, model: str = ANNOTATORS) -> Image.Image:
    """Scribbles, as if drawn by hand, from HED's soft edges; see `hed_edges`."""
    return hed_edges(image, scribble=True, model=model)


STRUCTURES: dict[str, Callable[..., Image.Image]] = {
    "canny": canny_edges,
    "depth": depth_map,
    "hed": hed_edges,
    "scribble": scribbles,
}


def structure_map(kind: str, image: Image.Image, height: int, width: int, **settings: Any) -> Image.Image:
    """The structure of a photo, found at the size that will be drawn; RGB, width x height.

    The photo covers that size and is cropped at its centre.

    Args:
        kind: a key of `STRUCTURES`.
        settings: further arguments of that function, such as ``low`` and ``high`` of `canny_edges`.
    """
    if kind not in STRUCTURES:
        raise InputError(f"unknown structure {kind!r}; known are {', '.join(STRUCTURES)}")
    fitted = ImageOps.fit(as_rgb(image), (width, height), Image.Resampling.BICUBIC)
    return STRUCTURES[kind](fitted, **settings)
