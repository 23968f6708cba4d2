"""What a new multimodal encoder starts from: CLIP's image encoder, and BERT's or BLIP-2's Q-Former (Sec. 3.1)."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BertTokenizer

from bdkit.checkpoints.files import LoadOptions, first_line, new_folder, save_tensors
from bdkit.checkpoints.formats.keys import lavis_to_public, public_to_ours
from bdkit.checkpoints.hub import fetch, is_hub_id
from bdkit.checkpoints.load import RECORD, load_model, resolve
from bdkit.checkpoints.tokenizers import load_bert_tokenizer
from bdkit.models.configs import MultimodalEncoderConfig
from bdkit.models.multimodal_encoder import MultimodalEncoder
from bdkit.models.preprocessing import SubjectPixels
from bdkit.utils.errors import InputError
from bdkit.utils.images import CLIP_MEAN, CLIP_STD
from bdkit.utils.io import file_hash, read_json, write_json
from bdkit.utils.tensors import read_tensors

ENCODER = "multimodal_encoder.json"
"""The record of a folder that holds a multimodal encoder alone: stage 1's result."""
WEIGHTS = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")
VISION_FIELDS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "image_size", "patch_size"),
    *("hidden_act", "layer_norm_eps"),
)
QFORMER_FIELDS = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
    *("max_position_embeddings", "layer_norm_eps"),
)


@dataclass(frozen=True, kw_only=True)
class ImageEncoder:
    """Fields of a `CLIPVisionConfig`, its state dict, how images become its input, and a BLIP-Diffusion's words."""

    vision: dict[str, Any]
    state: Mapping[str, Tensor]
    pixels: SubjectPixels
    tokenizer: BertTokenizer | None = None


@dataclass(frozen=True, kw_only=True)
class EncoderPart:
    """A multimodal encoder with what it is used with.

    told: one line on where its weights are from
    """

    encoder: MultimodalEncoder
    tokenizer: BertTokenizer
    pixels: SubjectPixels
    told: str = ""


def read_image_encoder(path: str | Path) -> ImageEncoder:
    """The image encoder of CLIP, without its last layer (Sec. 3.1), or that of a BLIP-Diffusion, as it is.

    Args:
        path: a folder or hub id in transformers' or open_clip's format, or any BLIP-Diffusion that `load_model` reads.
    """
    folder = _folder(path)
    if folder is None:
        model = load_model(path)
        encoder = model.multimodal_encoder
        return ImageEncoder(
            vision=encoder.config.vision,
            state=encoder.vision_model.state_dict(),
            pixels=model.conventions.pixels,
            tokenizer=model.qformer_tokenizer,
        )
    if (folder / "open_clip_config.json").exists():
        vision, state, pixels = _open_clip(folder)
    else:
        vision, state, pixels = _transformers_clip(folder)
    last = vision["num_hidden_layers"] - 1
    kept = {name: value for name, value in state.items() if f"layers.{last}." not in name}
    return ImageEncoder(vision={**vision, "num_hidden_layers": last}, state=kept, pixels=pixels)


def _folder(path: str | Path) -> Path | None:
    """The folder of one model's weights, from the hub where it is an id; None for a BLIP-Diffusion."""
    if not Path(path).exists():
        if not is_hub_id(str(path)):
            resolve(path)  # a shipped model, or an error that says so
            return None
        folder = fetch(str(path), ["*.json", "*.txt", "*.safetensors"])
        if not any(folder.glob("*.safetensors")):
            folder = fetch(str(path), ["*.bin"])
    else:
        folder = Path(path)
    whole = (folder / "model_index.json").exists() or (folder / RECORD).exists() or not folder.is_dir()
    return None if whole else folder


def _transformers_clip(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], SubjectPixels]:
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind not in ("clip", "clip_vision_model"):
        raise InputError(f"{folder} is a model of type {kind!r}, no CLIP; give --image-encoder a CLIP ViT's folder")
    vision = (config.get("vision_config") or {}) if kind == "clip" else config
    # what the file omits has had these defaults since CLIP came to transformers
    defaults = dict(zip(VISION_FIELDS, (768, 12, 12, 3072, 224, 32, "quick_gelu", 1e-5), strict=True))
    state = {name.removeprefix("vision_model."): value for name, value in _weights(folder).items()}
    tower = re.compile(r"(embeddings|pre_layrnorm|encoder|post_layernorm)\.(?!position_ids)")
    alone = {name: value for name, value in state.items() if tower.match(name)}
    return {name: vision.get(name, value) for name, value in defaults.items()}, alone, _pixels(folder)


def _pixels(folder: Path) -> SubjectPixels:
    path = folder / "preprocessor_config.json"
    settings = read_json(path) if path.exists() else {}
    mean, std = settings.get("image_mean") or CLIP_MEAN, settings.get("image_std") or CLIP_STD
    return SubjectPixels(mean=tuple(mean), std=tuple(std))


def _open_clip(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], SubjectPixels]:
    config = read_json(folder / "open_clip_config.json")
    model, given = config["model_cfg"], config["model_cfg"]["vision_cfg"]
    if not isinstance(given.get("layers"), int) or given.get("timm_model_name"):
        raise InputError(f"{folder} holds an image encoder that is no CLIP ViT; give --image-encoder another one")
    width = given["width"]
    vision = {
        "hidden_size": width,
        "num_hidden_layers": given["layers"],
        "num_attention_heads": width // given.get("head_width", 64),
        "intermediate_size": round(width * given.get("mlp_ratio", 4.0)),
        "image_size": given["image_size"],
        "patch_size": given["patch_size"],
        "hidden_act": "quick_gelu" if model.get("quick_gelu") else "gelu",
        "layer_norm_eps": 1e-5,
    }
    visual = {n.removeprefix("visual."): v for n, v in _weights(folder).items() if n.startswith("visual.")}
    named = {re.sub(r"^ln_post\.", "ln_vision.", name): value for name, value in visual.items() if name != "proj"}
    named = {n if n.startswith("ln_vision.") else f"visual_encoder.{n}": v for n, v in named.items()}
    state = {n.removeprefix("vision_model."): v for n, v in public_to_ours(lavis_to_public(named, {})).items()}
    cleaned = config.get("preprocess_cfg") or {}
    pixels = SubjectPixels(mean=tuple(cleaned.get("mean", CLIP_MEAN)), std=tuple(cleaned.get("std", CLIP_STD)))
    return vision, state, pixels


def _weights(folder: Path, needed: str = "") -> dict[str, Tensor]:
    """The tensors of a folder; of weights in several files, those files that hold a name with ``needed`` in it."""
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is not None:
        return read_tensors(path)
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        raise InputError(f"{folder} holds no weights; it needs {' or '.join(WEIGHTS)}")
    names = sorted({Path(file).name for name, file in read_json(index)["weight_map"].items() if needed in name})
    return {name: value for file in names for name, value in read_tensors(folder / file).items()}


def new_encoder(
    image_encoder: str | Path,
    qformer: str | Path | None,
    sizes: MultimodalEncoderConfig,
    *,
    qformer_tokenizer: str | Path | None = None,
    seed: int = 0,
) -> EncoderPart:
    """A multimodal encoder before stage 1.

    As in BLIP-2, the queries' feed-forward layers start as copies of the words', and cross-attention, query tokens and
    [DEC]'s embedding are random, where BERT has none. Of a BLIP-2, whatever has the same name and shape is taken, and
    the first of its query tokens.

    Args:
        image_encoder: see `read_image_encoder`.
        qformer: folder or hub id of a BERT or a BLIP-2; None: random weights of the Q-Former in ``sizes``.
        sizes: of everything but the image encoder and a Q-Former that is read.
        qformer_tokenizer: folder or hub id, where it is not beside the Q-Former; with neither, that of the image
            encoder's model, else bert-base-uncased.
        seed: of the random weights.
    """
    vision = read_image_encoder(image_encoder)
    config = replace(sizes, vision=dict(vision.vision))
    start: dict[str, Tensor] = {}
    beside: list[Path] = []
    if qformer is not None:
        folder = _folder(qformer)
        if folder is None:
            raise InputError(f"{qformer} is a whole BLIP-Diffusion; continue it with --init, without --qformer")
        settings, start = _read_qformer(folder)
        config = replace(config, qformer={**config.qformer, **settings})
        beside = [folder] if (folder / "vocab.txt").is_file() else []
    tokenizer = vision.tokenizer if qformer is None and qformer_tokenizer is None else None
    if tokenizer is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that [DEC] is new
            tokenizer = load_bert_tokenizer(LoadOptions(qformer_tokenizer=qformer_tokenizer), beside, 0)
        known = config.qformer.get("vocab_size", len(tokenizer))
        if start and len(tokenizer) - 1 not in (known, known - 1):
            raise InputError(f"the tokenizer has {len(tokenizer)} tokens, {qformer} {known}; give --qformer-tokenizer")
    words = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    config = replace(config, qformer={**config.qformer, **words})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = MultimodalEncoder(config)
    _check_names(encoder.vision_model.state_dict(), vision.state, str(image_encoder))
    encoder.vision_model.load_state_dict(dict(vision.state))
    told = _take(encoder, start) if start else "the Q-Former starts from random weights"
    return EncoderPart(encoder=encoder.eval(), tokenizer=tokenizer, pixels=vision.pixels, told=told)


def _check_names(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    wrong = sorted(n for n in expected if n not in state or state[n].shape != expected[n].shape)
    wrong += sorted(state.keys() - expected.keys())
    if wrong:
        raise InputError(f"{source} does not fit its config: {', '.join(wrong[:3])}; fetch it again")


def _read_qformer(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Fields of an `InstructBlipQFormerConfig`, and what the file holds under our names."""
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind == "blip-2":
        given: dict[str, Any] = config.get("qformer_config") or {}
    elif kind == "bert":
        given = config
    else:
        raise InputError(f"{folder} is a model of type {kind!r}; give --qformer a BERT or a BLIP-2")
    defaults = (30522, 768, 12, 12, 3072, "gelu", 512, 1e-12)
    settings = {n: given.get(n, default) for n, default in zip(QFORMER_FIELDS, defaults, strict=True)}
    return settings, qformer_names(_weights(folder, "qformer" if kind == "blip-2" else ""))


def qformer_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a BERT, of BLIP-2 in transformers or of LAVIS's, as `MultimodalEncoder` names them."""
    result: dict[str, Tensor] = {}
    bert = not any("query_tokens" in name for name in state)
    for old, value in state.items():
        name = re.sub(r"^(Qformer\.bert\.|Qformer\.|qformer\.|bert\.)", "", old)
        name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))
        name = re.sub(r"^(embeddings\.LayerNorm|layernorm)\.", "embeddings.layernorm.", name)
        name = re.sub(r"(attention)\.self\.", r"\1.attention.", name)
        if name == "query_tokens":
            result[name] = value
        elif re.match(r"(embeddings|encoder)\.", name) and not old.startswith(("vision_model.", "language_model.")):
            result[f"qformer.{name}"] = value
            ours = re.sub(r"(layer\.\d+\.)(intermediate|output)\.", r"\1\2_query.", name)
            if bert and ours != name:
                result[f"qformer.{ours}"] = value
    return result


def _take(encoder: MultimodalEncoder, start: Mapping[str, Tensor]) -> str:
    """Puts in what fits, and tells in one line what does not."""
    state = encoder.state_dict()
    taken = []
    for name, value in start.items():
        if name not in state:
            continue
        target = state[name]
        if name.endswith("word_embeddings.weight") and value.shape[1:] == target.shape[1:]:
            rows = min(len(value), len(target))
            target[:rows] = value[:rows]
        elif name == "query_tokens" and value.shape[-1] == target.shape[-1] and value.shape[1] >= target.shape[1]:
            target.copy_(value[:, : target.shape[1]])
        elif value.shape == target.shape:
            target.copy_(value)
        else:
            continue
        taken.append(name)
    encoder.load_state_dict(state)
    random = sorted({name for name in state if name.startswith(("qformer.", "query_tokens"))} - {*taken})
    kinds = sorted({re.sub(r"^qformer\.(encoder\.layer\.\d+\.)?", "", name).split(".")[0] for name in random})
    if not any(".attention.attention." in name for name in taken):
        raise InputError("nothing of the --qformer fits the sizes in its config; give a BERT or a BLIP-2")
    return f"the Q-Former takes {len(taken)} tensors; random are {', '.join(kinds) or 'none'}"


def save_encoder(part: EncoderPart, folder: Path, record: dict[str, Any]) -> Path:
    """Writes stage 1's result: the multimodal encoder and its tokenizer, safetensors only."""
    with new_folder(folder) as out:
        encoder = part.encoder
        write_json(asdict(encoder.config), out / "qformer" / "config.json")
        path = out / "qformer" / "model.safetensors"
        save_tensors(encoder.state_dict(), path, torch.float32)
        part.tokenizer.save_pretrained(out / "qformer_tokenizer")
        told = {"bdkit": version("bdkit"), "pixels": asdict(part.pixels), "sha256": file_hash(path), **record}
        write_json(told, out / ENCODER)
    return folder


def load_encoder(path: str | Path) -> EncoderPart:
    """The multimodal encoder of stage 1's result, or of any BLIP-Diffusion that `load_model` reads."""
    folder = Path(path)
    if not (folder / ENCODER).is_file():
        model = load_model(path)
        return EncoderPart(
            encoder=model.multimodal_encoder, tokenizer=model.qformer_tokenizer, pixels=model.conventions.pixels
        )
    record = read_json(folder / ENCODER)
    weights = folder / "qformer" / "model.safetensors"
    if not weights.is_file() or file_hash(weights) != record["sha256"]:
        raise InputError(f"{weights} is missing or damaged; run stage 1 again, or copy its result once more")
    try:
        encoder = MultimodalEncoder(MultimodalEncoderConfig(**read_json(folder / "qformer" / "config.json")))
        encoder.load_state_dict(read_tensors(weights))
        words = encoder.qformer.config.vocab_size
        tokenizer = load_bert_tokenizer(LoadOptions(qformer_tokenizer=folder / "qformer_tokenizer"), [], words)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{folder} cannot be read: {first_line(error)}; run stage 1 again") from error
    pixels = {**record["pixels"], "mean": tuple(record["pixels"]["mean"]), "std": tuple(record["pixels"]["std"])}
    return EncoderPart(encoder=encoder.eval(), tokenizer=tokenizer, pixels=SubjectPixels(**pixels))
