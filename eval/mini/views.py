"""How images are shown to evaluators in training: cropped, moved, lit otherwise, and damaged.

Evaluators score images that come out of an autoencoder after a few sampling steps: a little blurred, with blocky or
noisy patches. An evaluator that never saw that would measure sharpness instead of identity or content; hence `degrade`.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F


def to_tensor(images: npt.NDArray[np.uint8]) -> Tensor:
    """Images (B, H, W, 3) of 0..255 as float32 (B, 3, H, W) of -1..1, channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Numbers (n, 1, 1, 1), one for each image of a batch."""
    return torch.rand(n, 1, 1, 1, generator=generator) * (high - low) + low


def crop(x: Tensor, size: int, area: tuple[float, float], flip: bool, generator: torch.Generator) -> Tensor:
    """A random square crop of each image, holding `area` of it, resized to `size`; mirrored half the time."""
    n = len(x)
    side = uniform(n, *area, generator).sqrt().flatten()
    room = 1 - side
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, 0, 2] = (torch.rand(n, generator=generator) * 2 - 1) * room
    theta[:, 1, 2] = (torch.rand(n, generator=generator) * 2 - 1) * room
    if flip:
        theta[:, 0, 0] *= 1.0 - 2.0 * (torch.rand(n, generator=generator) < 0.5)
    return _sample(x, theta, size)


def jiggle(x: Tensor, zoom: float, shift: float, generator: torch.Generator) -> Tensor:
    """Zoom each image by up to 1 +- `zoom` and move it by up to `shift` of its half width; edges are mirrored."""
    n = len(x)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = uniform(n, 1 - zoom, 1 + zoom, generator).flatten()
    theta[:, :, 2] = (torch.rand(n, 2, generator=generator) * 2 - 1) * shift
    return _sample(x, theta, x.shape[-1])


def light(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Brightness and contrast, each changed by up to `strength`. Colours stay: they are part of identity."""
    contrast = uniform(len(x), 1 - strength, 1 + strength, generator)
    return (x * contrast + uniform(len(x), -strength, strength, generator)).clamp(-1, 1)


def degrade(x: Tensor, generator: torch.Generator, share: float = 0.6) -> Tensor:
    """Blur, JPEG-like quantisation and noise, each of random strength, on about `share` of the images."""
    n = len(x)
    chosen = (torch.rand(n, 1, 1, 1, generator=generator) < share).float()
    soft = _blur(x)
    damaged = x + uniform(n, 0.0, 1.0, generator) * (soft - x)
    # every third image is blurred once more: to a gaussian of at most 1.3 pixels
    softer = (torch.rand(n, 1, 1, 1, generator=generator) < 0.33).float()
    damaged = damaged + softer * (_blur(_blur(damaged)) - damaged)
    damaged = _quantise(damaged, uniform(n, 0.005, 0.09, generator))
    noise = torch.randn(x.shape, generator=generator).contiguous(memory_format=torch.channels_last)
    damaged = damaged + uniform(n, 0.0, 0.09, generator) * noise
    return (x + chosen * (damaged - x)).clamp(-1, 1)


def _sample(x: Tensor, theta: Tensor, size: int) -> Tensor:
    grid = F.affine_grid(theta, [len(x), 3, size, size], align_corners=False)
    # a small image from a large part of a big one would alias: soften before
    source = _blur(x) if size < x.shape[-1] else x
    out = F.grid_sample(source, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return out.contiguous(memory_format=torch.channels_last)


def _blur(x: Tensor) -> Tensor:
    """A binomial filter of three taps in each direction (a gaussian of about 0.7 pixels)."""
    wide = torch.cat([x[..., :1], x, x[..., -1:]], dim=-1)
    x = 0.5 * x + 0.25 * (wide[..., :-2] + wide[..., 2:])
    tall = torch.cat([x[:, :, :1], x, x[:, :, -1:]], dim=2)
    return 0.5 * x + 0.25 * (tall[:, :, :-2] + tall[:, :, 2:])


def _cosines(size: int = 8) -> Tensor:
    k = torch.arange(size, dtype=torch.float32)
    matrix = torch.cos(torch.pi * (2 * k[None] + 1) * k[:, None] / (2 * size)) * (2 / size) ** 0.5
    matrix[0] /= 2**0.5
    return matrix


_DCT = _cosines()
_STEPS = 1.0 + torch.arange(8).view(8, 1) + torch.arange(8).view(1, 8)


def _quantise(x: Tensor, strength: Tensor) -> Tensor:
    """Round the cosine coefficients of 8 x 8 blocks, high frequencies the coarsest, as JPEG does."""
    n, channels, height, width = x.shape
    blocks = x.reshape(n, channels, height // 8, 8, width // 8, 8).permute(0, 1, 2, 4, 3, 5)
    coefficients = _DCT @ blocks @ _DCT.T
    step = strength.view(n, 1, 1, 1, 1, 1) * _STEPS
    blocks = _DCT.T @ ((coefficients / step).round_() * step) @ _DCT
    out = blocks.permute(0, 1, 2, 4, 3, 5).reshape(n, channels, height, width)
    return out.contiguous(memory_format=torch.channels_last)
