"""Model folders in and out: bdkit's own layout, safetensors only, every weight file hashed; others by `layouts`."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import BertTokenizer, CLIPTextModel, CLIPTokenizer

from bdkit.models.blip_diffusion import BlipDiffusion, GenerationDefaults
from bdkit.models.conventions import Conventions
from bdkit.models.multimodal_encoder import MultimodalEncoder
from bdkit.models.options import LoadOptions
from bdkit.models.text_encoder import SubjectTextEncoder
from bdkit.utils.errors import InputError
from bdkit.utils.io import file_hash, write_json

SHIPPED = Path(__file__).parent.parent / "weights"
PARTS = ("vae", "unet", "text_encoder", "tokenizer", "qformer", "qformer_tokenizer", "scheduler")
RECORD = "bdkit.json"
FINETUNED = "finetuned.json"
"""What was learned from what, beside weights that are in no layout of bdkit's own."""


def resolve(path: str | Path, *, local_files_only: bool = False) -> Path:
    """The folder (or LAVIS tar) of a model name: as it is, a shipped model by its name, or a hub id in the cache."""
    from bdkit.checkpoints.hub import fetch_checkpoint, is_hub_id
    from bdkit.checkpoints.lavis_format import is_lavis

    folder = Path(path)
    if not folder.exists() and folder.name and folder.parent.is_dir():
        recover_folder(folder)
    if folder.is_dir() or is_lavis(folder):
        return folder
    shipped = SHIPPED / str(path)
    if len(Path(path).parts) == 1 and shipped.is_dir():
        return shipped
    if is_hub_id(str(path)):
        return fetch_checkpoint(str(path), local_files_only=local_files_only)
    names = ", ".join(sorted(p.name for p in SHIPPED.iterdir() if p.is_dir())) if SHIPPED.is_dir() else "none"
    raise InputError(f"no model at {str(path)!r}; give a folder, or one of the shipped models: {names}")


def checkpoint_hash(path: str | Path) -> str:
    """Twelve hex digits that name all weights of a model folder, for run records."""
    folder = resolve(path, local_files_only=True)
    hashes = _read_record(folder)["sha256"] if (folder / RECORD).exists() else _foreign_hashes(folder)
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:12]


def _foreign_hashes(folder: Path) -> dict[str, str]:
    """Hashes of the weights of a folder without a record; the hub's cache has them in its files' names."""
    files = (
        sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".bin", ".pt")) if folder.is_dir() else []
    )
    digests = {}
    for path in files or [folder]:
        blob = path.resolve().name
        digests[path.relative_to(folder).as_posix()] = blob if re.fullmatch("[0-9a-f]{64}", blob) else file_hash(path)
    return digests


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not path.exists() and (folder / FINETUNED).exists():
        raise InputError(f"{folder} holds a LoRA or a learned word, no whole model; draw with it by bdkit generate")
    if not path.exists():
        raise InputError(f"{folder} is not a bdkit model: {RECORD} is missing; save models with save_pretrained")
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is not readable JSON ({error}); fetch or save the model again") from None
    if not isinstance(record, dict) or not {"sha256", "defaults"} <= record.keys():
        raise InputError(f"{path} is not the record of a bdkit model; fetch or save the model again")
    return record


def _verify(folder: Path, record: dict[str, Any]) -> dict[str, Path]:
    """Where each part lies; missing parts are looked up in the folder the record names (``parts_from``)."""
    other = (folder / record["parts_from"]).resolve() if record.get("parts_from") else None
    places = {}
    for part in PARTS:
        place = folder / part
        if not place.is_dir() and other is not None:
            place = other / part
        if not place.is_dir():
            raise InputError(f"{folder}: the part {part}/ is missing; fetch or save the model again")
        places[part] = place
    hashes = {folder / name: expected for name, expected in record["sha256"].items()}
    if other is not None:
        borrowed = [part for part, place in places.items() if place.parent == other]
        hashes |= {other / k: v for k, v in _read_record(other)["sha256"].items() if k.split("/")[0] in borrowed}
    for path, expected in hashes.items():
        if not path.exists():
            raise InputError(f"{path} is missing; fetch or save the model again")
        if file_hash(path) != expected:
            raise InputError(f"{path} is damaged (its SHA-256 is not the recorded one); fetch or save the model again")
    return places


def load_model(path: str | Path, options: LoadOptions) -> BlipDiffusion:
    """See `BlipDiffusion.from_pretrained`."""
    from bdkit.checkpoints.loading import compare_with_base, load_foreign, resolve_base

    folder = resolve(path, local_files_only=options.local_files_only)
    base = resolve_base(options.base, local_files_only=options.local_files_only)
    model = load_foreign(folder, replace(options, base=base)) or _load_own(folder, options)
    model.source, model.options = str(path), options
    if base is not None:
        compare_with_base(model, base)
    return model


def _load_own(folder: Path, options: LoadOptions) -> BlipDiffusion:
    from bdkit.checkpoints.tokenizers import load_bert_tokenizer

    record = _read_record(folder)
    places = _verify(folder, record)
    try:
        with _quiet():
            model = _load_parts(places, record)
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{folder} cannot be read: {line}; fetch or save the model again") from error
    if options.qformer_tokenizer is not None:
        model.qformer_tokenizer = load_bert_tokenizer(options, [], model.multimodal_encoder.qformer.config.vocab_size)
    subject = folder / "subject.safetensors"
    if subject.exists():
        model.subject_embeddings = load_file(subject)["subject_embeddings"]
        model.subject_class = record.get("subject_class")
    return model if options.dtype == torch.float32 else model.to(options.dtype)


def _load_parts(places: dict[str, Path], record: dict[str, Any]) -> BlipDiffusion:
    vae_class = {"AutoencoderTiny": AutoencoderTiny, "AutoencoderKL": AutoencoderKL}[_class_name(places["vae"])]
    local = {"local_files_only": True, "torch_dtype": torch.float32}
    scheduler_class = getattr(
        diffusers, json.loads((places["scheduler"] / "scheduler_config.json").read_text())["_class_name"]
    )
    return BlipDiffusion(
        vae=vae_class.from_pretrained(places["vae"], **local),
        unet=UNet2DConditionModel.from_pretrained(places["unet"], **local).to(memory_format=torch.channels_last),
        text_encoder=SubjectTextEncoder(
            CLIPTextModel.from_pretrained(places["text_encoder"], local_files_only=True, dtype=torch.float32)
        ),
        multimodal_encoder=MultimodalEncoder.from_pretrained(places["qformer"]).float(),
        tokenizer=CLIPTokenizer.from_pretrained(places["tokenizer"], local_files_only=True),
        qformer_tokenizer=BertTokenizer.from_pretrained(places["qformer_tokenizer"], local_files_only=True),
        scheduler=scheduler_class.from_pretrained(places["scheduler"], local_files_only=True),
        defaults=GenerationDefaults(**record["defaults"]),
        conventions=Conventions.from_json(record.get("conventions")),
        record=record,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar for the second that loading or saving takes; it would break into the caller's own."""
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()


def _class_name(folder: Path) -> str:
    return str(json.loads((folder / "config.json").read_text())["_class_name"])


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary sibling that becomes ``folder`` when the block ends well, and vanishes otherwise.

    An existing ``folder`` is replaced. What a killed process left beside it is put back or removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    recover_folder(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
            folder.rename(old)
            try:
                temporary.rename(folder)
            except OSError:
                old.rename(folder)
                raise
            shutil.rmtree(old)
        else:
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def recover_folder(folder: Path) -> None:
    """Puts ``folder`` back where a process was killed while `new_folder` replaced it, and removes such leftovers."""
    for kind in ("old", "tmp"):
        for left in sorted(folder.parent.glob(f".{glob.escape(folder.name)}.*.{kind}")):
            number = left.name.split(".")[-2]
            if not number.isdecimal() or _is_running(int(number)):
                continue
            if kind == "old" and not folder.exists():
                left.rename(folder)
            else:
                shutil.rmtree(left, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def save_model(
    model: BlipDiffusion,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    *,
    only: tuple[str, ...] = PARTS,
    parts_from: str | None = None,
) -> Path:
    """See `BlipDiffusion.save_pretrained`.

    Args:
        only: the parts to write; the others are looked up in ``parts_from``, a path relative to ``folder``.
    """
    with new_folder(folder) as temporary:
        writers = {
            "vae": lambda p: _save_copy(model.vae, p, dtype),
            "unet": lambda p: _save_copy(model.unet, p, dtype),
            "text_encoder": lambda p: _save_copy(model.text_encoder.model, p, dtype),
            "qformer": lambda p: model.multimodal_encoder.save_pretrained(p, dtype),
            "tokenizer": model.tokenizer.save_pretrained,
            "qformer_tokenizer": model.qformer_tokenizer.save_pretrained,
            "scheduler": model.scheduler.save_pretrained,
        }
        with _quiet():
            for part in only:
                writers[part](temporary / part)
        (temporary / "model_index.json").write_text(json.dumps(_model_index(model), indent=1) + "\n")
        record = {
            k: v for k, v in model.record.items() if k not in ("sha256", "subject_class", "parts_from", "conventions")
        }
        if model.subject_embeddings is not None:
            tensor = model.subject_embeddings.detach().to("cpu", torch.float32).contiguous()
            save_file({"subject_embeddings": tensor}, temporary / "subject.safetensors")
            record["subject_class"] = model.subject_class
        if parts_from is not None:
            record["parts_from"] = parts_from
        if model.conventions != Conventions():
            record["conventions"] = model.conventions.to_json()
        record |= {"bdkit": version("bdkit"), "defaults": asdict(model.defaults)}
        record["sha256"] = {
            str(p.relative_to(temporary)): file_hash(p) for p in sorted(temporary.rglob("*.safetensors"))
        }
        (temporary / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    return folder


def _save_copy(part: Any, folder: Path, dtype: torch.dtype) -> None:
    if isinstance(part, CLIPTextModel):
        state = {k: v.detach().to("cpu", dtype).contiguous() for k, v in part.state_dict().items()}
        part.save_pretrained(folder, safe_serialization=True, state_dict=state)
    else:
        save_diffusers_part(part, folder, dtype)


def save_diffusers_part(part: Any, folder: Path, dtype: torch.dtype) -> None:
    """A diffusers model's ``config.json`` and ``diffusion_pytorch_model.safetensors``."""
    save_diffusers_config(part, folder)
    save_tensors(part.state_dict(), folder / "diffusion_pytorch_model.safetensors", dtype)


def save_diffusers_config(part: Any, folder: Path) -> None:
    """A diffusers model's ``config.json``, without the places it came from."""
    part.save_config(folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("_name_or_path", None)  # the folder that it was loaded from is nobody's business
    if isinstance(part, AutoencoderTiny):  # it stores a field that its own constructor refuses with a warning
        config.pop("block_out_channels", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def add_controlnet(folder: Path, net: Any, dtype: torch.dtype) -> None:
    """Puts a ControlNet into a model's folder and names it in its index, as salesforce/blipdiffusion-controlnet does.

    LAVIS's layout has no index, and so no place for one.
    """
    with new_folder(folder / "controlnet") as temporary:
        save_diffusers_part(net, temporary, dtype)
    path = folder / "model_index.json"
    index = {**json.loads(path.read_text()), "controlnet": ["diffusers", "ControlNetModel"]}
    if index["_class_name"] == "BlipDiffusionPipeline":
        index["_class_name"] = "BlipDiffusionControlNetPipeline"
    write_json(dict(sorted(index.items())), path)


def save_tensors(state: Mapping[str, torch.Tensor], path: Path, dtype: torch.dtype) -> None:
    """A safetensors file; floats become ``dtype``, whole numbers stay."""
    plain = {
        k: v.detach().to("cpu", dtype if v.is_floating_point() else v.dtype).contiguous() for k, v in state.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(plain, path, metadata={"format": "pt"})


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
