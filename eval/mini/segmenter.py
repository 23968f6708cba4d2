"""Where the subject is in an image of the mini world: the mask of a generated source, whose truth nobody drew.

Trained by `python -m eval.mini.segmenter` on subjects that only evaluators may see, and shipped. Like the other
evaluators it shares nothing with the model that it judges.
"""

import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from bdkit.miniworld.render import render
from bdkit.miniworld.subjects import CLASSES, generator, sample_subject
from bdkit.utils.errors import InputError
from bdkit.utils.io import write_atomically
from bdkit.utils.progress import progress_bar
from eval.mini.pool import SPLIT, random_scene
from eval.mini.views import degrade, to_tensor

WEIGHTS = Path(__file__).parent / "weights" / "segmenter.safetensors"
CHANNELS = (16, 32, 64, 96)
STEPS, BATCH, SEED = 900, 32, 9105


class SegmenterNet(nn.Module):
    """A small U-Net without a bridge at full size: (B, 3, 64, 64) in -1..1 -> logits (B, 64, 64)."""

    def __init__(self, channels: Sequence[int] = CHANNELS) -> None:
        super().__init__()
        inputs = (3, *channels[:-1])
        self.down = nn.ModuleList(_Block(a, b, stride=2) for a, b in zip(inputs, channels, strict=True))
        pairs = list(zip(channels[::-1], channels[-2::-1], strict=False))
        self.up = nn.ModuleList(_Block(above + below, below) for above, below in pairs)
        self.out = nn.Conv2d(channels[0] + 3, 1, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the subject at each pixel."""
        levels, h = [], x
        for block in self.down:
            h = block(h)
            levels.append(h)
        for block, level in zip(self.up, levels[-2::-1], strict=True):
            h = block(torch.cat([F.interpolate(h, scale_factor=2.0, mode="bilinear"), level], dim=1))
        return self.out(torch.cat([F.interpolate(h, scale_factor=2.0, mode="bilinear"), x], dim=1))[:, 0]


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.first(x)))
        return torch.relu(x + self.norm2(self.second(x)))


def load_segmenter(path: Path = WEIGHTS) -> SegmenterNet:
    """The shipped network, in fp32 and evaluation mode."""
    network = SegmenterNet()
    try:
        state = {name: tensor.float() for name, tensor in load_file(path).items()}
        missing, unknown = network.load_state_dict(state, strict=False)
    except (SafetensorError, RuntimeError, OSError, struct.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"the segmenter's weights {path} cannot be read: {reason}; reinstall the package") from error
    if unknown or [name for name in missing if not name.endswith("num_batches_tracked")]:
        raise InputError(f"the segmenter's weights {path} lack or have extra tensors; reinstall the package")
    return network.eval()


@torch.inference_mode()
def segment(network: SegmenterNet, images: Sequence[Image.Image]) -> npt.NDArray[np.bool_]:
    """Where each image shows its subject, (n, 64, 64); images of 64 x 64 pixels."""
    return (network(to_tensor(np.stack([np.asarray(image.convert("RGB")) for image in images]))) > 0).numpy()


def iou(mask: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Intersection over union of two masks, 0..1; 1 for two empty ones."""
    union = (mask | truth).sum()
    return float((mask & truth).sum() / union) if union else 1.0


def scenes(name: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images (n, 3, 64, 64) in -1..1 and masks (n, 64, 64) of random scenes, each of another individual."""
    images, masks = [], []
    for index in range(count):
        noun = CLASSES[index % len(CLASSES)]
        subject = sample_subject(noun, f"segmenter {name} {seed} {index}", split=SPLIT)
        rendering = render(random_scene(subject, generator("segmenter", name, seed, index), plain=index % 2 == 0))
        images.append(rendering.image)
        masks.append(rendering.alpha > 127)
    return to_tensor(np.stack(images)), torch.from_numpy(np.stack(masks))


def train(steps: int = STEPS, path: Path = WEIGHTS) -> float:
    """Trains, writes the weights in fp16, and returns the mean IoU on damaged images of other individuals."""
    torch.manual_seed(SEED)
    images, masks = scenes("train", 6000, SEED)
    network = SegmenterNet().train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    draw = torch.Generator().manual_seed(SEED)
    for _ in progress_bar(range(steps), desc="segmenter", unit=" steps"):
        rows = torch.randint(len(images), (BATCH,), generator=draw)
        x, y = degrade(images[rows], draw), masks[rows].float()
        flip = torch.rand(BATCH, 1, 1, generator=draw) < 0.5
        x, y = torch.where(flip[..., None], x.flip(-1), x), torch.where(flip, y.flip(-1), y)
        loss = F.binary_cross_entropy_with_logits(network(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    state = {name: value.half().contiguous() for name, value in network.state_dict().items() if value.dim()}
    write_atomically(path, lambda temporary: save_file(state, temporary))
    return measure(load_segmenter(path))


def measure(network: SegmenterNet, count: int = 300) -> float:
    """Mean IoU on blurred, quantised and noisy scenes of individuals that were not trained on."""
    images, masks = scenes("held-out", count, SEED)
    damaged = degrade(images, torch.Generator().manual_seed(0), share=1.0)
    with torch.inference_mode():
        found = (network(damaged) > 0).numpy()
    return float(np.mean([iou(a, b) for a, b in zip(found, masks.numpy(), strict=True)]))


if __name__ == "__main__":
    print(f"mean IoU on held-out scenes: {train(int(sys.argv[1]) if len(sys.argv) > 1 else STEPS):.3f}")
