"""Checkpoints out, in each format: whole folders or nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from bdkit.checkpoints.files import new_folder, save_diffusers_part, save_tensors
from bdkit.checkpoints.formats.diffusers_format import save_public_diffusers, save_stable_diffusion
from bdkit.checkpoints.formats.lavis_format import save_lavis
from bdkit.checkpoints.load import PARTS, RECORD, SUBJECT
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.latent_diffusion import LatentDiffusion
from bdkit.models.prompts import Conventions
from bdkit.utils.io import file_hash, read_json, write_json


def save_model(model: LatentDiffusion, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """See `LatentDiffusion.save_pretrained`: a BLIP-Diffusion in bdkit's format, a plain one as Stable Diffusion's."""
    if isinstance(model, BlipDiffusion):
        return save_blip_diffusion(model, folder, dtype)
    return save_stable_diffusion(model, folder, dtype)


def save_blip_diffusion(
    model: BlipDiffusion,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    *,
    only: tuple[str, ...] = PARTS,
    parts_from: str | None = None,
) -> Path:
    """Writes bdkit's format: diffusers' folders, safetensors only, and a record with the hash of every weight file.

    Args:
        only: the parts to write; the others are looked up in ``parts_from``, a path relative to ``folder``.
    """
    with new_folder(folder) as temporary:
        with _quiet():
            for part in only:
                _write_part(model, part, temporary / part, dtype)
        write_json(_model_index(model), temporary / "model_index.json")
        left_out = ("sha256", "subject_class", "parts_from", "conventions")
        record = {key: value for key, value in model.record.items() if key not in left_out}
        if model.subject_embeddings is not None:
            save_tensors({"subject_embeddings": model.subject_embeddings}, temporary / SUBJECT, torch.float32)
            record["subject_class"] = model.subject_class
        if parts_from is not None:
            record["parts_from"] = parts_from
        if model.conventions != Conventions():
            record["conventions"] = asdict(model.conventions)
        record |= {"bdkit": version("bdkit"), "defaults": asdict(model.defaults)}
        files = sorted(temporary.rglob("*.safetensors"))
        record["sha256"] = {str(path.relative_to(temporary)): file_hash(path) for path in files}
        write_json(record, temporary / RECORD)
    return folder


def _write_part(model: BlipDiffusion, part: str, folder: Path, dtype: torch.dtype) -> None:
    if part in ("vae", "unet"):
        save_diffusers_part(getattr(model, part), folder, dtype)
    elif part == "text_encoder":
        text = model.text_encoder.model
        state = {name: value.detach().to("cpu", dtype).contiguous() for name, value in text.state_dict().items()}
        text.save_pretrained(folder, safe_serialization=True, state_dict=state)
    elif part == "qformer":
        write_json(asdict(model.multimodal_encoder.config), folder / "config.json")
        save_tensors(model.multimodal_encoder.state_dict(), folder / "model.safetensors", dtype)
    else:  # tokenizers and scheduler
        getattr(model, part).save_pretrained(folder)


def _model_index(model: BlipDiffusion) -> dict[str, Any]:
    return {
        "_class_name": "BlipDiffusion",
        "_diffusers_version": diffusers.__version__,
        "vae": ["diffusers", type(model.vae).__name__],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "qformer": ["bdkit", "MultimodalEncoder"],
        "qformer_tokenizer": ["transformers", "BertTokenizer"],
        "scheduler": ["diffusers", type(model.scheduler).__name__],
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar for the second that saving takes; it would break into the caller's."""
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()


WRITERS: dict[str, Callable[[BlipDiffusion, Path, torch.dtype], Path]] = {
    "bdkit": save_blip_diffusion,
    "diffusers": save_public_diffusers,
    "lavis": save_lavis,
}
"""Each format by its name, as `bdkit convert --to` takes it."""


def add_controlnet(folder: Path, net: Any, dtype: torch.dtype) -> None:
    """Puts a ControlNet into a model's folder and names it in its index, as salesforce/blipdiffusion-controlnet does.

    LAVIS's format has no index, and so no place for one.
    """
    with new_folder(folder / "controlnet") as temporary:
        save_diffusers_part(net, temporary, dtype)
    path = folder / "model_index.json"
    index = {**read_json(path), "controlnet": ["diffusers", "ControlNetModel"]}
    if index["_class_name"] == "BlipDiffusionPipeline":
        index["_class_name"] = "BlipDiffusionControlNetPipeline"
    write_json(dict(sorted(index.items())), path)
