"""A model of random weights that is built in milliseconds: for tests, and to show mechanisms that need no training."""

from collections.abc import Sequence

import torch
from diffusers import PNDMScheduler

from bdkit.losses import NOISE_SCHEDULE
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.configs import GenerationDefaults, ModelConfig, MultimodalEncoderConfig
from bdkit.models.tokenizers import bert_tokenizer, clip_tokenizer

WIDTH = 32
TEXT_LENGTH = 16
WORDS = (
    *("a", "an", "and", "around", "background", "backpack", "beach", "blue", "cat", "chef", "city", "dog", "fabric"),
    *("floor", "forest", "grass", "green", "hat", "house", "image", "in", "jungle", "mirror", "of", "on", "outfit"),
    *("photo", "picture", "pink", "purple", "red", "rug", "shiny", "snow", "street", "the", "top", "toy", "tree"),
    *("vase", "wearing", "wet", "white", "with", "wooden"),
)


def tiny_model(
    seed: int = 0, *, queries: int = 4, words: Sequence[str] = WORDS, size: int = 32, text_length: int = TEXT_LENGTH
) -> BlipDiffusion:
    """A whole `BlipDiffusion` of 32 channels for 32x32 images (8x8x4 latents), weights random in ``seed``.

    Its parts are the stock classes of every other size. The random state of the process is left as it was.

    Args:
        queries: number of subject vectors; the text encoder has as many positions more than its 16 for the text.
        words: what the tokenizers know as one token each; anything else is spelt in bytes.
        size: of the images, a multiple of 32.
        text_length: positions of the text encoder for the text.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(queries, words, size, text_length)


def _build(queries: int, words: Sequence[str], size: int, text_length: int) -> BlipDiffusion:
    length = text_length + queries
    layers = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 2 * WIDTH}
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = ModelConfig(
        vae={
            "encoder_block_out_channels": (16, 16, 16),
            "decoder_block_out_channels": (16, 16, 16),
            "num_encoder_blocks": (1, 1, 1),
            "num_decoder_blocks": (1, 1, 1),
            "latent_channels": 4,
        },
        unet={
            "sample_size": size // 4,
            "block_out_channels": (WIDTH, WIDTH),
            "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "cross_attention_dim": WIDTH,
            "attention_head_dim": 2,
            "norm_num_groups": 8,
        },
        text_encoder={**layers, "max_position_embeddings": length, "projection_dim": WIDTH},
        multimodal=MultimodalEncoderConfig(
            vision={**layers, "image_size": size, "patch_size": size // 4},
            qformer={**layers, "max_position_embeddings": 32, **no_dropout},
            num_query_tokens=queries,
            projection_size=2 * WIDTH,
            projection_dropout=0.0,
            output_scale=0.02,
        ),
        defaults=GenerationDefaults(resolution=size, guidance_scale=3.0, num_inference_steps=3),
    )
    scheduler = PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **NOISE_SCHEDULE)
    return BlipDiffusion.from_config(
        config, clip_tokenizer(words, length), bert_tokenizer(words, TEXT_LENGTH), scheduler
    )
