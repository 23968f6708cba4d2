"""Files that hold weights by themselves: what each is, and a Stable Diffusion v1 in the format of its first code."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    infer_diffusers_model_type,
)
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from bdkit.checkpoints.files import check_numbers, fill
from bdkit.checkpoints.formats.diffusers_format import TEXT_FIELDS, public_defaults
from bdkit.checkpoints.formats.keys import text_from_file
from bdkit.checkpoints.schedulers import load_plain_scheduler
from bdkit.checkpoints.tokenizers import load_clip_tokenizer
from bdkit.models.latent_diffusion import LatentDiffusion
from bdkit.models.text_encoder import SubjectTextEncoder
from bdkit.utils.errors import InputError
from bdkit.utils.io import read_json
from bdkit.utils.tensors import WRAPPERS, plain_names

READ = ("model", "lora", "word")
# A part of a name in the file, and what the file is: one of READ, or what to say. The first that fits.
KINDS = (
    ("string_to_param", "word"),
    ("emb_params", "word"),
    ("lora_te2_", "a LoRA of Stable Diffusion XL; give one of Stable Diffusion 1.5"),
    ("text_encoder_2.", "a LoRA of Stable Diffusion XL; give one of Stable Diffusion 1.5"),
    *(
        (mark, f"a LyCORIS file of the kind {kind}, which diffusers does not draw with either; give a plain LoRA")
        for mark, kind in (
            (".hada_w", "LoHa"),
            (".lokr_w", "LoKr"),
            ("dora_scale", "DoRA"),
            ("lora_magnitude_vector", "DoRA"),
            (".oft_", "OFT"),
            (".lora_mid.", "LoCon with Tucker decomposition"),
        )
    ),
    *(
        (mark, "lora")
        for mark in ("lora_unet_", "lora_te_", "lora_te1_", ".lora_A.", ".lora.", "_lora.", ".lora_down.")
    ),
    (".lora_linear_layer.", "lora"),
    (
        "_custom_diffusion.",
        "Custom Diffusion's keys and values alone; give their folder, with the word's file in it as learned_embeds.bin",
    ),
    ("ip_adapter.", "an IP-Adapter; bench it as a method of your own"),
    ("control_model.", "a ControlNet; give it with --controlnet, as a folder in diffusers' format"),
    ("controlnet_cond_embedding.", "a ControlNet; give its folder with --controlnet"),
    ("model.diffusion_model.", "model"),
    ("clip_g", "a learned word of Stable Diffusion XL; give one of Stable Diffusion 1.5"),
    ("conv_in.", "a U-Net or an autoencoder alone; give the folder of the whole model"),
    ("encoder.down.0.", "an autoencoder alone; give a whole model"),
    ("text_model.", "a text encoder alone; give the folder of the whole model"),
)


def unwrapped(content: Any) -> Any:
    """The weights of a training checkpoint, without the optimizer and the like beside them."""
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    return plain_names(content) if isinstance(content, Mapping) else content


def kind_of(content: Any, path: Path) -> str:
    """Which of READ a file's content is: "model", "lora", or a learned "word"; InputError names anything else."""
    names = list(content) if isinstance(content, Mapping) else []
    kind = next((kind for mark, kind in KINDS if any(mark in name for name in names)), None)
    if kind is None and names and all(_is_word(str(name), content[name]) for name in names):
        kind = "word"
    if kind is None:
        raise InputError(
            f"{path} holds no weights that are known; give a Stable Diffusion 1.5, a LoRA or a learned word, or the "
            "folder of a model"
        )
    if kind not in READ:
        raise InputError(f"{path} is {kind}")
    return kind


def _is_word(name: str, value: Any) -> bool:
    """Whether an entry of a file is a word and its vectors, as diffusers saves it, and no weight of a layer."""
    return isinstance(value, Tensor) and value.dim() <= 2 and not name.endswith((".weight", ".bias"))


def read_single_file(state: Mapping[str, Any], path: Path, base: Path, dtype: torch.dtype) -> LatentDiffusion:
    """A Stable Diffusion v1 from the weights of one file; the weights without EMA where it has both, as diffusers does.

    Args:
        base: folder with the configs, the tokenizer and the scheduler of the same architecture.
    """
    state = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    kind = infer_diffusers_model_type(state)
    if kind != "v1":
        raise InputError(
            f"{path} is a checkpoint of the kind {kind!r}; give a Stable Diffusion v1, or convert it to a folder with "
            "diffusers' from_single_file and save_pretrained"
        )
    unet = _built(UNet2DConditionModel, base / "unet")
    vae = _built(AutoencoderKL, base / "vae")
    try:
        parts = {
            "unet": convert_ldm_unet_checkpoint(dict(state), unet.config),
            "vae": convert_ldm_vae_checkpoint(dict(state), vae.config),
            "text_encoder": text_from_file(convert_ldm_clip_checkpoint(dict(state))),
        }
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(f"{path} does not fit the configs of {base}: {type(error).__name__} {error}") from None
    for part, tensors in parts.items():
        if not tensors:
            raise InputError(f"{path} holds no {part.replace('_', ' ')}; give a checkpoint with all parts")
    settings = read_json(base / "text_encoder" / "config.json")
    text = CLIPTextConfig(**{name: settings[name] for name in TEXT_FIELDS if name in settings})
    filled_vae = fill(lambda: AutoencoderKL.from_config(vae.config), parts["vae"], path, dtype)
    filled_unet = fill(lambda: UNet2DConditionModel.from_config(unet.config), parts["unet"], path, dtype)
    return LatentDiffusion(
        vae=filled_vae,
        unet=filled_unet.to(memory_format=torch.channels_last),
        text_encoder=SubjectTextEncoder(fill(lambda: CLIPTextModel(text), parts["text_encoder"], path, dtype)),
        tokenizer=load_clip_tokenizer(base / "tokenizer"),
        scheduler=load_plain_scheduler(base / "scheduler", _index(base)),
        defaults=replace(public_defaults(filled_unet, filled_vae), prompt_reps=1),
    )


def _index(base: Path) -> dict[str, Any]:
    path = base / "model_index.json"
    return read_json(path) if path.exists() else {}


def _built(kind: Any, folder: Path) -> Any:
    """A module of a folder's config without weights: its config has the fields that the file omits."""
    settings = read_json(folder / "config.json")
    check_numbers(kind, settings, folder)
    with init_empty_weights():
        return kind.from_config(settings)
