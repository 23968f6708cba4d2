"""Structure distance: how far the self-similarity of two images is apart, as DINO's keys see it (arXiv 2201.00424)."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional

from eval.score.encoders import full_precision
from eval.score.protocols import IMAGENET_MEAN, IMAGENET_STD

SIDE = 224
SMALLEST = 1e-8


class StructureEncoder:
    """Self-similarity of an image's patches by the keys of a vision transformer's last block.

    Args:
        network: timm's, for SIDE x SIDE pixels; PIE-Bench takes DINO ViT-B/8, whose last block is layer 11.
        checkpoint: what a run record says of its weights.
    """

    def __init__(self, network: nn.Module, checkpoint: dict[str, str], device: str = "cpu") -> None:
        self.network = network.eval().requires_grad_(False).to(device)
        self.checkpoint, self.device = checkpoint, device

    @torch.inference_mode()
    def self_similarity(self, image: Image.Image, *, mended: bool = False) -> Tensor:
        """(t, t) float32 cosine similarities of the keys of all t tokens, the class token's included.

        The published code normalises values of 0..255 as if they were 0..1, and resizes without antialiasing (as
        torchvision 0.13, which it pins, does with tensors); `mended` does neither.
        """
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float().to(self.device)
        if mended:
            pixels = pixels / 255
        pixels = functional.resize(pixels, [SIDE, SIDE], antialias=mended)
        pixels = functional.normalize(pixels, list(IMAGENET_MEAN), list(IMAGENET_STD))
        kept: list[Tensor] = []
        blocks: Any = self.network.blocks
        hook = blocks[-1].attn.qkv.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
        try:
            with full_precision(self.device):
                self.network(pixels[None])
        finally:
            hook.remove()
        # queries, keys and values side by side, each with its heads concatenated
        keys = kept[0][0].float().chunk(3, dim=-1)[1]
        norms = keys.norm(dim=-1, keepdim=True)
        return (keys @ keys.T) / (norms @ norms.T).clamp(min=SMALLEST)


def structure_distance(first: Tensor, second: Tensor) -> float:
    """Mean squared difference of two self-similarities, from 0 (same structure)."""
    return float((first - second).square().mean())
