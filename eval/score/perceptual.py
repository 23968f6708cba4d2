"""LPIPS: how different two images look at each place (Zhang et al., arXiv 1801.03924), version 0.1 with AlexNet.

The network is torchvision's AlexNet; its weights and the five 1 x 1 layers on top are two files that need not be there.
"""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models import alexnet

from bdkit.utils.errors import InputError
from eval.score.checkpoints import WEIGHTS_DIR_VARIABLE, WeightsSource
from eval.score.metrics.base import FloatArray, PixelArray

FOLDER = "lpips-alex"
BACKBONE_FILE = "alexnet-owt-7be5be79.pth"
HEADS_FILE = "alex.pth"
# where each of AlexNet's five ReLUs ends, and how many channels it has
STAGES = ((0, 2, 64), (2, 5, 192), (5, 8, 384), (8, 10, 256), (10, 12, 256))
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
BATCH = 32


class Lpips(nn.Module):
    """The distance of two stacks of images, as a map. Its backbone is empty until weights are loaded."""

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):  # its classifier, nearly all of its weights, is not needed
            features = alexnet(weights=None).features
        self.backbone = features.to_empty(device="cpu")
        self.heads = nn.ModuleList(nn.Conv2d(channels, 1, 1, bias=False) for _, _, channels in STAGES)
        self.eval().requires_grad_(False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """(n, 3, H, W) and (n, 3, H, W) in -1..1, at least 31 pixels a side -> (n, H, W), from 0."""
        size = first.shape[-2:]
        shift, scale = (torch.tensor(v, device=first.device).view(3, 1, 1) for v in (SHIFT, SCALE))
        x, y = (first - shift) / scale, (second - shift) / scale
        total = first.new_zeros(len(first), 1, *size)
        for (start, end, _), head in zip(STAGES, self.heads, strict=True):
            stage = self.backbone[start:end]
            x, y = stage(x), stage(y)
            total += interpolate(head((_unit(x) - _unit(y)) ** 2), size=size, mode="bilinear", align_corners=False)
        return total[:, 0]


class PerceptualDistance:
    """LPIPS of stacks of images (n, H, W, 3) uint8 -> (n, H, W) float64."""

    def __init__(self, network: Lpips, device: str = "cpu") -> None:
        self.network, self.device = network.to(device), device

    @torch.inference_mode()
    def __call__(self, first: PixelArray, second: PixelArray) -> FloatArray:
        """The map of every pair. Raises ValueError for stacks of different shapes."""
        if first.shape != second.shape:
            raise ValueError(f"images of {first.shape} and of {second.shape} cannot be compared")
        maps = [np.zeros((0, *first.shape[1:3]))]
        for start in range(0, len(first), BATCH):
            pair = (_to_tensor(stack[start : start + BATCH]).to(self.device) for stack in (first, second))
            maps.append(self.network(*pair).double().cpu().numpy())
        return np.concatenate(maps)


def load_lpips(source: WeightsSource | None = None, device: str = "cpu") -> PerceptualDistance:
    """LPIPS with the published weights: the AlexNet of torchvision (from $BDKIT_WEIGHTS_DIR/lpips-alex/ or torch.hub's
    cache) and the layers on top (from the same folder, or from the package `lpips` where it is installed).

    Nothing is downloaded. Raises InputError when a file is absent or broken.
    """
    network = Lpips()
    backbone = _read(_find(BACKBONE_FILE, _hub_cache(), source), "features.", network.backbone)
    network.backbone.load_state_dict(backbone)
    heads = _read(_find(HEADS_FILE, _lpips_package(), source), "lin", network.heads)
    network.heads.load_state_dict(heads)
    return PerceptualDistance(network, device)


def _read(path: Path, prefix: str, network: nn.Module) -> dict[str, Tensor]:
    """The weights in a published file that belong to a part of the network."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        # LPIPS's layers are called lin0.model.1.weight and so on
        named = {
            name.removeprefix(prefix).replace(".model.1.", "."): value
            for name, value in state.items()
            if name.startswith(prefix)
        }
        shapes = {name: value.shape for name, value in network.state_dict().items()}
        if {name: value.shape for name, value in named.items()} != shapes:
            raise ValueError("other tensors than expected")
        return named
    except Exception as error:  # torch raises many kinds for a broken file
        raise InputError(
            f"{path} is broken or does not hold LPIPS's weights ({type(error).__name__}); download it again"
        ) from error


def _find(name: str, elsewhere: Path | None, source: WeightsSource | None) -> Path:
    folder = (source and source.folder) or os.environ.get(WEIGHTS_DIR_VARIABLE)
    places = [Path(folder) / FOLDER / name] if folder else []
    places += [elsewhere / name] if elsewhere else []
    for path in places:
        if path.is_file():
            return path
    raise InputError(
        f"LPIPS needs {name}, which is not here: put it in ${WEIGHTS_DIR_VARIABLE}/{FOLDER}/ "
        "(torchvision's AlexNet weights; the layers come with `pip install lpips`)"
    )


def _hub_cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _lpips_package() -> Path | None:
    found = find_spec("lpips")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "weights" / "v0.1"


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


def _to_tensor(pixels: PixelArray) -> Tensor:
    return torch.tensor(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
