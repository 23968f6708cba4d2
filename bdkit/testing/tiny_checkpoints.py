"""Tiny random checkpoints in every layout that bdkit reads: for tests, notebooks, and trials without weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, ControlNetModel, PNDMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from bdkit.checkpoints.diffusers_format import public_defaults, save_public_diffusers
from bdkit.checkpoints.keys import ours_to_public, public_to_ours, text_from_file, text_to_file
from bdkit.checkpoints.lavis_format import save_lavis
from bdkit.checkpoints.load import add_controlnet, save_model
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.conventions import Conventions
from bdkit.models.multimodal_encoder import MultimodalEncoder, MultimodalEncoderConfig
from bdkit.models.preprocessing import SubjectPixels
from bdkit.models.text_encoder import SubjectTextEncoder
from bdkit.models.tokenizers import bert_tokenizer, clip_tokenizer
from bdkit.testing.seeded_weights import (
    PUBLIC_SCHEDULER,
    TINY_CONTROLNET,
    TINY_QFORMER,
    TINY_QUERIES,
    TINY_TEXT,
    TINY_UNET,
    TINY_VAE,
    TINY_VISION,
    TINY_WORDS,
    seeded_state,
)
from bdkit.utils.errors import InputError

Layout = Literal["bdkit", "diffusers", "lavis"]
Writer = Callable[[BlipDiffusion, Path, torch.dtype], Path]
WRITERS: dict[str, Writer] = {"bdkit": save_model, "diffusers": save_public_diffusers, "lavis": save_lavis}


def write_tiny_checkpoint(
    folder: str | Path,
    layout: Layout = "diffusers",
    seed: int = 0,
    *,
    controlnet: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Writes a random checkpoint of the published architecture, for 32x32 images, some 10 MB.

    Each weight depends on ``seed`` and on its parameter's name in the public layout alone, so that all layouts hold the
    same model.

    Args:
        layout: "diffusers", the public one; "lavis"; or "bdkit", our own.
        controlnet: add a ``controlnet/``, as ``salesforce/blipdiffusion-controlnet`` has.

    Raises:
        InputError: unknown layout, or one that has no place for a ControlNet.
    """
    if layout not in WRITERS:
        raise InputError(f"unknown layout {layout!r}; use {', '.join(WRITERS)}")
    if controlnet and layout == "lavis":
        raise InputError("LAVIS's layout has no place for a ControlNet; write it in another one")
    folder = Path(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        WRITERS[layout](public_tiny_model(seed), folder, dtype)
    if controlnet:
        add_controlnet(folder, tiny_controlnet(seed), dtype)
    return folder


def public_tiny_model(seed: int = 0) -> BlipDiffusion:
    """The model that `write_tiny_checkpoint` writes; the random state of the process is left as it was."""
    with torch.random.fork_rng(devices=[]):
        return _model(seed)


def tiny_controlnet(seed: int = 0) -> ControlNetModel:
    """A random ControlNet that fits the tiny U-Net; its last convolutions are not zero, so that it steers."""
    with torch.random.fork_rng(devices=[]):
        return _seeded(ControlNetModel(**TINY_CONTROLNET), "controlnet", seed)


def _model(seed: int) -> BlipDiffusion:
    tokenizer = clip_tokenizer(TINY_WORDS, TINY_TEXT["max_position_embeddings"])
    words = bert_tokenizer(TINY_WORDS, TINY_QFORMER["max_position_embeddings"])
    text = CLIPTextModel(
        CLIPTextConfig(
            **TINY_TEXT,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    shapes = {name: value.shape for name, value in text_to_file(text.state_dict()).items()}
    text.load_state_dict(text_from_file(seeded_state(shapes, "text_encoder", seed)))
    encoder = MultimodalEncoder(
        MultimodalEncoderConfig(
            vision=TINY_VISION,
            qformer={**TINY_QFORMER, "vocab_size": len(words)},
            num_query_tokens=TINY_QUERIES,
            projection_size=4 * TINY_QFORMER["hidden_size"],
        )
    )
    shapes = {name: value.shape for name, value in ours_to_public(encoder.state_dict()).items()}
    encoder.load_state_dict(public_to_ours(seeded_state(shapes, "qformer", seed)))
    vae = _seeded(AutoencoderKL(**TINY_VAE), "vae", seed)
    unet = _seeded(UNet2DConditionModel(**TINY_UNET), "unet", seed)
    return BlipDiffusion(
        vae=vae,
        unet=unet,
        text_encoder=SubjectTextEncoder(text),
        multimodal_encoder=encoder,
        tokenizer=tokenizer,
        qformer_tokenizer=words,
        scheduler=PNDMScheduler(**PUBLIC_SCHEDULER),
        defaults=public_defaults(unet, vae),
        conventions=Conventions(template="public", pixels=SubjectPixels(resize="squash")),
        record={"layout": "tiny random checkpoint", "method_preset": "public"},
    )


def _seeded(module: Any, part: str, seed: int) -> Any:
    shapes = {name: value.shape for name, value in nn.Module.state_dict(module).items()}
    module.load_state_dict(seeded_state(shapes, part, seed))
    return module.eval()
