"""Plain Stable Diffusion v1 folders: the base that DreamBooth and Textual Inversion start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import diffusers
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTokenizer

from bdkit.checkpoints.diffusers_format import (
    load_scheduler,
    load_text_encoder,
    load_unet,
    load_vae,
    public_defaults,
    write_text_encoder_config,
)
from bdkit.checkpoints.keys import text_to_file
from bdkit.checkpoints.load import FINETUNED, load_model, new_folder, resolve, save_diffusers_part, save_tensors
from bdkit.checkpoints.tokenizers import load_clip_tokenizer, save_clip_tokenizer
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.latent_diffusion import Vae
from bdkit.models.options import LoadOptions
from bdkit.models.text_encoder import SubjectTextEncoder
from bdkit.utils.errors import InputError
from bdkit.utils.io import read_json, write_json

INDEX = "model_index.json"
PARTS = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")


class StableDiffusion(BlipDiffusion):
    """A `BlipDiffusion` without a multimodal encoder: text to image, and what learns a subject by training.

    Raises InputError wherever it is asked to look at a subject's images.
    """

    def __init__(
        self,
        *,
        vae: Vae,
        unet: UNet2DConditionModel,
        text_encoder: SubjectTextEncoder,
        tokenizer: CLIPTokenizer,
        scheduler: Any,
        record: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            vae=vae,
            unet=unet,
            text_encoder=text_encoder,
            multimodal_encoder=cast(Any, None),
            tokenizer=tokenizer,
            qformer_tokenizer=cast(Any, None),
            scheduler=scheduler,
            defaults=replace(public_defaults(unet, vae), prompt_reps=1),
            record=record,
        )

    @classmethod
    def from_pretrained(cls, path: str | Path, **options: Any) -> StableDiffusion:
        """A plain Stable Diffusion v1 from a folder or a hub id.

        Args:
            options: ``dtype`` of the weights in memory, and ``local_files_only`` to never ask the hub.

        Raises:
            InputError: see `load_stable_diffusion`.
        """
        dtype = options.pop("dtype", torch.float32)
        model = load_stable_diffusion(resolve(path, **options), dtype=dtype)
        model.source = str(path)
        return model

    def encode_subject(self, images: Any, subject: str | Sequence[str]) -> Tensor:
        """Raises InputError: there is nothing that could look at images."""
        raise InputError(
            f"{self.source or 'the model'} is a plain Stable Diffusion and cannot look at images; "
            "give a BLIP-Diffusion, or train dreambooth, dreambooth-lora or textual-inversion on them"
        )

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
        """Writes what ``StableDiffusionPipeline.from_pretrained`` reads, safetensors only; ``dtype`` of the weights."""
        place = Path(folder)
        with new_folder(place) as temporary:
            save_diffusers_part(self.vae, temporary / "vae", dtype)
            save_diffusers_part(self.unet, temporary / "unet", dtype)
            write_text_encoder_config(self, temporary / "text_encoder", "CLIPTextModel")
            text = text_to_file(self.text_encoder.model.state_dict())
            save_tensors(text, temporary / "text_encoder" / "model.safetensors", dtype)
            save_clip_tokenizer(self.tokenizer, temporary / "tokenizer")
            self.scheduler.save_pretrained(temporary / "scheduler")
            write_json(self._index(), temporary / INDEX)
            if self.record:
                write_json(self.record, temporary / FINETUNED)
        return place

    def _index(self) -> dict[str, Any]:
        return {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": diffusers.__version__,
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", type(self.scheduler).__name__],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", type(self.vae).__name__],
        }


def is_stable_diffusion(folder: Path) -> bool:
    """Whether a model folder holds the parts of text-to-image and no Q-Former."""
    if not (folder / INDEX).is_file():
        return False
    return all((folder / part).is_dir() for part in PARTS) and not (folder / "qformer").exists()


def load_base(path: str | Path, options: LoadOptions | None = None) -> BlipDiffusion:
    """What a method can start from: a BLIP-Diffusion in any layout, or a plain Stable Diffusion v1.

    Args:
        path: a folder, the name of a shipped model, or a hub id.
        options: see `BlipDiffusion.from_pretrained`; a Stable Diffusion needs no other part.

    Raises:
        InputError: no such model, or a folder that is neither.
    """
    options = options or LoadOptions()
    folder = resolve(path, local_files_only=options.local_files_only)
    if not is_stable_diffusion(folder):
        return load_model(path, options)
    model = load_stable_diffusion(folder, dtype=options.dtype)
    model.source, model.options = str(path), options
    return model


def load_stable_diffusion(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> StableDiffusion:
    """A plain Stable Diffusion v1 from a folder; the safety checker, where there is one, is not read.

    Raises:
        InputError: a part is missing, keys are missing or unexpected, or another family's model (such as SDXL).
    """
    place = Path(folder)
    if not is_stable_diffusion(place):
        raise InputError(f"{place} is no Stable Diffusion: it needs {INDEX} and {', '.join(PARTS)}, and no qformer")
    index = read_json(place / INDEX)
    if "text_encoder_2" in index or "XL" in str(index.get("_class_name")):
        raise InputError(f"{place} is a {index.get('_class_name')}; give a Stable Diffusion v1 model")
    vae, unet = load_vae(place / "vae", dtype), load_unet(place / "unet", dtype)
    model = StableDiffusion(
        vae=vae,
        unet=unet,
        text_encoder=load_text_encoder(place / "text_encoder", dtype),
        tokenizer=load_clip_tokenizer(place / "tokenizer"),
        scheduler=load_scheduler(place / "scheduler"),
        record=read_json(place / FINETUNED) if (place / FINETUNED).exists() else None,
    )
    model.source = str(folder)
    return model
