"""diffusers' formats, in and out: the public BLIP-Diffusion (``salesforce/blipdiffusion``) and Stable Diffusion v1.

Three components of the public one have the library "blip_diffusion", which no installed diffusers can load any more:
the Q-Former with the image encoder, the text encoder and the image processor. Here they become stock transformers
classes.
"""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from bdkit.checkpoints.files import (
    FINETUNED,
    LoadOptions,
    check_numbers,
    fill,
    new_folder,
    read_weights,
    save_diffusers_part,
    save_tensors,
)
from bdkit.checkpoints.formats.keys import FROM_FILE, ours_to_public, text_to_file
from bdkit.checkpoints.schedulers import load_plain_scheduler, load_scheduler, mend_sample_size
from bdkit.checkpoints.tokenizers import (
    load_bert_tokenizer,
    load_clip_tokenizer,
    save_bert_tokenizer,
    save_clip_tokenizer,
)
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.configs import GenerationDefaults, MultimodalEncoderConfig
from bdkit.models.latent_diffusion import LatentDiffusion, Vae, latent_factor
from bdkit.models.multimodal_encoder import MultimodalEncoder
from bdkit.models.preprocessing import CLIP_MEAN, CLIP_STD, SubjectPixels
from bdkit.models.prompts import Conventions
from bdkit.models.text_encoder import SubjectTextEncoder
from bdkit.utils.errors import InputError
from bdkit.utils.io import read_json, write_json

INDEX = "model_index.json"
PARTS = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
"""What text-to-image needs, in every format of diffusers."""
LIBRARY = "blip_diffusion"
VISION_EPS = 1e-5  # when the public weights were made; the config omits it, and transformers' default changed since
# transformers' defaults of Blip2Config, which its files omit
VISION_DEFAULTS: dict[str, Any] = {
    "hidden_size": 1408,
    "intermediate_size": 6144,
    "num_hidden_layers": 39,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
    "attention_dropout": 0.0,
    "layer_norm_eps": VISION_EPS,
}
QFORMER_DEFAULTS: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "cross_attention_frequency": 2,
    "encoder_hidden_size": 1408,
}
TEXT_FIELDS = (
    *("vocab_size", "hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers", "num_attention_heads"),
    *("max_position_embeddings", "hidden_act", "layer_norm_eps", "attention_dropout", "pad_token_id", "bos_token_id"),
    *("eos_token_id", "initializer_factor", "initializer_range"),
)


def is_public_diffusers(folder: Path) -> bool:
    """Whether a folder's index names components of the library "blip_diffusion"."""
    if not (folder / INDEX).is_file():
        return False
    index = read_json(folder / INDEX)
    return any(isinstance(entry, list) and entry[:1] == [LIBRARY] for entry in index.values())


def is_stable_diffusion(folder: Path) -> bool:
    """Whether a folder's index names a Stable Diffusion, whole or not, and no Q-Former lies beside it."""
    if not (folder / INDEX).is_file() or (folder / "qformer").exists():
        return False
    name = str(read_json(folder / INDEX).get("_class_name"))
    return name.startswith("StableDiffusion") or all((folder / part).is_dir() for part in PARTS)


def check_parts(folder: Path, parts: Iterable[str] = PARTS) -> None:
    """Raises InputError for a folder that lacks one of its parts."""
    lacking = [f"{part}/" for part in parts if not (folder / part).is_dir()]
    if lacking:
        several = "s" if len(lacking) > 1 else ""
        are = "are" if several else "is"
        raise InputError(f"{folder}: the part{several} {', '.join(lacking)} {are} missing; fetch the checkpoint again")


def load_parts(folders: Mapping[str, Path], dtype: torch.dtype) -> dict[str, Any]:
    """Autoencoder, U-Net, text encoder, tokenizer and scheduler, each from its folder."""
    return {
        "vae": load_vae(folders["vae"], dtype),
        "unet": load_unet(folders["unet"], dtype),
        "text_encoder": load_text_encoder(folders["text_encoder"], dtype),
        "tokenizer": load_clip_tokenizer(folders["tokenizer"]),
        "scheduler": load_scheduler(folders["scheduler"]),
    }


def load_public_diffusers(folder: Path, options: LoadOptions) -> BlipDiffusion:
    """Reads a folder of the public format; ``controlnet/`` and ``vision_encoder/`` beside the parts are not used."""
    index = read_json(folder / INDEX)
    check_parts(folder, (*PARTS, "qformer"))
    config = read_json(folder / "qformer" / "config.json")
    state = read_weights(folder / "qformer", "qformer")
    encoder = load_multimodal_encoder(config, state, folder / "qformer", options.dtype)
    tokenizers = [folder / "qformer_tokenizer"]
    if config.get("tokenizer"):
        tokenizers.append(Path(str(config["tokenizer"])))
    parts = load_parts({part: folder / part for part in PARTS}, options.dtype)
    return BlipDiffusion(
        **parts,
        multimodal_encoder=encoder,
        qformer_tokenizer=load_bert_tokenizer(options, tokenizers, encoder.qformer.config.vocab_size),
        defaults=public_defaults(parts["unet"], parts["vae"]),
        conventions=Conventions(
            template="public",
            ctx_begin_pos=int(index.get("ctx_begin_pos") or 2),
            pixels=_pixels(folder, index, encoder.image_size),
        ),
        record={"format": "public diffusers", "method_preset": "public"},
    )


def read_stable_diffusion(folder: Path, dtype: torch.dtype) -> LatentDiffusion:
    """Reads a plain Stable Diffusion v1; the safety checker, where there is one, is not read."""
    if not is_stable_diffusion(folder):
        raise InputError(f"{folder} is no Stable Diffusion: it needs {INDEX} and {', '.join(PARTS)}, and no qformer")
    index = read_json(folder / INDEX)
    if "text_encoder_2" in index or "XL" in str(index.get("_class_name")):
        raise InputError(f"{folder} is a {index.get('_class_name')}; give a Stable Diffusion v1 model")
    check_parts(folder)
    parts = load_parts({part: folder / part for part in PARTS}, dtype)
    parts["scheduler"] = load_plain_scheduler(folder / "scheduler", index)
    mend_sample_size(parts["unet"])
    return LatentDiffusion(
        **parts,
        defaults=replace(public_defaults(parts["unet"], parts["vae"]), prompt_reps=1),
        record=read_json(folder / FINETUNED) if (folder / FINETUNED).exists() else None,
    )


def public_defaults(unet: UNet2DConditionModel, vae: Vae) -> GenerationDefaults:
    """The public code's settings (Sec. 4.1), at the U-Net's own resolution."""
    side = unet.config.sample_size
    resolution = side * latent_factor(vae) if isinstance(side, int) else 512
    return GenerationDefaults(resolution=resolution, guidance_scale=7.5, num_inference_steps=50, prompt_reps=20)


def multimodal_config(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> MultimodalEncoderConfig:
    """Our config of a `Blip2Config` as JSON; fields it omits have transformers' defaults, but for the vision eps."""
    vision, qformer = (config.get(name) or {} for name in ("vision_config", "qformer_config"))
    hidden = state.get("projection.dense1.weight")
    return MultimodalEncoderConfig(
        vision={name: vision.get(name, value) for name, value in VISION_DEFAULTS.items()},
        qformer={name: qformer.get(name, value) for name, value in QFORMER_DEFAULTS.items()},
        num_query_tokens=int(config.get("num_query_tokens", 32)),
        projection_size=4 * qformer.get("hidden_size", 768) if hidden is None else hidden.shape[0],
    )


def load_multimodal_encoder(
    config: Mapping[str, Any], public_state: Mapping[str, Tensor], source: Path, dtype: torch.dtype
) -> MultimodalEncoder:
    """The image encoder, Q-Former and projection of a state dict with the public names."""
    state = FROM_FILE["qformer"](public_state)
    if (config.get("vision_config") or {}).get("qkv_bias") is False:
        weights = [name for name in state if name.startswith("vision_model.") and name.endswith("_proj.weight")]
        for name in weights:
            state.setdefault(name.replace(".weight", ".bias"), torch.zeros(state[name].shape[0]))
    ours = multimodal_config(config, state)
    return fill(lambda: MultimodalEncoder(ours), state, source, dtype)


def load_unet(folder: Path, dtype: torch.dtype, config: Path | None = None) -> UNet2DConditionModel:
    """The U-Net of a folder; ``config`` is the folder of its config, when another."""
    settings = read_json((config or folder) / "config.json")
    check_numbers(UNet2DConditionModel, settings, config or folder)
    state = FROM_FILE["unet"](read_weights(folder, "unet"))
    unet = fill(lambda: UNet2DConditionModel.from_config(settings), state, folder, dtype)
    return unet.to(memory_format=torch.channels_last)


def load_vae(folder: Path, dtype: torch.dtype, config: Path | None = None) -> Vae:
    """The autoencoder of a folder; Stable Diffusion 1's old key names are understood."""
    settings = read_json((config or folder) / "config.json")
    kind = AutoencoderTiny if settings.get("_class_name") == "AutoencoderTiny" else AutoencoderKL
    check_numbers(kind, settings, config or folder)
    state = FROM_FILE["vae"](read_weights(folder, "vae"))
    return fill(lambda: kind.from_config(settings), state, folder, dtype)


def load_text_encoder(folder: Path, dtype: torch.dtype, config: Path | None = None) -> SubjectTextEncoder:
    """The text encoder of a folder, CLIP's or one with a context, as a stock `CLIPTextModel`."""
    settings = read_json((config or folder) / "config.json")
    known = CLIPTextConfig(**{name: settings[name] for name in TEXT_FIELDS if name in settings})
    state = FROM_FILE["text_encoder"](read_weights(folder, "text_encoder"))
    model = fill(lambda: CLIPTextModel(known), state, folder, dtype)
    return SubjectTextEncoder(model)


def _pixels(folder: Path, index: Mapping[str, Any], image_size: int) -> SubjectPixels:
    path = folder / "image_processor" / "preprocessor_config.json"
    settings = read_json(path) if path.exists() else {}
    size = settings.get("size") or image_size
    size = {"height": size, "width": size} if isinstance(size, int) else size
    if {size.get("height"), size.get("width")} != {image_size}:
        raise InputError(f"{path} resizes to {size}, but the image encoder takes {image_size} x {image_size} pixels")
    mean = index.get("mean") or settings.get("image_mean") or CLIP_MEAN
    std = index.get("std") or settings.get("image_std") or CLIP_STD
    return SubjectPixels(resize="squash", mean=tuple(mean), std=tuple(std), resample=int(settings.get("resample", 3)))


def public_encoder(model: BlipDiffusion) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`Blip2Config` as JSON and the public state dict of the multimodal encoder."""
    encoder = model.multimodal_encoder
    width = encoder.qformer.config.hidden_size
    if encoder.config.output_scale is not None or encoder.config.projection_size != 4 * width:
        raise InputError(
            f"{model.source or 'the model'} has a projection that the public formats cannot hold (the mini models have "
            "a norm behind it); only models of the published architecture can be converted"
        )
    vision = {name: getattr(encoder.vision_model.config, name) for name in VISION_DEFAULTS}
    qformer = {name: getattr(encoder.qformer.config, name) for name in QFORMER_DEFAULTS}
    config = {
        "architectures": ["Blip2QFormerModel"],
        "model_type": "blip-2",
        "num_query_tokens": encoder.config.num_query_tokens,
        "qformer_config": {**qformer, "model_type": "blip_2_qformer"},
        "vision_config": {**vision, "qkv_bias": True, "model_type": "blip_2_vision_model"},
    }
    return config, ours_to_public(encoder.state_dict())


def save_public_diffusers(model: BlipDiffusion, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Writes the public format, with the very keys of its classes, so that diffusers 0.32.2 reads it.

    A cached subject, for which it has no place, is warned of; InputError for another architecture than the published.
    """
    config, state = public_encoder(model)
    if model.subject_embeddings is not None:
        warnings.warn("the public format has no place for the cached subject; it is left out", stacklevel=2)
    with new_folder(folder) as out:
        _save_parts(model, out, dtype, "ContextCLIPTextModel")
        write_json(config, out / "qformer" / "config.json")
        save_tensors(state, out / "qformer" / "model.safetensors", dtype)
        save_bert_tokenizer(model.qformer_tokenizer, out / "qformer_tokenizer")
        write_json(_image_processor(model), out / "image_processor" / "preprocessor_config.json")
        write_json(_index(model), out / INDEX)
    return folder


def save_stable_diffusion(model: LatentDiffusion, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Writes what ``StableDiffusionPipeline.from_pretrained`` reads, safetensors only."""
    with new_folder(folder) as out:
        _save_parts(model, out, dtype, "CLIPTextModel")
        absent = {part: [None, None] for part in ("feature_extractor", "image_encoder", "safety_checker")}
        index = {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": diffusers.__version__,
            "requires_safety_checker": False,
            **absent,
            **_part_classes(model, ["transformers", "CLIPTextModel"]),
        }
        write_json(dict(sorted(index.items())), out / INDEX)
        if model.record:
            write_json(model.record, out / FINETUNED)
    return folder


def _save_parts(model: LatentDiffusion, folder: Path, dtype: torch.dtype, text_class: str) -> None:
    """The inverse of `load_parts`, in files that older versions of the libraries read, too."""
    save_diffusers_part(model.unet, folder / "unet", dtype)
    save_diffusers_part(model.vae, folder / "vae", dtype)
    write_text_encoder_config(model, folder / "text_encoder", text_class)
    text = text_to_file(model.text_encoder.model.state_dict())
    save_tensors(text, folder / "text_encoder" / "model.safetensors", dtype)
    save_clip_tokenizer(model.tokenizer, folder / "tokenizer")
    model.scheduler.save_pretrained(folder / "scheduler")


def write_text_encoder_config(model: LatentDiffusion, folder: Path, architecture: str) -> None:
    """The text encoder's ``config.json`` with the fields that every version of transformers knows."""
    config = model.text_encoder.model.config
    fields = {name: getattr(config, name) for name in TEXT_FIELDS if hasattr(config, name)}
    write_json({"architectures": [architecture], "model_type": "clip_text_model", **fields}, folder / "config.json")


def _part_classes(model: LatentDiffusion, text_encoder: list[str]) -> dict[str, list[str]]:
    return {
        "scheduler": ["diffusers", type(model.scheduler).__name__],
        "text_encoder": text_encoder,
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", type(model.vae).__name__],
    }


def _image_processor(model: BlipDiffusion) -> dict[str, Any]:
    pixels, size = model.conventions.pixels, model.multimodal_encoder.image_size
    return {
        "image_processor_type": "BlipImageProcessor",
        **{f"do_{step}": True for step in ("center_crop", "convert_rgb", "normalize", "rescale", "resize")},
        "image_mean": list(pixels.mean),
        "image_std": list(pixels.std),
        "resample": pixels.resample,
        "rescale_factor": 1 / 255,
        "size": {"height": size, "width": size},
    }


def _index(model: BlipDiffusion) -> dict[str, Any]:
    pixels = model.conventions.pixels
    return {
        "_class_name": "BlipDiffusionPipeline",
        "_diffusers_version": "0.32.2",
        "ctx_begin_pos": model.conventions.ctx_begin_pos,
        "image_processor": [LIBRARY, "BlipImageProcessor"],
        "mean": list(pixels.mean),
        "qformer": [LIBRARY, "Blip2QFormerModel"],
        "std": list(pixels.std),
        **_part_classes(model, [LIBRARY, "ContextCLIPTextModel"]),
    }
