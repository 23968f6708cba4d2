"""The encoders that score pictures, and the only image preprocessing of the package.

A protocol fixes which networks look at the pictures and how a picture reaches them: numbers of two protocols are not
comparable. `dreambench` is what published tables use; `mini` is for the procedural world and works offline.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import open_clip
import timm
import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dreambench.errors import InputError
from eval.mini_models import HEADS, IMAGE_SIZE, WordTokenizer, load_network, sha256_of

MINI_WEIGHTS = Path(__file__).parent / "weights" / "mini"
CARD = "card.json"
WEIGHTS_DIR_VARIABLE = "BDKIT_WEIGHTS_DIR"
FloatArray = npt.NDArray[np.float32]
Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Short side to `short_side` (PIL bicubic, antialiased), centre crop of `crop`, then (x / 255 - mean) / std."""

    short_side: int
    crop: int
    mean: Triple
    std: Triple


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Which networks score, on what pixels. Where the weights come from: a public hub, or this package."""

    name: str
    dino_model: str
    dino: Preprocessing
    clip_model: str
    clip_pretrained: str
    clip: Preprocessing
    weights: Literal["hub", "shipped"]


_MINI = Preprocessing(short_side=IMAGE_SIZE, crop=IMAGE_SIZE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
PROTOCOLS: dict[str, Protocol] = {
    "dreambench": Protocol(
        name="dreambench",
        dino_model="vit_small_patch16_224.dino",
        dino=Preprocessing(short_side=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        clip_model="ViT-B-32-quickgelu",
        clip_pretrained="openai",
        clip=Preprocessing(
            short_side=224,
            crop=224,
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
        ),
        weights="hub",
    ),
    "mini": Protocol(
        name="mini",
        dino_model="dino.safetensors",
        dino=_MINI,
        clip_model="clip.safetensors",
        clip_pretrained="mini",
        clip=_MINI,
        weights="shipped",
    ),
}


def preprocess(image: Image.Image, how: Preprocessing) -> Image.Image:
    """An RGB picture of `crop` x `crop` pixels. One with the right short side is not resampled."""
    image = image.convert("RGB")
    short, long = sorted(image.size)
    if short != how.short_side:
        # the long side is cut, not rounded, as torchvision does
        scaled = int(how.short_side * long / short)
        size = (how.short_side, scaled) if image.width <= image.height else (scaled, how.short_side)
        image = image.resize(size, Image.Resampling.BICUBIC)
    left = round((image.width - how.crop) / 2)
    top = round((image.height - how.crop) / 2)
    if (left, top) == (0, 0) and image.size == (how.crop, how.crop):
        return image
    return image.crop((left, top, left + how.crop, top + how.crop))


def to_batch(images: list[Image.Image], how: Preprocessing) -> Tensor:
    """Preprocessed and normalised pixels (n, 3, crop, crop), float32."""
    pixels = np.stack([np.asarray(preprocess(image, how), dtype=np.float32) for image in images])
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous() / 255
    return (batch - torch.tensor(how.mean).view(3, 1, 1)) / torch.tensor(how.std).view(3, 1, 1)


class Encoder:
    """Pictures to unit vectors.

    Args:
        network: maps pixels (n, 3, crop, crop) to embeddings (n, d).
        how: the preprocessing of the network.
        name: "dino", "clip" or "identity".
        checkpoint: what a run record should say of the weights (file and SHA-256).
    """

    def __init__(
        self, network: nn.Module, how: Preprocessing, name: str, checkpoint: dict[str, str], device: str = "cpu"
    ) -> None:
        self.network = network.eval().requires_grad_(False).to(device)
        self.how, self.name, self.checkpoint, self.device = how, name, checkpoint, device

    def features(self, pixels: Tensor) -> Tensor:
        """Embeddings (n, d) of a normalised batch, not of unit length yet."""
        return self.network(pixels)

    @torch.inference_mode()
    def embed_images(self, images: list[Image.Image], batch_size: int = 64) -> FloatArray:
        """Unit vectors (n, d) of n pictures of any size and mode. Raises ValueError for an empty list."""
        _check_batches(images, batch_size)
        rows = []
        for start in range(0, len(images), batch_size):
            pixels = to_batch(images[start : start + batch_size], self.how).to(self.device)
            rows.append(_unit(self.features(pixels)))
        return np.concatenate(rows)


class ClipEncoder(Encoder):
    """An encoder with a text side in the same space."""

    def __init__(self, *arguments: Any, tokenizer: Callable[[list[str]], Tensor], **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.tokenizer = tokenizer

    def features(self, pixels: Tensor) -> Tensor:
        """Image embeddings (n, d) in the joint space."""
        return self.network.encode_image(pixels)  # type: ignore[operator]

    @torch.inference_mode()
    def embed_texts(self, texts: list[str], batch_size: int = 256) -> FloatArray:
        """Unit vectors (n, d) of n texts; words past the network's context length are dropped."""
        _check_batches(texts, batch_size)
        rows = []
        for start in range(0, len(texts), batch_size):
            tokens = self.tokenizer(texts[start : start + batch_size]).to(self.device)
            rows.append(_unit(self.network.encode_text(tokens)))  # type: ignore[operator]
        return np.concatenate(rows)


class Classifier:
    """What a picture of the mini world shows: class, context, outfit and property change."""

    def __init__(self, network: nn.Module, how: Preprocessing, checkpoint: dict[str, str], device: str = "cpu") -> None:
        self.network = network.eval().requires_grad_(False).to(device)
        self.how, self.checkpoint, self.device = how, checkpoint, device

    @torch.inference_mode()
    def predict(self, images: list[Image.Image], batch_size: int = 64) -> dict[str, FloatArray]:
        """Log-probabilities of n pictures: class (n, 15), context (n, 21), outfit (n, 11), change (n, 6).

        The last context is the studio; outfit 0 and change 0 are "none".
        """
        _check_batches(images, batch_size)
        rows: dict[str, list[FloatArray]] = {name: [] for name in HEADS}
        for start in range(0, len(images), batch_size):
            logits = self.network(to_batch(images[start : start + batch_size], self.how).to(self.device))
            for name in HEADS:
                rows[name].append(logits[name].float().log_softmax(dim=1).cpu().numpy())
        return {name: np.concatenate(parts) for name, parts in rows.items()}


def load_encoder(name: str, protocol: str, device: str = "cpu") -> Encoder:
    """The encoder "dino", "clip" (a `ClipEncoder`) or, for mini alone, "identity" of a protocol.

    Raises InputError (one line) for an unknown name or protocol, and for weights that are absent, broken or wrong.
    """
    rules = find_protocol(protocol)
    if name not in ("dino", "clip", "identity"):
        raise InputError(f"unknown encoder {name!r}; known: dino, clip, identity")
    if rules.weights == "shipped":
        how = rules.clip if name == "clip" else rules.dino
        network, config, checkpoint = _shipped(name)
        if name == "clip":
            words = WordTokenizer(config["words"], config["text"]["context_length"])
            return ClipEncoder(network, how, name, checkpoint, device, tokenizer=words)
        return Encoder(network, how, name, checkpoint, device)
    if name == "dino":
        return _hub_dino(rules, device)
    if name == "clip":
        return _hub_clip(rules, device)
    raise InputError(f"protocol {protocol!r} has no identity encoder: that needs the ground truth of the mini world")


def load_clip(protocol: str, device: str = "cpu") -> ClipEncoder:
    """`load_encoder("clip", protocol)` with its exact type."""
    encoder = load_encoder("clip", protocol, device)
    assert isinstance(encoder, ClipEncoder)
    return encoder


def load_classifier(protocol: str = "mini", device: str = "cpu") -> Classifier:
    """The classifier of the mini world. Raises InputError for a protocol without one, and for bad weights."""
    rules = find_protocol(protocol)
    if rules.weights != "shipped":
        raise InputError(f"protocol {protocol!r} has no classifier: that needs the ground truth of the mini world")
    network, _, checkpoint = _shipped("classifier")
    return Classifier(network, rules.dino, checkpoint, device)


def find_protocol(name: str) -> Protocol:
    """The protocol of a name. Raises InputError that lists the known ones."""
    if name not in PROTOCOLS:
        raise InputError(f"unknown protocol {name!r}; known: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def read_card(folder: Path | None = None) -> dict[str, Any]:
    """The card of the shipped evaluators: hashes, training and measures. Raises InputError where it is broken."""
    path = (folder or MINI_WEIGHTS) / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        return {**card, "models": dict(card["models"])}
    except FileNotFoundError:
        raise InputError(
            f"the mini evaluators are not here: no {path}; reinstall the package or run `bdkit pretrain evaluators`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read as the evaluators' card; reinstall the package") from error


def _shipped(name: str) -> tuple[nn.Module, dict[str, Any], dict[str, str]]:
    entry = read_card()["models"].get(name)
    if not isinstance(entry, dict) or "sha256" not in entry:
        raise InputError(f"{MINI_WEIGHTS / CARD} says nothing of {name!r}; run `bdkit pretrain evaluators`")
    path = MINI_WEIGHTS / f"{name}.safetensors"
    network, config = load_network(path, entry["sha256"])
    return network, config, {"file": path.name, "sha256": entry["sha256"]}


def _hub_dino(rules: Protocol, device: str) -> Encoder:
    path = _hub_file(f"timm/{rules.dino_model}", "model.safetensors")
    network = timm.create_model(rules.dino_model, pretrained=False, num_classes=0)
    _load_into(network, path)
    return Encoder(network, rules.dino, "dino", {"file": rules.dino_model, "sha256": sha256_of(path)}, device)


def _hub_clip(rules: Protocol, device: str) -> ClipEncoder:
    # the OpenAI weights were made with QuickGELU; with plain GELU they load, and every score is off
    if rules.clip_pretrained == "openai" and not rules.clip_model.endswith("-quickgelu"):
        raise InputError(
            f"CLIP {rules.clip_model!r} with the 'openai' weights has the wrong activation and gives wrong scores; "
            f"use {rules.clip_model + '-quickgelu'!r}"
        )
    settings = open_clip.get_pretrained_cfg(rules.clip_model, rules.clip_pretrained)
    if not settings:
        raise InputError(f"open_clip knows no weights {rules.clip_pretrained!r} for {rules.clip_model!r}")
    path = _hub_file(settings["hf_hub"].strip("/"), "open_clip_model.safetensors")
    network = open_clip.create_model(rules.clip_model, pretrained=None)
    _load_into(network, path)
    checkpoint = {"file": f"{rules.clip_model}/{rules.clip_pretrained}", "sha256": sha256_of(path)}
    tokenizer = open_clip.get_tokenizer(rules.clip_model)
    return ClipEncoder(network, rules.clip, "clip", checkpoint, device, tokenizer=tokenizer)


def _hub_file(repository: str, filename: str) -> Path:
    """A public weights file: from $BDKIT_WEIGHTS_DIR/<repository's last name>/, the hub's cache, or the hub."""
    folder = os.environ.get(WEIGHTS_DIR_VARIABLE)
    where = Path(repository).name
    if folder and (Path(folder) / where / filename).is_file():
        return Path(folder) / where / filename
    cached = try_to_load_from_cache(repository, filename)
    if isinstance(cached, str):
        return Path(cached)
    try:
        return Path(hf_hub_download(repository, filename, etag_timeout=5))
    except Exception as error:  # the hub's client raises many kinds, from many libraries
        raise InputError(
            f"the weights of {repository} are not here ({type(error).__name__}): put {filename} in "
            f"${WEIGHTS_DIR_VARIABLE}/{where}/, or run once with access to the Hugging Face hub"
        ) from error


def _load_into(network: nn.Module, path: Path) -> None:
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise InputError(f"the weights {path} are broken or of another network; download them again") from error


def _unit(features: Tensor) -> FloatArray:
    return nn.functional.normalize(features.float(), dim=1).cpu().numpy()


def _check_batches(items: list[Any], batch_size: int) -> None:
    if not items:
        raise ValueError("nothing to embed: the list is empty")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
