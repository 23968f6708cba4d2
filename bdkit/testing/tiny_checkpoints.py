"""Tiny random checkpoints in every format that bdkit reads: for tests, notebooks, and trials without weights."""

import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import ControlNetModel, PNDMScheduler
from torch import nn

from bdkit.checkpoints.formats.keys import ours_to_public, public_to_ours, text_from_file, text_to_file
from bdkit.checkpoints.save import WRITERS, add_controlnet
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.configs import PUBLIC_SCHEDULER, TINY, TINY_CONTROLNET
from bdkit.models.preprocessing import SubjectPixels
from bdkit.models.prompts import Conventions
from bdkit.models.tokenizers import bert_tokenizer, clip_tokenizer
from bdkit.testing.seeded_weights import TINY_WORDS, seeded_state
from bdkit.utils.errors import InputError


def write_tiny_checkpoint(
    folder: str | Path,
    format: Literal["bdkit", "diffusers", "lavis"] = "diffusers",
    seed: int = 0,
    *,
    controlnet: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Writes a random checkpoint of the published architecture, for 32x32 images, some 10 MB.

    Each weight depends on ``seed`` and on its parameter's name in the public format alone, so that all formats hold the
    same model.

    Args:
        format: "diffusers", the public one; "lavis"; or "bdkit".
        controlnet: add a ``controlnet/``, as ``salesforce/blipdiffusion-controlnet`` has.
    """
    if format not in WRITERS:
        raise InputError(f"unknown format {format!r}; use {', '.join(WRITERS)}")
    if controlnet and format == "lavis":
        raise InputError("LAVIS's format has no place for a ControlNet; write it in another one")
    folder = Path(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        WRITERS[format](public_tiny_model(seed), folder, dtype)
    if controlnet:
        add_controlnet(folder, tiny_controlnet(seed), dtype)
    return folder


def public_tiny_model(seed: int = 0) -> BlipDiffusion:
    """The model that `write_tiny_checkpoint` writes; the random state of the process is left as it was."""
    text_length = TINY.text_encoder["max_position_embeddings"]
    with torch.random.fork_rng(devices=[]):
        model = BlipDiffusion.from_config(
            TINY,
            clip_tokenizer(TINY_WORDS, text_length),
            bert_tokenizer(TINY_WORDS, TINY.multimodal.qformer["max_position_embeddings"]),
            PNDMScheduler(**PUBLIC_SCHEDULER),
            conventions=Conventions(template="public", pixels=SubjectPixels(resize="squash")),
            record={"format": "tiny random checkpoint", "method_preset": "public"},
        )
    text, encoder = model.text_encoder.model, model.multimodal_encoder
    state = _seeded_like(text_to_file(text.state_dict()), "text_encoder", seed)
    text.load_state_dict(text_from_file(state))
    state = _seeded_like(ours_to_public(encoder.state_dict()), "qformer", seed)
    encoder.load_state_dict(public_to_ours(state))
    for part in ("vae", "unet"):
        _seed(getattr(model, part), part, seed)
    return model


def tiny_controlnet(seed: int = 0) -> ControlNetModel:
    """A random ControlNet that fits the tiny U-Net; its last convolutions are not zero, so that it steers."""
    with torch.random.fork_rng(devices=[]):
        net = ControlNetModel(**TINY_CONTROLNET)
    _seed(net, "controlnet", seed)
    return net.eval()


def _seed(module: nn.Module, part: str, seed: int) -> None:
    module.load_state_dict(_seeded_like(nn.Module.state_dict(module), part, seed))


def _seeded_like(state: dict[str, Any], part: str, seed: int) -> dict[str, torch.Tensor]:
    return seeded_state({name: value.shape for name, value in state.items()}, part, seed)
