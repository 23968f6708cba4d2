"""The encoders that score pictures: DINO and CLIP, public or shipped, and the mini world's two own networks.

A protocol (`eval.score.protocols`) fixes which of them look at the images, and `eval.score.preprocessing` how an image reaches
them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from bdkit.utils.errors import InputError
from bdkit.utils.io import file_hash
from eval.mini.networks import HEADS, WordTokenizer, load_network
from eval.score.checkpoints import WeightsSource, load_into, refuse_programs
from eval.score.preprocessing import normalise, preprocess, to_batch
from eval.score.protocols import PROTOCOLS, Preprocessing, Protocol, find_protocol

MINI_WEIGHTS = Path(__file__).parent.parent / "mini" / "weights"
CARD = "card.json"
# Changes when the same weights and pixels would give other embeddings than before
EMBEDDING_VERSION = 1
# Pixels that go through a network together
BATCH_PIXELS = {"cpu": 16 * 224**2, "cuda": 64 * 224**2}
MAX_BATCH = 64
FloatArray = npt.NDArray[np.float32]

__all__ = [
    "CARD",
    "MINI_WEIGHTS",
    "PROTOCOLS",
    "Classifier",
    "ClipEncoder",
    "Encoder",
    "Preprocessing",
    "Protocol",
    "find_protocol",
    "load_classifier",
    "load_clip",
    "load_encoder",
    "preprocess",
    "read_card",
    "to_batch",
]


class Encoder:
    """Images to unit vectors.

    An image's vector does not depend on what is embedded with it: every batch has `batch_size` images, the last one
    filled up, because a network's float32 sums depend on the shape of its batch, and on nothing else of it.

    Args:
        network: maps pixels (n, 3, crop, crop) to embeddings (n, d).
        how: the preprocessing of the network.
        name: "dino", "clip" or "identity".
        checkpoint: what a run record should say of the weights (file and SHA-256).
        batch_size: images that go through the network together; None: as many as suit the device.
    """

    def __init__(
        self,
        network: nn.Module,
        how: Preprocessing,
        name: str,
        checkpoint: dict[str, str],
        device: str = "cpu",
        batch_size: int | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(False).to(device)
        self.how, self.name, self.checkpoint, self.device = how, name, checkpoint, device
        self.batch_size = batch_size or default_batch_size(how, device)

    @property
    def key(self) -> str:
        """16 hex digits of all that an embedding depends on: weights, network, preprocessing, device and batch size."""
        return _key(self, type=type(self).__name__)

    def features(self, pixels: Tensor) -> Tensor:
        """Embeddings (n, d) of a normalised batch, not of unit length yet."""
        return self.network(pixels)

    @torch.inference_mode()
    def embed_crops(self, crops: npt.NDArray[np.uint8]) -> FloatArray:
        """Unit vectors (n, d) of n images as `eval.score.preprocessing.crop_pixels` gives them, (n, crop, crop, 3)."""
        rows = []
        for part in _full_batches(crops, self.batch_size):
            with full_precision(self.device):
                rows.append(_unit(self.features(normalise(part, self.how).to(self.device))))
        return np.concatenate(rows)[: len(crops)]

    @torch.inference_mode()
    def embed_images(self, images: list[Image.Image], batch_size: int | None = None) -> FloatArray:
        """Unit vectors (n, d) of n images of any size and mode, with batches no larger than needed.

        Raises ValueError for an empty list.
        """
        batch_size = self.batch_size if batch_size is None else batch_size
        _check_batches(images, batch_size)
        rows = []
        for start in range(0, len(images), batch_size):
            pixels = to_batch(images[start : start + batch_size], self.how).to(self.device)
            with full_precision(self.device):
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

    @property
    def text_key(self) -> str:
        """`key` of the text side."""
        return _key(self, type="text")

    @torch.inference_mode()
    def embed_texts(self, texts: list[str], batch_size: int = 16) -> FloatArray:
        """Unit vectors (n, d) of n texts, in full batches; words past the network's context length are dropped."""
        _check_batches(texts, batch_size)
        rows = []
        for tokens in _full_batches(self.tokenizer(texts).numpy(), batch_size):
            with full_precision(self.device):
                found = self.network.encode_text(torch.from_numpy(tokens).to(self.device))  # type: ignore[operator]
            rows.append(_unit(found))
        return np.concatenate(rows)[: len(texts)]


class Classifier:
    """What an image of the mini world shows: class, context, outfit and property change."""

    def __init__(self, network: nn.Module, how: Preprocessing, checkpoint: dict[str, str], device: str = "cpu") -> None:
        self.network = network.eval().requires_grad_(False).to(device)
        self.how, self.name, self.checkpoint, self.device = how, "classifier", checkpoint, device
        self.batch_size = default_batch_size(how, device)

    @property
    def key(self) -> str:
        """16 hex digits of all that a prediction depends on, as `Encoder.key`."""
        return _key(self, type="classifier")

    @torch.inference_mode()
    def predict_crops(self, crops: npt.NDArray[np.uint8]) -> dict[str, FloatArray]:
        """`predict` of n images as `eval.score.preprocessing.crop_pixels` gives them, in full batches."""
        rows: dict[str, list[FloatArray]] = {name: [] for name in HEADS}
        for part in _full_batches(crops, self.batch_size):
            with full_precision(self.device):
                logits = self.network(normalise(part, self.how).to(self.device))
            for name in HEADS:
                rows[name].append(logits[name].float().log_softmax(dim=1).cpu().numpy())
        return {name: np.concatenate(parts)[: len(crops)] for name, parts in rows.items()}

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


def load_encoder(name: str, protocol: str, device: str = "cpu", source: WeightsSource | None = None) -> Encoder:
    """The encoder "dino", "clip" (a `ClipEncoder`) or, for mini alone, "identity" of a protocol.

    source: where to look for public weights; None: $BDKIT_WEIGHTS_DIR, the hub's cache, the hub

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
        return _public_dino(rules, device, source or WeightsSource())
    if name == "clip":
        return _public_clip(rules, device, source or WeightsSource())
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


def _public_dino(rules: Protocol, device: str, source: WeightsSource) -> Encoder:
    path = source.find("dino", f"timm/{rules.dino_model}", "model.safetensors")
    network = timm.create_model(rules.dino_model, pretrained=False, num_classes=0)
    load_into(network, path)
    return Encoder(network, rules.dino, "dino", {"file": rules.dino_model, "sha256": file_hash(path)}, device)


def _public_clip(rules: Protocol, device: str, source: WeightsSource) -> ClipEncoder:
    # the OpenAI weights were made with QuickGELU; with plain GELU they load, and every score is off
    if rules.clip_pretrained == "openai" and not rules.clip_model.endswith("-quickgelu"):
        raise InputError(
            f"CLIP {rules.clip_model!r} with the 'openai' weights has the wrong activation and gives wrong scores; "
            f"use {rules.clip_model + '-quickgelu'!r}"
        )
    settings = open_clip.get_pretrained_cfg(rules.clip_model, rules.clip_pretrained)
    if not settings:
        raise InputError(f"open_clip knows no weights {rules.clip_pretrained!r} for {rules.clip_model!r}")
    repository, filename = settings["hf_hub"].strip("/"), "open_clip_model.safetensors"
    path = source.find("clip", repository, filename)
    refuse_programs(path, f"{filename} of {repository} on the Hugging Face hub")
    network = open_clip.create_model(rules.clip_model, pretrained=None)
    load_into(network, path)
    checkpoint = {"file": f"{rules.clip_model}/{rules.clip_pretrained}", "sha256": file_hash(path)}
    tokenizer = open_clip.get_tokenizer(rules.clip_model)
    return ClipEncoder(network, rules.clip, "clip", checkpoint, device, tokenizer=tokenizer)


def default_batch_size(how: Preprocessing, device: str) -> int:
    """Images that go through a network together, by their size and the device."""
    return max(1, min(MAX_BATCH, BATCH_PIXELS["cuda" if device.startswith("cuda") else "cpu"] // how.crop**2))


def full_precision(device: str) -> AbstractContextManager[Any]:
    """Within it a GPU's convolutions are float32 too: by default they are rounded to TF32, which scores show."""
    if device.startswith("cuda"):
        return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return nullcontext()


def _key(network: Encoder | Classifier, **more: str) -> str:
    parts = {
        "version": EMBEDDING_VERSION,
        "checkpoint": network.checkpoint,
        "how": asdict(network.how),
        "device": network.device.partition(":")[0],
        "batch_size": network.batch_size,
        **more,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _full_batches(items: npt.NDArray[Any], size: int) -> list[npt.NDArray[Any]]:
    """Parts of `size` items, the last one filled up with copies of its last."""
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    if parts and len(parts[-1]) < size:
        parts[-1] = np.concatenate([parts[-1], np.repeat(parts[-1][-1:], size - len(parts[-1]), axis=0)])
    return parts


def _unit(features: Tensor) -> FloatArray:
    return nn.functional.normalize(features.float(), dim=1).cpu().numpy()


def _check_batches(items: list[Any], batch_size: int) -> None:
    if not items:
        raise ValueError("nothing to embed: the list is empty")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
