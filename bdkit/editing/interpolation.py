"""Between two subjects: their embeddings are interpolated while the initial noise stays."""

import io
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.utils.errors import InputError

PATHS = ("spherical", "linear")
BATCH = 4  # images drawn together; fixed, so that the same walk gives the same bytes
GAP = 2
FRAME_MS, END_MS = 120, 600  # how long a GIF shows a frame, and each end


def interpolate(first: Tensor, second: Tensor, steps: int, path: str = "spherical") -> Tensor:
    """Subject embeddings from ``first`` to ``second``, both included; (steps, Q, D).

    Args:
        first, second: (1, Q, D).
        steps: at least 2, evenly spaced.
        path: "linear", or "spherical": the direction of each of the Q vectors turns at a constant rate and its length
            changes linearly, so that vectors between are as long as those the model was trained with.
    """
    if path not in PATHS:
        raise InputError(f"unknown path {path!r} between two subjects; use {' or '.join(PATHS)}")
    if steps < 2:
        raise InputError(f"{steps} steps between two subjects; use at least 2, for both ends")
    if first.shape != second.shape or first.dim() != 3 or len(first) != 1:
        raise InputError(
            f"subject embeddings of shapes {tuple(first.shape)} and {tuple(second.shape)}; give two of (1, Q, D)"
        )
    share = torch.linspace(0, 1, steps, dtype=torch.float64, device=first.device)[:, None, None]
    a, b = first.double(), second.double()
    linear = (1 - share) * a + share * b
    if path == "linear":
        return linear.to(first.dtype)
    lengths = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    cosine = (a * b).sum(-1, keepdim=True) / (lengths[0] * lengths[1]).clamp(min=1e-12)
    angle = cosine.clamp(-1, 1).arccos()
    turned = ((1 - share) * angle).sin() * a / lengths[0] + (share * angle).sin() * b / lengths[1]
    spherical = turned / angle.sin() * ((1 - share) * lengths[0] + share * lengths[1])
    defined = (angle.sin() > 1e-6) & (lengths[0] > 0) & (lengths[1] > 0)  # else there is no one arc
    return torch.where(defined, spherical, linear).to(first.dtype)


def walk(
    model: BlipDiffusion,
    first: Tensor,
    second: Tensor,
    prompt: str,
    class_nouns: Sequence[str],
    *,
    steps: int = 9,
    path: str = "spherical",
    seed: int = 0,
    **settings: Any,
) -> list[Image.Image]:
    """Images of the subjects between two, all from one initial noise.

    Args:
        first, second: subject embeddings (1, Q, D).
        prompt: with ``{}`` where the subject goes.
        class_nouns: of the first and the second subject; where they differ, an image takes the nearer one's.
        steps, path: see `interpolate`.
        settings: further arguments of the model's call, such as guidance_scale.
    """
    embeddings = interpolate(first, second, steps, path)
    nouns = [class_nouns[0] if 2 * step < steps else class_nouns[1] for step in range(steps)]
    images: list[Image.Image] = []
    for start in range(0, steps, BATCH):
        chosen = slice(start, min(start + BATCH, steps))
        vectors = embeddings[chosen]
        images += model(
            [prompt] * len(vectors),
            subject_embeddings=vectors,
            target_subject=nouns[chosen],
            seeds=[seed] * len(vectors),
            **settings,
        )
    return images


def strip(images: Sequence[Image.Image]) -> Image.Image:
    """The images side by side, with white gaps."""
    width, height = images[0].size
    whole = Image.new("RGB", (len(images) * (width + GAP) - GAP, height), "white")
    for number, image in enumerate(images):
        whole.paste(image, (number * (width + GAP), 0))
    return whole


def gif(images: Sequence[Image.Image]) -> bytes:
    """An endless GIF, there and back, as the bytes of a file."""
    frames = [*images, *images[-2:0:-1]]
    ends = (0, len(images) - 1)
    durations = [END_MS if number in ends else FRAME_MS for number in range(len(frames))]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return buffer.getvalue()
