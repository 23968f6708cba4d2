"""Images to pixels and back, for the model under test; scoring has its own preprocessing in eval."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bdkit.utils.errors import InputError
from bdkit.utils.images import CLIP_MEAN, CLIP_STD
from bdkit.utils.rgb import as_rgb

AnyImage: TypeAlias = Image.Image | np.ndarray | Tensor
"""A PIL image, an array (H, W) or (H, W, C) or a tensor (C, H, W) or (H, W): see `bdkit.utils.rgb.as_rgb`."""


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """RGB, short side to ``size`` (bicubic, antialiased), centre crop to size x size."""
    image = as_rgb(image)
    if image.size == (size, size):
        return image
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


@dataclass(frozen=True, kw_only=True)
class SubjectPixels:
    """How a subject's image becomes the image encoder's input.

    Args:
        resize: "crop", short side to size, centre crop; "squash", both sides to size whatever the aspect, as the public
            diffusers code does; "torchvision", crop with torchvision's rounding of odd sides, as LAVIS does.
        mean, std: by channel, of values in 0..1.
        resample: Pillow's number of the filter (3 bicubic).
    """

    resize: Literal["crop", "squash", "torchvision"] = "crop"
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    resample: int = 3

    def __post_init__(self) -> None:
        if not all(len(values) == 3 and np.isfinite(values).all() for values in (self.mean, self.std)):
            raise InputError(f"pixels are normalised by mean {self.mean} and std {self.std}; give three numbers each")
        if min(self.std) <= 0 or self.resample not in set(Image.Resampling):
            raise InputError(f"pixels have std {self.std} and filter {self.resample}; use std above 0, filters 0 to 5")

    def __call__(self, images: Iterable[AnyImage], size: int) -> Tensor:
        """Images of any size to float32 pixels (B, 3, size, size), normalised."""
        rgb = [as_image(image) for image in images]
        if self.resize == "squash":
            resized = [p.resize((size, size), Image.Resampling(self.resample)) for p in rgb]
        elif self.resize == "torchvision":
            resized = [_torchvision_crop(p, size, Image.Resampling(self.resample)) for p in rgb]
        else:
            resized = [centre_crop(p, size) for p in rgb]
        values = torch.as_tensor(np.stack([np.asarray(p) for p in resized])).permute(0, 3, 1, 2).float() / 255
        return (values - torch.tensor(self.mean).view(3, 1, 1)) / torch.tensor(self.std).view(3, 1, 1)


def image_list(images: Any) -> list[Any]:
    """Images given alone, one after another or as a batch of arrays or tensors, as a list; InputError for no images."""
    if isinstance(images, Image.Image):
        return [images]
    if isinstance(images, np.ndarray | Tensor):
        return list(images) if images.ndim == 4 else [images]
    # a path or None is no list of images, though text can be taken apart
    if not isinstance(images, Iterable) or isinstance(images, str | bytes):
        as_image(images)
    return list(images)


def as_image(image: Any) -> Image.Image:
    """An RGB image of a PIL image, an array or a tensor; the same image as `read_image` gives of a file of it."""
    if isinstance(image, Tensor):
        tensor = image.detach().cpu()
        # numpy has no bfloat16
        array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        image = np.moveaxis(array, 0, -1) if array.ndim == 3 else array
        if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[0] not in (1, 2, 3, 4)):
            raise InputError(f"a tensor of shape {tuple(array.shape)} is no image; give (channels, height, width)")
    return as_rgb(image)


def _torchvision_crop(image: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    short, (width, height) = min(image.size), image.size
    long = int(size * max(width, height) / short)
    resized = (size, long) if width <= height else (long, size)
    if resized != image.size:
        image = image.resize(resized, resample)
    left, top = (round((side - size) / 2) for side in resized)
    return image.crop((left, top, left + size, top + size))


def pixels_from_arrays(arrays: np.ndarray | Tensor, *, clip: bool = False) -> Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W) on the same device: in -1..1, or normalised as CLIP does."""
    if clip:
        return normalise(arrays, CLIP_MEAN, CLIP_STD)
    return torch.as_tensor(arrays).permute(0, 3, 1, 2).float() / 255 * 2 - 1


def normalise(arrays: np.ndarray | Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W) on the same device, less the mean, divided by std, by channel."""
    values = torch.as_tensor(arrays).permute(0, 3, 1, 2).float() / 255
    return (values - values.new_tensor(mean).view(3, 1, 1)) / values.new_tensor(std).view(3, 1, 1)


def pixels_from_images(images: Sequence[Image.Image], size: int, *, clip: bool = False) -> Tensor:
    """Images of any size to pixels (B, 3, size, size)."""
    return pixels_from_arrays(np.stack([np.asarray(centre_crop(i, size)) for i in images]), clip=clip)


def to_unit(pixels: Tensor) -> Tensor:
    """Pixels in -1..1, any float type, to float32 in 0..1."""
    return (pixels.float() / 2 + 0.5).clamp(0, 1)


def to_images(pixels: Tensor) -> list[Image.Image]:
    """Pixels in -1..1, (B, 3, H, W), any float type, to RGB images."""
    values = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).byte()
    return [Image.fromarray(a) for a in values.permute(0, 2, 3, 1).cpu().numpy()]
