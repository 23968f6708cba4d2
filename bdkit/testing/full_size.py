"""Sizes of the public BLIP-Diffusion: Stable Diffusion v1-5's parts and the published multimodal encoder.

Fields of the stock classes, as in `bdkit.training.pretraining.presets`; for counting and timing with random weights. Trained weights bring
their own configs.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from bdkit.models.blip_diffusion import BlipDiffusion, GenerationDefaults
from bdkit.models.multimodal_encoder import MultimodalEncoder, MultimodalEncoderConfig
from bdkit.models.text_encoder import SubjectTextEncoder
from bdkit.models.tokenizers import bert_tokenizer, clip_tokenizer
from bdkit.testing.seeded_weights import (
    PUBLIC_SCHEDULER,
    TINY_CONTROLNET,
    TINY_QFORMER,
    TINY_TEXT,
    TINY_UNET,
    TINY_VAE,
    TINY_VISION,
    TINY_WORDS,
)

_UNET: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,  # this class's name for the number of heads
}
_QFORMER: dict[str, Any] = {
    "vocab_size": 30523,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
FULL_SIZE: dict[str, dict[str, Any]] = {
    "unet": _UNET,
    "controlnet": {key: value for key, value in _UNET.items() if key not in ("sample_size", "up_block_types")},
    "vae": {
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "latent_channels": 4,
        "sample_size": 512,
    },
    "text_encoder": {
        "vocab_size": 49408,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 77,
        "projection_dim": 768,
        "hidden_act": "quick_gelu",
    },
    "vision": {
        "hidden_size": 1024,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "image_size": 224,
        "patch_size": 14,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    },
    "qformer": _QFORMER,
}
"""Each part's sizes in the public checkpoint (Sec. 4.1)."""

TINY: dict[str, dict[str, Any]] = {
    "unet": TINY_UNET,
    "controlnet": TINY_CONTROLNET,
    "vae": TINY_VAE,
    "text_encoder": {**TINY_TEXT, "vocab_size": 512, "bos_token_id": 510, "eos_token_id": 511},
    "vision": TINY_VISION,
    "qformer": {key: TINY_QFORMER[key] for key in TINY_QFORMER if key in _QFORMER} | {"vocab_size": 512},
}
"""The same architecture in a few hundred thousand parameters."""


def random_model(sizes: dict[str, dict[str, Any]], device: str | torch.device = "cpu") -> BlipDiffusion:
    """A `BlipDiffusion` of random float32 weights, made on ``device`` ("meta" for counting); its images are noise.

    Args:
        sizes: `FULL_SIZE` or `TINY`.
    """
    with torch.device(device):
        multimodal = MultimodalEncoder(
            MultimodalEncoderConfig(
                vision=sizes["vision"],
                qformer=sizes["qformer"],
                num_query_tokens=16,
                projection_size=4 * sizes["qformer"]["hidden_size"],
                projection_dropout=0.1,
            )
        )
        text_encoder = CLIPTextModel(CLIPTextConfig(**sizes["text_encoder"]))
        unet, vae = UNet2DConditionModel(**sizes["unet"]), AutoencoderKL(**sizes["vae"])
    return BlipDiffusion(
        vae=vae,
        unet=unet.to(memory_format=torch.channels_last),
        text_encoder=SubjectTextEncoder(text_encoder),
        multimodal_encoder=multimodal,
        tokenizer=clip_tokenizer(TINY_WORDS, sizes["text_encoder"]["max_position_embeddings"]),
        qformer_tokenizer=bert_tokenizer(TINY_WORDS, 32),
        scheduler=PNDMScheduler(**PUBLIC_SCHEDULER),
        defaults=GenerationDefaults(resolution=sizes["vae"]["sample_size"], num_inference_steps=50),
    )


def random_controlnet(sizes: dict[str, dict[str, Any]], device: str | torch.device = "cpu") -> ControlNetModel:
    """A ControlNet of random weights that belongs to `random_model`'s U-Net; its last convolutions are nought."""
    with torch.device(device):
        return ControlNetModel(**sizes["controlnet"])
