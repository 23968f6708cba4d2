"""The only image preprocessing of the package: a decoded image to the pixels that a network sees."""

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from eval.score.protocols import Preprocessing

RESAMPLE = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def preprocess(image: Image.Image, how: Preprocessing) -> Image.Image:
    """An RGB image of `crop` x `crop` pixels, as torchvision makes it. One of the right size is not resampled."""
    image = image.convert("RGB")
    size = _resized(image.size, how)
    if image.size != size:
        image = image.resize(size, RESAMPLE[how.resample])
    left = round((image.width - how.crop) / 2)
    top = round((image.height - how.crop) / 2)
    if (left, top) == (0, 0) and image.size == (how.crop, how.crop):
        return image
    return image.crop((left, top, left + how.crop, top + how.crop))


def crop_pixels(image: Image.Image, how: Preprocessing) -> npt.NDArray[np.uint8]:
    """`preprocess` as an array (crop, crop, 3)."""
    return np.asarray(preprocess(image, how), dtype=np.uint8)


def normalise(crops: npt.NDArray[np.uint8], how: Preprocessing) -> Tensor:
    """Cropped pixels (n, crop, crop, 3) in 0..255 as a network's input (n, 3, crop, crop), float32."""
    batch = torch.from_numpy(crops).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format) / 255
    return (batch - torch.tensor(how.mean).view(3, 1, 1)) / torch.tensor(how.std).view(3, 1, 1)


def to_batch(images: list[Image.Image], how: Preprocessing) -> Tensor:
    """Preprocessed and normalised pixels (n, 3, crop, crop), float32."""
    return normalise(np.stack([crop_pixels(image, how) for image in images]), how)


def _resized(size: tuple[int, int], how: Preprocessing) -> tuple[int, int]:
    if how.short_side is None:
        return how.crop, how.crop
    short, long = sorted(size)
    if short == how.short_side:
        return size
    # the long side is cut, not rounded, as torchvision does
    scaled = int(how.short_side * long / short)
    return (how.short_side, scaled) if size[0] <= size[1] else (scaled, how.short_side)
