"""LoRAs and learned words of other programs, put into a model's own weights: diffusers, peft, kohya, A1111."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils.state_dict_utils import (
    DIFFUSERS_OLD_TO_PEFT,
    DIFFUSERS_TO_PEFT,
    UNET_TO_DIFFUSERS,
    convert_state_dict,
)
from torch import Tensor, nn

from bdkit.checkpoints.files import first_line
from bdkit.models.latent_diffusion import LatentDiffusion
from bdkit.utils.errors import InputError
from bdkit.utils.io import read_json
from bdkit.utils.tensors import Inert, read_metadata

KOHYA = ("lora_unet_", "lora_te_", "lora_te1_")
UP = re.compile(r"(\.|_)(lora_up|lora_B|up)\.")
A, B = ".lora_A.weight", ".lora_B.weight"
# To peft's names, whatever program wrote the file; a name is changed by the first that is in it
NAMES = {
    ".lora_down.": ".lora_A.",
    ".lora_up.": ".lora_B.",
    ".lora_A.default.": ".lora_A.",
    ".lora_B.default.": ".lora_B.",
}
PART_NAMES: dict[str, dict[str, str]] = {
    "unet": {**NAMES, **UNET_TO_DIFFUSERS},
    "text_encoder": {**NAMES, **DIFFUSERS_OLD_TO_PEFT, **DIFFUSERS_TO_PEFT},
}


def merge_lora(model: LatentDiffusion, state: Mapping[str, Tensor], path: Path) -> None:
    """Adds alpha / rank * B A to each weight that a LoRA changes, in float32.

    The names are diffusers' own, new or old, peft's, or kohya's; every one in the file is accounted for.
    """
    _check_tensors(state, path)
    settings = _settings(path)
    if any(name.endswith("use_dora") and value for name, value in settings.items()):
        raise InputError(f"{path} is a LyCORIS file of the kind DoRA; give a plain LoRA")
    modules: dict[str, nn.Module] = {"unet": model.unet, "text_encoder": model.text_encoder.model}
    parts = _by_part(_without_alphas(state, path), path)
    changes = [
        (weight, delta)
        for part, tensors in parts.items()
        for weight, delta in _changes(modules[part], part, tensors, settings, path)
    ]
    with torch.no_grad():
        for weight, delta in changes:
            weight.copy_(weight.float() + delta.to(weight.device))


def _check_tensors(state: Mapping[str, Tensor], path: Path) -> None:
    """Raises InputError for what is neither a matrix with numbers in it nor an alpha of one number."""
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise InputError(f"{path} holds {name}, which is no tensor; give a plain LoRA")
        what = "one finite number" if name.endswith(".alpha") else "a matrix of finite numbers"
        fits = value.numel() == 1 if name.endswith(".alpha") else value.dim() > 1 and value.numel() > 0
        if not fits or not value.isfinite().all():
            shown = f"of shape {tuple(value.shape)}" if not fits else "with numbers that are not finite"
            raise InputError(f"{path} holds {name} {shown}, where a LoRA has {what}; it is damaged, or no plain LoRA")


def _settings(path: Path) -> dict[str, Any]:
    """Rank and alpha as peft has them, by part ("unet.lora_alpha"), from the file's header or the file beside it."""
    text = read_metadata(path).get("lora_adapter_metadata")
    if text:
        try:
            settings = json.loads(text)
        except ValueError:
            settings = None
        if not isinstance(settings, dict):
            raise InputError(f"{path} has settings in its header that are no JSON object; save the LoRA again")
        return settings
    beside = path.with_name("adapter_config.json")
    if not beside.is_file():
        return {}
    return {f"{part}.{name}": value for name, value in read_json(beside).items() for part in PART_NAMES}


def _without_alphas(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The same LoRA with the file's alphas multiplied into the second matrices: alpha / rank is 1 in it."""
    result = {name: value.float() for name, value in state.items() if not name.endswith(".alpha")}
    for name in state.keys() - result.keys():
        module = name.removesuffix(".alpha")
        ups = [key for key in result if key.startswith((f"{module}.", f"{module}_")) and UP.search(key, len(module))]
        if len(ups) != 1:
            raise InputError(f"{path} has an alpha without its matrices: {name}; give the whole file")
        result[ups[0]] = result[ups[0]] * (state[name].float().item() / result[ups[0]].shape[1])
    return result


def _by_part(state: dict[str, Tensor], path: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of the U-Net and of the text encoder, by peft's names of today's modules."""
    if any(name.startswith(KOHYA) for name in state):
        try:
            state, _ = StableDiffusionPipeline.lora_state_dict(state)
        except (KeyError, ValueError) as error:
            raise InputError(f"{path} is a LoRA with names that diffusers does not know: {first_line(error)}") from None
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in PART_NAMES}
    for name, value in state.items():
        plain = name.removeprefix("base_model.model.")
        part = "text_encoder" if plain.startswith(("text_encoder.", "text_model.")) else "unet"
        parts[part][plain.removeprefix(f"{part}.").removeprefix("text_model.")] = value
    return {part: convert_state_dict(tensors, PART_NAMES[part]) for part, tensors in parts.items()}


def _changes(
    module: nn.Module, part: str, tensors: dict[str, Tensor], settings: Mapping[str, Any], path: Path
) -> list[tuple[Tensor, Tensor]]:
    """Each weight that a LoRA changes, and what is added to it."""
    layers, changes = dict(module.named_modules()), []
    names = sorted({name.removesuffix(A).removesuffix(B) for name in tensors})
    for name in names:
        if f"{name}{A}" not in tensors or f"{name}{B}" not in tensors:
            raise InputError(f"{path} is a LoRA with a tensor that is not known: {part}.{name}; give a plain LoRA")
        weight = getattr(layers.get(name), "weight", None)
        if weight is None:
            raise InputError(f"{path} does not fit the model: it is for a layer that the model lacks, {part}.{name}")
        down, up = tensors[f"{name}{A}"], tensors[f"{name}{B}"]
        down_shape, up_shape = down.flatten(1).shape, up.flatten(1).shape
        if up_shape[1] != down_shape[0] or (up_shape[0], down_shape[1]) != weight.flatten(1).shape:
            raise InputError(
                f"{path} does not fit the model: {part}.{name} is {tuple(weight.shape)}, the LoRA's matrices "
                f"{tuple(up.shape)} and {tuple(down.shape)}; was it trained on another kind of model?"
            )
        delta = up.flatten(1) @ down.flatten(1) * _scale(name, part, down.shape[0], settings, path)
        changes.append((weight, delta.reshape(weight.shape)))
    return changes


def _scale(name: str, part: str, rank: int, settings: Mapping[str, Any], path: Path) -> float:
    """What a layer's B A is multiplied with: alpha / rank of peft's settings; 1 without any."""
    alpha = settings.get(f"{part}.lora_alpha")
    patterns = settings.get(f"{part}.alpha_pattern") or {}
    try:
        for pattern, value in patterns.items():
            if re.match(rf"(.*\.)?({pattern})$", name):
                alpha = value
        scale = 1.0 if alpha is None else float(alpha) / (rank**0.5 if settings.get(f"{part}.use_rslora") else rank)
    except (AttributeError, TypeError, ValueError, re.error):
        scale = math.nan
    if not math.isfinite(scale):
        raise InputError(
            f"{path} has settings that cannot be used: lora_alpha {alpha!r}, alpha_pattern {patterns!r}; an alpha is a "
            "finite number, a pattern a regular expression"
        )
    return scale


def learned_word(content: Mapping[str, Any], path: Path) -> tuple[str, Tensor]:
    """A learned word and its vectors (N, D): diffusers' {word: vector}, or A1111's .pt or .safetensors.

    A1111's .safetensors do not name the word: it is the file's name, as there.
    """
    token = path.stem
    if "string_to_param" in content:
        token, values = content.get("name") or token, content["string_to_param"]
        if isinstance(values, Inert):  # a torch module, as the first code of Textual Inversion saves it
            values = (values.state or {}).get("_parameters")
        content = values if isinstance(values, Mapping) else {}
        vectors = next(iter(content.values()), None)
    elif "emb_params" in content:
        vectors = content["emb_params"]
    else:
        token, vectors = next(iter(content.items()))
    if len(content) > 1:
        raise InputError(f"{path} holds more than one learned word: {', '.join(map(str, content))}; give a file of one")
    if not isinstance(vectors, Tensor) or vectors.dim() not in (1, 2) or not vectors.numel():
        raise InputError(f"{path} holds no vectors of a learned word; give a Textual Inversion embedding")
    if not isinstance(token, str) or not vectors.isfinite().all():
        what = "vectors that are not finite" if isinstance(token, str) else f"a word with the name {token!r}"
        raise InputError(f"{path} holds {what}; give a Textual Inversion embedding")
    return token, vectors.detach().float().reshape(-1, vectors.shape[-1])
