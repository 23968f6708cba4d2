"""Models of random weights in the sizes of `bdkit.models.configs`, for counting and timing."""

import torch
from diffusers import PNDMScheduler

from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.configs import PUBLIC_SCHEDULER, ModelConfig
from bdkit.models.tokenizers import bert_tokenizer, clip_tokenizer
from bdkit.testing.seeded_weights import TINY_WORDS


def random_model(config: ModelConfig, device: str | torch.device = "cpu") -> BlipDiffusion:
    """A `BlipDiffusion` of random float32 weights, made on ``device`` ("meta" for counting); its images are noise."""
    tokenizer = clip_tokenizer(TINY_WORDS, config.text_encoder["max_position_embeddings"])
    with torch.device(device):
        model = BlipDiffusion.from_config(
            config, tokenizer, bert_tokenizer(TINY_WORDS, 32), PNDMScheduler(**PUBLIC_SCHEDULER)
        )
    model.unet.to(memory_format=torch.channels_last)
    return model
