"""Pictures to pixels and back, for the model under test; scoring has its own preprocessing in eval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """RGB, short side to ``size`` (bicubic, antialiased), centre crop to size x size."""
    image = image.convert("RGB")
    if image.size == (size, size):
        return image
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def pixels_from_arrays(arrays: np.ndarray | Tensor, *, clip: bool = False) -> Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W): in -1..1, or normalised as CLIP does."""
    values = torch.as_tensor(arrays).permute(0, 3, 1, 2).float() / 255
    if not clip:
        return values * 2 - 1
    return (values - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)


def pixels_from_images(images: Sequence[Image.Image], size: int, *, clip: bool = False) -> Tensor:
    """Pictures of any size to pixels (B, 3, size, size)."""
    return pixels_from_arrays(np.stack([np.asarray(centre_crop(i, size)) for i in images]), clip=clip)


def to_images(pixels: Tensor) -> list[Image.Image]:
    """Pixels in -1..1, (B, 3, H, W), any float type, to RGB pictures."""
    values = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).byte()
    return [Image.fromarray(a) for a in values.permute(0, 2, 3, 1).cpu().numpy()]
