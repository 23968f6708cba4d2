"""Weights that depend on a parameter's name alone, and the sizes of the tiny checkpoints made of them.

Imports neither transformers nor diffusers, so that other versions of both can make the very same weights: the parity
tests record the reference's images in a virtual environment of its own (tests/reference).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

TINY_WORDS = (
    *("a", "an", "and", "beach", "blue", "cat", "city", "dog", "forest", "grass", "in", "is", "jungle", "low", "on"),
    *("photo", "picture", "quality", "red", "shiny", "snow", "swimming", "the", "top", "underwater", "vase", "with"),
)
TINY_VISION: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
TINY_QFORMER: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "cross_attention_frequency": 1,
    "encoder_hidden_size": 128,
}
TINY_QUERIES = 16
TINY_TEXT: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
    "projection_dim": 128,
    "hidden_act": "quick_gelu",
}
TINY_UNET: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 128,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
TINY_CONTROLNET: dict[str, Any] = {
    **{key: TINY_UNET[key] for key in TINY_UNET if key not in ("sample_size", "up_block_types")},
    "conditioning_embedding_out_channels": (8, 16),
}
TINY_VAE: dict[str, Any] = {
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": 32,
}
PUBLIC_SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 0,
}


def seeded_tensor(name: str, shape: Sequence[int], seed: int = 0) -> Tensor:
    """float32 random values that depend on ``name``, ``shape`` and ``seed`` alone, of a size that keeps a net stable.

    Uses NumPy's ``RandomState``, whose stream is frozen for all versions.
    """
    if name.endswith("position_ids"):
        return torch.arange(math.prod(shape)).reshape(tuple(shape))
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    values = np.random.RandomState(int.from_bytes(digest[:4], "little")).standard_normal(tuple(shape))
    if len(shape) <= 1:
        scale, shift = 0.1, 1.0 if name.endswith("weight") else 0.0
    elif name.endswith("query_tokens") or re.search(r"(word|token|position|class)_embedding", name):
        scale, shift = 0.5, 0.0
    else:
        scale, shift = 1 / math.sqrt(math.prod(shape[1:])), 0.0
    return torch.from_numpy((shift + scale * values).astype(np.float32))


def seeded_state(shapes: Mapping[str, Sequence[int]], part: str, seed: int = 0) -> dict[str, Tensor]:
    """A state dict of such tensors; ``part`` ("unet", "qformer", ...) keeps equal names in two parts apart."""
    return {name: seeded_tensor(f"{part}/{name}", shape, seed) for name, shape in shapes.items()}
