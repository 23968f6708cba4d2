"""The sizes of models as data: mini, full and tiny; fields of the stock classes. Nothing here imports those."""

from dataclasses import dataclass, field
from typing import Any

RARE_TOKEN = "sks"  # DreamBooth's identifier: one token that no caption uses
PLACEHOLDER_TOKEN = "<*>"  # Textual Inversion's
MODIFIER_TOKEN = "<new1>"  # Custom Diffusion's


@dataclass(frozen=True, kw_only=True)
class GenerationDefaults:
    """What a model was made for; any call can override each of them.

    Args:
        resolution: pixels along a side.
        prompt_reps: how often the text is repeated ("a hacky way to amplify the prompt strength" of the public code).
    """

    resolution: int = 512
    guidance_scale: float = 7.5
    num_inference_steps: int = 50
    prompt_reps: int = 1
    negative_prompt: str = ""


@dataclass(frozen=True, kw_only=True)
class MultimodalEncoderConfig:
    """Sizes of the multimodal encoder; ``vision`` and ``qformer`` are the stock classes' fields."""

    vision: dict[str, Any] = field(default_factory=dict)
    qformer: dict[str, Any] = field(default_factory=dict)
    num_query_tokens: int = 16
    projection_size: int = 3072
    projection_dropout: float = 0.1
    output_scale: float | None = None


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """What Re-Imagen (arXiv 2209.14491) adds to a U-Net.

    heads: of the attention to the neighbours
    up_block: the block of the up half before which it stands, counted from 0: between the halves
    """

    heads: int = 8
    up_block: int = 0


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of a model; a vocabulary that is not stated has the size of the tokenizer's.

    Args:
        clip_text: the text encoder that the image encoder is trained against, before stage 1; then it is thrown away.
    """

    vae: dict[str, Any]
    unet: dict[str, Any]
    text_encoder: dict[str, Any]
    multimodal: MultimodalEncoderConfig
    clip_text: dict[str, Any] = field(default_factory=dict)
    defaults: GenerationDefaults


MINI = ModelConfig(
    # 64 px to 16x16x4 latents: at 8x8 the reconstructions lose the subject's identity.
    vae={
        "encoder_block_out_channels": (32, 32, 32),
        "decoder_block_out_channels": (32, 32, 32),
        "num_encoder_blocks": (0, 2, 3),
        "num_decoder_blocks": (3, 2, 1),
        "latent_channels": 4,
    },
    unet={
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (64, 128, 160),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 192,
        "attention_head_dim": 4,  # this class's name for the number of heads
        "norm_num_groups": 16,
    },
    text_encoder={
        "hidden_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "max_position_embeddings": 48,  # 32 for the text + 16 for the subject
        "hidden_act": "quick_gelu",
        "projection_dim": 128,
    },
    multimodal=MultimodalEncoderConfig(
        vision={
            "hidden_size": 160,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "intermediate_size": 640,
            "image_size": 64,
            "patch_size": 8,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
        },
        qformer={
            "hidden_size": 192,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 384,
            "max_position_embeddings": 48,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        num_query_tokens=16,
        projection_size=768,
        projection_dropout=0.0,
        output_scale=0.02,
    ),
    clip_text={
        "hidden_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "max_position_embeddings": 40,
    },
    defaults=GenerationDefaults(resolution=64, guidance_scale=4.0, num_inference_steps=16),
)

# The public BLIP-Diffusion (Sec. 4.1): Stable Diffusion v1-5's parts and the published multimodal encoder.
FULL = ModelConfig(
    vae={
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "latent_channels": 4,
        "sample_size": 512,
    },
    unet={
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    text_encoder={
        "vocab_size": 49408,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 77,
        "projection_dim": 768,
        "hidden_act": "quick_gelu",
    },
    multimodal=MultimodalEncoderConfig(
        vision={
            "hidden_size": 1024,
            "num_hidden_layers": 23,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "image_size": 224,
            "patch_size": 14,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
        },
        qformer={
            "vocab_size": 30523,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "max_position_embeddings": 512,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
        },
    ),
    defaults=GenerationDefaults(prompt_reps=20),
)

# The same architecture in a few hundred thousand parameters, for 32x32 images.
TINY = ModelConfig(
    vae={
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
        "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
        "latent_channels": 4,
        "norm_num_groups": 8,
        "sample_size": 32,
    },
    unet={
        "sample_size": 16,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 128,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    },
    text_encoder={
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "projection_dim": 128,
        "hidden_act": "quick_gelu",
    },
    multimodal=MultimodalEncoderConfig(
        vision={
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
        },
        qformer={
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
            "cross_attention_frequency": 1,
            "encoder_hidden_size": 128,
        },
        projection_size=512,
    ),
    defaults=GenerationDefaults(resolution=32, prompt_reps=20),
)

PUBLIC_SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 0,
}
"""The fields of the public checkpoint's PNDM."""


def _controlnet(config: ModelConfig, embedding: tuple[int, ...]) -> dict[str, Any]:
    """The fields of a ControlNet that belongs to a model's U-Net and autoencoder."""
    shared = {key: value for key, value in config.unet.items() if key not in ("sample_size", "up_block_types")}
    return {**shared, "conditioning_embedding_out_channels": embedding}


FULL_CONTROLNET = _controlnet(FULL, (16, 32, 96, 256))
TINY_CONTROLNET = _controlnet(TINY, (8, 16))
