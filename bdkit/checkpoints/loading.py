"""Which layout a folder has, and what it is made of."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bdkit.checkpoints.diffusers_format import is_public_diffusers, load_public_diffusers
from bdkit.checkpoints.files import has_weights, read_weights
from bdkit.checkpoints.hub import fetch_configs, is_hub_id
from bdkit.checkpoints.keys import FROM_FILE
from bdkit.checkpoints.lavis_format import is_lavis, load_lavis
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.options import LoadOptions
from bdkit.utils.errors import InputError
from bdkit.utils.io import read_json

RECORD = "bdkit.json"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_foreign(folder: Path, options: LoadOptions) -> BlipDiffusion | None:
    """A model in a layout of others; None for a folder that can only be bdkit's own.

    Raises:
        InputError: see the loaders; also for a plain Stable Diffusion folder, which has no subject encoder.
    """
    if (folder / RECORD).exists():
        return None
    if is_public_diffusers(folder):
        return load_public_diffusers(folder, options)
    if is_lavis(folder):
        return load_lavis(folder, options)
    index = folder / "model_index.json"
    if index.exists() and str(read_json(index).get("_class_name")).startswith("StableDiffusion"):
        raise InputError(
            f"{folder} is a plain Stable Diffusion model: it has no subject encoder; give a BLIP-Diffusion checkpoint, "
            "and this one as base"
        )
    return None


def resolve_base(base: str | Path | None, *, local_files_only: bool = False) -> Path | None:
    """The folder of ``base``; of a hub id only configs, tokenizer and scheduler are fetched."""
    if base is None:
        return None
    if Path(base).is_dir():
        return Path(base)
    if is_hub_id(str(base)):
        return fetch_configs(str(base), local_files_only=local_files_only)
    raise InputError(f"no base model at {str(base)!r}; give a Stable Diffusion 1.5 folder")


def compare_with_base(model: BlipDiffusion, base: Path) -> list[str]:
    """Warns of parts that stage 2 trains (Sec. 3.2), but that are those of the plain base model; returns their names.

    A published converter kept Stable Diffusion's own U-Net and text encoder. Compared are
    values, in half precision where one of the two was saved in it.
    """
    parts: dict[str, Mapping[str, Tensor]] = {
        "unet": model.unet.state_dict(),
        "text_encoder": model.text_encoder.model.state_dict(),
    }
    same = []
    for part, ours in parts.items():
        if has_weights(base / part, part):
            theirs = FROM_FILE[part](read_weights(base / part, part))
            if ours.keys() == theirs.keys() and all(_equal(ours[name], theirs[name]) for name in ours):
                same.append(part)
    if same:
        warnings.warn(
            f"{' and '.join(same)} of {model.source} are those of the plain base model {base}, though stage 2 trains "
            "them: this checkpoint was converted without them, and its images are not those of BLIP-Diffusion",
            stacklevel=4,
        )
    return same


def _equal(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    left, right = ours.detach().cpu().float(), theirs.float()
    if torch.equal(left, right):
        return True
    rounded = any(torch.equal(value.half().float(), value) for value in (left, right))  # saved in half precision
    return rounded and torch.equal(left.half(), right.half())
