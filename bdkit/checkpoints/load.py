"""Checkpoints in: which format a folder has, and the model that it holds."""

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from bdkit.checkpoints.files import (
    FINETUNED,
    RE_IMAGEN,
    STEMS,
    LoadOptions,
    adapter_file,
    fill,
    has_weights,
    read_weights,
    reading,
    recover_folder,
    weight_files,
)
from bdkit.checkpoints.formats.diffusers_format import (
    INDEX,
    check_parts,
    is_public_diffusers,
    is_stable_diffusion,
    load_parts,
    load_public_diffusers,
    read_stable_diffusion,
)
from bdkit.checkpoints.formats.keys import FROM_FILE
from bdkit.checkpoints.formats.lavis_format import is_lavis, lavis_files, load_lavis
from bdkit.checkpoints.hub import fetch_checkpoint, fetch_configs, is_hub_id
from bdkit.checkpoints.tokenizers import load_bert_tokenizer
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.configs import GenerationDefaults, MultimodalEncoderConfig
from bdkit.models.latent_diffusion import LatentDiffusion
from bdkit.models.multimodal_encoder import MultimodalEncoder
from bdkit.models.prompts import Conventions
from bdkit.utils.config import checked_value
from bdkit.utils.errors import InputError
from bdkit.utils.io import file_hash, read_json
from bdkit.utils.tensors import read_tensors

SHIPPED = Path(__file__).parent.parent / "weights"
PARTS = ("vae", "unet", "text_encoder", "tokenizer", "qformer", "qformer_tokenizer", "scheduler")
RECORD = "bdkit.json"
SUBJECT = "subject.safetensors"
# What else a U-Net with more input channels than latents is given, by their number
MORE_CHANNELS = {5: "inpainting", 4: "editing by instructions", 3: "enlarging", 1: "depth"}
CONDITIONS = ("class_embed_type", "num_class_embeds", "addition_embed_type", "time_cond_proj_dim")
"""Fields of a U-Net's config that ask for more than latents, a timestep and a text."""
Model = TypeVar("Model", bound=LatentDiffusion)


def resolve(path: str | Path, *, local_files_only: bool = False) -> Path:
    """The folder or file of a model name: as it is, a shipped model by its name, or a hub id in the cache."""
    folder = Path(path)
    if not str(path).strip():
        raise InputError("the name of the model is empty; give a folder, a file, or the name of a shipped model")
    if not folder.exists() and folder.name and folder.parent.is_dir():
        recover_folder(folder)
    if folder.exists():
        return folder
    shipped = SHIPPED / str(path)
    if len(Path(path).parts) == 1 and shipped.is_dir():
        return shipped
    if is_hub_id(str(path)):
        return fetch_checkpoint(str(path), local_files_only=local_files_only)
    names = ", ".join(sorted(p.parent.name for p in SHIPPED.glob(f"*/{INDEX}"))) if SHIPPED.is_dir() else "none"
    raise InputError(f"no model at {str(path)!r}; give a folder, or one of the shipped models: {names}")


def checkpoint_hash(path: str | Path) -> str:
    """Twelve hex digits that name all weights of a model that are read, for run records."""
    folder = resolve(path, local_files_only=True)
    hashes = _read_record(folder)["sha256"] if (folder / RECORD).exists() else _foreign_hashes(folder)
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:12]


def model_hash(model: LatentDiffusion) -> str:
    """`checkpoint_hash` of where a model was read from and, of a file that goes on top of another, of both."""
    return "+".join(filter(None, (checkpoint_hash(model.source), model.record.get("base_checkpoint"))))


def read_files(path: str | Path) -> list[Path]:
    """The files of weights that are read of a model, and no others that lie in its folder."""
    folder = resolve(path)
    if folder.is_file():
        return [folder]
    if (adapter := adapter_file(folder)) is not None:
        return [adapter]
    if (folder / RECORD).exists():
        return [folder / name for name in _read_record(folder)["sha256"]]
    if is_lavis(folder):
        return lavis_files(folder)
    parts = [part for part in STEMS if part != "controlnet" or part in read_json(folder / INDEX)]
    return [file for part in parts if has_weights(folder / part, part) for file in weight_files(folder / part, part)]


def _foreign_hashes(folder: Path) -> dict[str, str]:
    """Hashes of the weights of a folder without a record; the hub's cache has them in its files' names."""
    digests = {}
    for path in read_files(folder):
        blob = path.resolve().name
        digests[path.relative_to(folder).as_posix()] = blob if re.fullmatch("[0-9a-f]{64}", blob) else file_hash(path)
    return digests


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not path.exists() and (folder / FINETUNED).exists():
        raise InputError(f"{folder} holds a LoRA or a learned word, no whole model; draw with it by bdkit generate")
    if not path.exists():
        raise InputError(f"{folder} is not a bdkit model: {RECORD} is missing; save models with save_pretrained")
    record = read_json(path)
    if not isinstance(record.get("sha256"), dict) or not isinstance(record.get("defaults"), dict):
        raise InputError(f"{path} is not the record of a bdkit model; fetch or save the model again")
    return record


def _verify(folder: Path, record: dict[str, Any]) -> dict[str, Path]:
    """The folder of each part; missing parts are looked up in the folder the record names (``parts_from``)."""
    other = (folder / record["parts_from"]).resolve() if record.get("parts_from") else None
    folders = {}
    for part in PARTS:
        inside, borrowed = folder / part, None if other is None else other / part
        folders[part] = borrowed if borrowed is not None and not inside.is_dir() else inside
    if missing := [f"{part}/" for part, path in folders.items() if not path.is_dir()]:
        parts = f"the part {missing[0]} is" if len(missing) == 1 else f"the parts {', '.join(missing)} are"
        elsewhere = f" (as is {other}, where its record looks for them)" if other and not other.is_dir() else ""
        raise InputError(f"{folder}: {parts} missing{elsewhere}; fetch or save the model again")
    hashes = {folder / name: expected for name, expected in record["sha256"].items()}
    if other is not None:
        from_other = [part for part, path in folders.items() if path.parent == other]
        hashes |= {other / k: v for k, v in _read_record(other)["sha256"].items() if k.split("/")[0] in from_other}
    for path, expected in hashes.items():
        if not path.exists():
            raise InputError(f"{path} is missing; fetch or save the model again")
        if file_hash(path) != expected:
            raise InputError(f"{path} is damaged (its SHA-256 is not the recorded one); fetch or save the model again")
    return folders


def load_model(path: str | Path, options: LoadOptions | None = None) -> BlipDiffusion:
    """A BLIP-Diffusion in any format; see `BlipDiffusion.from_pretrained`."""
    options = options or LoadOptions()
    folder = resolve(path, local_files_only=options.local_files_only)
    base = resolve_base(options.base, local_files_only=options.local_files_only)
    with reading(folder):
        model = from_source(_load_folder(folder, replace(options, base=base)), path, options)
    if base is not None:
        compare_with_base(model, base)
    return model


def load_stable_diffusion(path: str | Path, options: LoadOptions | None = None) -> LatentDiffusion:
    """A plain Stable Diffusion v1; see `LatentDiffusion.from_pretrained`."""
    options = options or LoadOptions()
    folder = resolve(path, local_files_only=options.local_files_only)
    with reading(folder):
        return from_source(read_stable_diffusion(folder, options.dtype), path, options)


def load_base(path: str | Path, options: LoadOptions | None = None) -> LatentDiffusion:
    """What a method can start from: a BLIP-Diffusion in any format, or a plain Stable Diffusion v1.

    Args:
        path: a folder, the name of a shipped model, or a hub id.
        options: see `BlipDiffusion.from_pretrained`; a Stable Diffusion needs no other part.
    """
    options = options or LoadOptions()
    folder = resolve(path, local_files_only=options.local_files_only)
    load = load_stable_diffusion if is_stable_diffusion(folder) else load_model
    return load(path, options)


def _check_parts_fit(model: LatentDiffusion, where: str) -> None:
    """Refuses a U-Net that needs more than latents, a timestep and a text, or other ones than these parts give."""
    unet, vae, text_encoder = model.unet, model.vae, model.text_encoder
    latents, channels = vae.config.latent_channels, unet.config.in_channels
    if channels != latents or unet.config.out_channels != latents:
        kind = MORE_CHANNELS.get(channels - latents)
        raise InputError(
            f"{where}: the U-Net takes {channels} channels and gives {unet.config.out_channels}, where latents have "
            f"{latents}{f' (a model for {kind})' if kind else ''}; give a text-to-image model"
        )
    asked = [name for name in CONDITIONS if unet.config.get(name) is not None]
    if asked:
        raise InputError(f"{where}: the U-Net needs more than a text ({', '.join(asked)}); give a Stable Diffusion v1")
    width, text = unet.config.cross_attention_dim, text_encoder.model.config.hidden_size
    if isinstance(width, int) and width != text:
        raise InputError(f"{where}: the U-Net takes texts of width {width}, but the text encoder gives {text}")


def from_source(model: Model, path: str | Path, options: LoadOptions) -> Model:
    """Notes on a model what it was read from."""
    _check_parts_fit(model, str(path))
    model.source = str(path)
    given = {"base": options.base, "qformer_tokenizer": options.qformer_tokenizer}
    model.read_with = {name: str(value) for name, value in given.items() if value}
    return model


def _load_folder(folder: Path, options: LoadOptions) -> BlipDiffusion:
    """The model of a folder, by its format."""
    if folder.is_file():
        if is_lavis(folder):
            return load_lavis(folder, options)
        raise InputError(f"{folder} is a file, no BLIP-Diffusion; give a folder, or a tar of LAVIS's weights")
    if not (folder / RECORD).exists():
        if is_public_diffusers(folder):
            return load_public_diffusers(folder, options)
        if is_lavis(folder):
            return load_lavis(folder, options)
        _refuse_others(folder)
    return _load_bdkit(folder, options)


def _refuse_others(folder: Path) -> None:
    """Raises InputError that names what a folder holds, where that is known and no BLIP-Diffusion."""
    name = str(read_json(folder / INDEX).get("_class_name")) if (folder / INDEX).exists() else None
    if name == "None":
        check_parts(folder)
    if name is not None and name.startswith("StableDiffusion"):
        raise InputError(
            f"{folder} is a plain Stable Diffusion model: it has no subject encoder; give a BLIP-Diffusion "
            "checkpoint, and this one as base"
        )
    if name is not None and not name.startswith("BlipDiffusion"):
        raise InputError(f"{folder} is a {name}; give a BLIP-Diffusion or a Stable Diffusion v1")
    parts = [part for part in PARTS if (folder / part).is_dir()]
    if parts and name is None:
        raise InputError(f"{folder} holds {', '.join(parts)}, but no {INDEX} that says of what; give the whole folder")
    if adapter_file(folder) is not None:
        raise InputError(f"{folder} holds a LoRA or a learned word, no whole model; draw with it by bdkit generate")
    if (folder / RE_IMAGEN).is_file():
        raise InputError(f"{folder} holds Re-Imagen's additions, no whole model; name it as the method's adapter")
    files = sorted(path.name for path in folder.glob("*") if path.suffix in (".safetensors", ".ckpt", ".pt", ".bin"))
    if files and not (folder / FINETUNED).exists():
        raise InputError(f"{folder} is no model's folder; it holds {', '.join(files[:3])}: name the file itself")


def _load_bdkit(folder: Path, options: LoadOptions) -> BlipDiffusion:
    record = _read_record(folder)
    folders = _verify(folder, record)
    defaults = {
        name: checked_value(GenerationDefaults, name, value, f"{folder / RECORD}: {name}")
        for name, value in record["defaults"].items()
    }
    sizes = MultimodalEncoderConfig(**read_json(folders["qformer"] / "config.json"))
    state = read_weights(folders["qformer"], "qformer")
    encoder = fill(lambda: MultimodalEncoder(sizes), state, folders["qformer"], options.dtype)
    words = encoder.qformer.config.vocab_size
    model = BlipDiffusion(
        **load_parts(folders, options.dtype),
        multimodal_encoder=encoder,
        qformer_tokenizer=load_bert_tokenizer(options, [folders["qformer_tokenizer"]], words),
        defaults=GenerationDefaults(**defaults),
        conventions=Conventions.from_json(record.get("conventions")),
        record=record,
    )
    if (folder / SUBJECT).exists():
        model.subject_embeddings = read_tensors(folder / SUBJECT)["subject_embeddings"]
        model.subject_class = record.get("subject_class")
    return model


def resolve_base(base: str | Path | None, *, local_files_only: bool = False) -> Path | None:
    """The folder of ``base``; of a hub id only configs, tokenizer and scheduler are fetched."""
    if base is None:
        return None
    if Path(base).is_dir():
        return Path(base)
    if is_hub_id(str(base)):
        return fetch_configs(str(base), local_files_only=local_files_only)
    raise InputError(f"no base model at {str(base)!r}; give a Stable Diffusion 1.5 folder")


def compare_with_base(model: BlipDiffusion, base: Path) -> None:
    """Warns of parts that stage 2 trains (Sec. 3.2), but that are those of the plain base model.

    A published converter kept Stable Diffusion's own U-Net and text encoder. Compared are values, in half precision
    where one of the two was saved in it.
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


def _equal(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    left, right = ours.detach().cpu().float(), theirs.float()
    if torch.equal(left, right):
        return True
    rounded = any(torch.equal(value.half().float(), value) for value in (left, right))  # saved in half precision
    return rounded and torch.equal(left.half(), right.half())
