"""LAVIS's folder of weights, or the tar it is published as, in and out.

It holds weights alone: tokenizer, scheduler and the configs come from a Stable Diffusion 1.5 folder, as in LAVIS.
"""

import shutil
import tarfile
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from bdkit.checkpoints.files import (
    LoadOptions,
    has_weights,
    new_folder,
    read_tensor,
    save_diffusers_config,
    weight_files,
)
from bdkit.checkpoints.formats.diffusers_format import (
    load_multimodal_encoder,
    load_text_encoder,
    load_unet,
    load_vae,
    public_defaults,
    public_encoder,
    write_text_encoder_config,
)
from bdkit.checkpoints.formats.keys import lavis_to_public, public_to_lavis, text_to_file, vae_to_old_file
from bdkit.checkpoints.schedulers import load_scheduler
from bdkit.checkpoints.tokenizers import (
    load_bert_tokenizer,
    load_clip_tokenizer,
    save_bert_tokenizer,
    save_clip_tokenizer,
)
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.preprocessing import SubjectPixels
from bdkit.models.prompts import Conventions
from bdkit.utils.errors import InputError
from bdkit.utils.io import read_json, write_json
from bdkit.utils.tensors import read_tensors

PROJECTION = "proj_layer/proj_weight.pt"
BLIP = "blip_model/blip_weight.pt"
CACHE = "ctx_embeddings_cache/ctx_embeddings_cache.pt"
WEIGHTS = {
    "unet": "unet/diffusion_pytorch_model.bin",
    "vae": "vae/diffusion_pytorch_model.bin",
    "text_encoder": "text_encoder/pytorch_model.bin",
}
HEAD_WIDTH = 64  # of CLIP ViT-L/14 and of BERT-base: LAVIS has the number of heads in its code, not in its files


def is_lavis(path: Path) -> bool:
    """Whether a path is a LAVIS folder, or a tar file."""
    return _root(path) is not None if path.is_dir() else path.is_file() and tarfile.is_tarfile(path)


def _root(folder: Path) -> Path | None:
    """The folder of the weights: the folder itself, or one or two levels below, as tars unpack."""
    for pattern in ("", "*/", "*/*/"):
        found = sorted(folder.glob(pattern + BLIP))
        if found:
            return found[0].parent.parent
    return None


def lavis_files(folder: Path) -> list[Path]:
    """The files of weights of a LAVIS folder that are read."""
    root = _root(folder) or folder
    own = [root / name for name in (BLIP, PROJECTION, CACHE) if (root / name).is_file()]
    return own + [
        file for part in WEIGHTS if has_weights(root / part, part) for file in weight_files(root / part, part)
    ]


def load_lavis(path: Path, options: LoadOptions) -> BlipDiffusion:
    """Reads a LAVIS folder or tar; a fine-tuned ``ctx_embeddings_cache`` becomes the cached subject.

    Args:
        options: ``base`` is a Stable Diffusion 1.5 folder for tokenizer, scheduler and configs, and for a part that the
            weights lack.
    """
    with _unpacked(path) as unpacked:
        root = _root(unpacked)
        if root is None:
            raise InputError(f"{path} holds no {BLIP}; it is not a checkpoint of LAVIS's BLIP-Diffusion")
        return _load(root, path, options)


def _load(root: Path, path: Path, options: LoadOptions) -> BlipDiffusion:
    base, dtype = None if options.base is None else Path(options.base), options.dtype
    public = lavis_to_public(read_tensors(_file(root, BLIP)), read_tensors(_file(root, PROJECTION)))
    configs = {part: _find(root, base, part, "config.json") for part in WEIGHTS}
    weights = {part: _weights(root, base, part) for part in WEIGHTS}
    encoder = load_multimodal_encoder(_qformer_config(root, base, public), public, path, dtype)
    unet = load_unet(weights["unet"], dtype, configs["unet"])
    vae = load_vae(weights["vae"], dtype, configs["vae"])
    folders = [folder / "qformer_tokenizer" for folder in (root, base) if folder is not None]
    scheduler = _find(root, base, "scheduler", "scheduler_config.json")
    # LAVIS builds its PNDM in code, without the step offset of Stable Diffusion's file
    pndm = read_json(scheduler / "scheduler_config.json").get("_class_name") == "PNDMScheduler"
    model = BlipDiffusion(
        vae=vae,
        unet=unet,
        text_encoder=load_text_encoder(weights["text_encoder"], dtype, configs["text_encoder"]),
        multimodal_encoder=encoder,
        tokenizer=load_clip_tokenizer(_find(root, base, "tokenizer", "tokenizer.json", "vocab.json")),
        qformer_tokenizer=load_bert_tokenizer(options, folders, encoder.qformer.config.vocab_size),
        scheduler=load_scheduler(scheduler, **({"steps_offset": 0} if pndm else {})),
        defaults=public_defaults(unet, vae),
        conventions=Conventions(template="public", pixels=SubjectPixels(resize="torchvision")),
        record={"format": "LAVIS", "method_preset": "public"},
    )
    if (root / CACHE).exists():
        model.subject_embeddings = _cached_subject(root / CACHE, model)
    return model


def _cached_subject(path: Path, model: BlipDiffusion) -> Tensor:
    cache = read_tensor(path).float()
    queries, width = model.multimodal_encoder.config.num_query_tokens, model.text_encoder.model.config.hidden_size
    if cache.dim() == 2:
        cache = cache.unsqueeze(0)
    if cache.shape[1:] != (queries, width) or cache.shape[0] != 1:
        raise InputError(f"{path} has shape {tuple(cache.shape)}, not (1, {queries}, {width})")
    return cache


def _file(root: Path, name: str) -> Path:
    if not (root / name).is_file():
        raise InputError(f"{root / name} is missing; fetch the checkpoint again")
    return root / name


def _weights(root: Path, base: Path | None, part: str) -> Path:
    """The folder of a part's weights: LAVIS's own, or, as LAVIS does in silence, those of the base model."""
    if has_weights(root / part, part):
        return root / part
    if base is not None and has_weights(base / part, part):
        warnings.warn(f"{root} holds no {part} weights; those of {base} are used", stacklevel=2)
        return base / part
    raise InputError(f"{root / WEIGHTS[part]} is missing; fetch the checkpoint again")


def _find(root: Path, base: Path | None, part: str, *names: str) -> Path:
    """The folder that holds a small file of a part: the checkpoint's own, or the base model's."""
    for folder in (root, base):
        if folder is not None and any((folder / part / name).is_file() for name in names):
            return folder / part
    if base is None:
        raise InputError(
            f"a LAVIS checkpoint holds no {part}/{names[0]}; name a Stable Diffusion 1.5 folder with base= or --base"
        )
    raise InputError(f"the base model {base} holds no {part}/{names[0]}; give a whole Stable Diffusion 1.5 folder")


def _qformer_config(root: Path, base: Path | None, public: Mapping[str, Tensor]) -> dict[str, Any]:
    """A Blip2Config: one that lies beside the weights or in the base folder, else read off the shapes."""
    for folder in (root, base):
        if folder is not None and (folder / "qformer" / "config.json").is_file():
            return read_json(folder / "qformer" / "config.json")
    needed = (
        *("query_tokens", "visual_encoder.embeddings.patch_embedding.weight", "embeddings.word_embeddings.weight"),
        *("visual_encoder.embeddings.position_embedding", "embeddings.position_embeddings.weight"),
        *("visual_encoder.encoder.layers.0.mlp.fc1.weight", "encoder.layer.0.intermediate.dense.weight"),
    )
    lacking = [name for name in needed if name not in public]
    if lacking:
        raise InputError(f"{root / BLIP}: missing keys {', '.join(lacking)} (in the public format's names)")
    shapes = {name: tuple(public[name].shape) for name in needed}
    width, _, patch, _ = shapes[needed[1]]
    hidden = shapes["query_tokens"][-1]
    names = {".".join(name.split(".")[:4]) for name in public}
    layers = _layers(public, "encoder.layer.")
    cross = [k for k in range(layers) if f"encoder.layer.{k}.crossattention" in names]
    return {
        "num_query_tokens": shapes["query_tokens"][1],
        "vision_config": {
            "hidden_size": width,
            "intermediate_size": shapes["visual_encoder.encoder.layers.0.mlp.fc1.weight"][0],
            "num_hidden_layers": _layers(public, "visual_encoder.encoder.layers."),
            "num_attention_heads": max(1, width // HEAD_WIDTH),
            "image_size": patch * round((shapes["visual_encoder.embeddings.position_embedding"][-2] - 1) ** 0.5),
            "patch_size": patch,
            "hidden_act": "quick_gelu",
        },
        "qformer_config": {
            "vocab_size": shapes["embeddings.word_embeddings.weight"][0],
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": max(1, hidden // HEAD_WIDTH),
            "intermediate_size": shapes["encoder.layer.0.intermediate.dense.weight"][0],
            "max_position_embeddings": shapes["embeddings.position_embeddings.weight"][0],
            "cross_attention_frequency": cross[1] if len(cross) > 1 else 1,
            "encoder_hidden_size": width,
        },
    }


def _layers(state: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max((int(name[len(prefix) :].split(".")[0]) for name in state if name.startswith(prefix)), default=-1)


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The folder itself, or a temporary one with a tar's files."""
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="bdkit-") as temporary:
        unpack(path, Path(temporary))
        yield Path(temporary)


def unpack(path: Path, folder: Path) -> None:
    """Unpacks a checkpoint's tar; only plain files, and nothing that would lie outside ``folder``."""
    try:
        with tarfile.open(path) as archive:
            members = archive.getmembers()
            for member in members:
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts or "\\" in member.name or member.issym() or member.islnk():
                    raise InputError(f"{path} holds {member.name!r}, which points outside of it; do not use this file")
            size = sum(member.size for member in members)
            if size > shutil.disk_usage(folder).free:
                raise InputError(f"{path} needs {size / 2**30:.1f} GiB unpacked, more than {folder.parent} has free")
            for member in members:
                source = archive.extractfile(member) if member.isfile() else None
                if source is not None:
                    target = folder / PurePosixPath(member.name)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("wb") as file:
                        shutil.copyfileobj(source, file)
    except (tarfile.TarError, EOFError, OSError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} cannot be unpacked ({line}); fetch it again") from None


def save_lavis(model: BlipDiffusion, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Writes LAVIS's format; configs, tokenizers and scheduler beside the weights are for bdkit, LAVIS skips them."""
    config, public = public_encoder(model)
    blip, projection = public_to_lavis(public)
    states = {
        BLIP: blip,
        PROJECTION: projection,
        WEIGHTS["unet"]: model.unet.state_dict(),
        WEIGHTS["vae"]: vae_to_old_file(model.vae.state_dict()),  # LAVIS needs diffusers <= 0.16
        WEIGHTS["text_encoder"]: text_to_file(model.text_encoder.model.state_dict()),
    }
    with new_folder(folder) as out:
        for name, state in states.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            torch.save({key: _plain(value, dtype) for key, value in state.items()}, out / name)
        if model.subject_embeddings is not None:
            (out / CACHE).parent.mkdir()
            torch.save(_plain(model.subject_embeddings, torch.float32), out / CACHE)
        save_diffusers_config(model.unet, out / "unet")
        save_diffusers_config(model.vae, out / "vae")
        write_text_encoder_config(model, out / "text_encoder", "CLIPTextModel")
        write_json(config, out / "qformer" / "config.json")
        save_clip_tokenizer(model.tokenizer, out / "tokenizer")
        save_bert_tokenizer(model.qformer_tokenizer, out / "qformer_tokenizer")
        model.scheduler.save_pretrained(out / "scheduler")
    return folder


def _plain(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype).contiguous()
