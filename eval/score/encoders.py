"""The encoders that score images, all in one table, and how an image reaches them.

A protocol (`eval.score.protocols`) fixes which DINO and which CLIP look at the images, and on what pixels.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from dreambench.suites import Suite
from eval.score.metrics import METRICS, VIEWS, Metric
from eval.score.protocols import CLIP_PIXELS, DINO_PIXELS, MINI_PIXELS, Preprocessing

# Changes when the same weights and pixels would give other embeddings than before
EMBEDDING_VERSION = 1
# Pixels that go through a network together
BATCH_PIXELS = {"cpu": 16 * 224**2, "cuda": 64 * 224**2}
MAX_BATCH = 64
TEXT_BATCH = 16
RESAMPLE = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# The classifier's outputs, side by side in one row
OUTPUTS = {"class": 15, "context": 21, "outfit": 11, "change": 6}
FloatArray = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """A network and its weights.

    model: its name in the library, or its file among the shipped ones
    repository, filename: where the hub has its weights
    pixels: how images reach it; the protocol's own for DINO and CLIP
    pretrained: open_clip's name of the weights
    tokenizer: the file of its tokenizer in `repository`; empty: open_clip has it
    options: further arguments of timm.create_model
    """

    library: Literal["timm", "open_clip", "mini"]
    model: str
    repository: str = ""
    filename: str = "model.safetensors"
    pixels: Preprocessing
    pretrained: str = ""
    tokenizer: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


ENCODERS: dict[str, EncoderSpec] = {
    "dino": EncoderSpec(
        library="timm",
        model="vit_small_patch16_224.dino",
        repository="timm/vit_small_patch16_224.dino",
        pixels=DINO_PIXELS,
    ),
    "dino-s8": EncoderSpec(
        library="timm",
        model="vit_small_patch8_224.dino",
        repository="timm/vit_small_patch8_224.dino",
        pixels=DINO_PIXELS,
    ),
    # for PIE-Bench's structure distance
    "dino-b8": EncoderSpec(
        library="timm",
        model="vit_base_patch8_224.dino",
        repository="timm/vit_base_patch8_224.dino",
        pixels=DINO_PIXELS,
    ),
    # with QuickGELU, as the weights were trained: with plain GELU they load too, and every score is off
    "clip": EncoderSpec(
        library="open_clip",
        model="ViT-B-32-quickgelu",
        pretrained="openai",
        repository="timm/vit_base_patch32_clip_224.openai",
        filename="open_clip_model.safetensors",
        pixels=CLIP_PIXELS,
    ),
    # for PIE-Bench
    "clip-l14": EncoderSpec(
        library="open_clip",
        model="ViT-L-14-quickgelu",
        pretrained="openai",
        repository="timm/vit_large_patch14_clip_224.openai",
        filename="open_clip_model.safetensors",
        pixels=CLIP_PIXELS,
    ),
    # Paper: neither of the next two is in it; their values stand beside DINO, CLIP-I and CLIP-T, never in their place
    "dinov2": EncoderSpec(
        library="timm",
        model="vit_small_patch14_dinov2.lvd142m",
        repository="timm/vit_small_patch14_dinov2.lvd142m",
        pixels=DINO_PIXELS,
        # trained at 518 pixels: the position embeddings are resampled to the grid of 224
        options={"dynamic_img_size": True},
    ),
    "siglip2": EncoderSpec(
        library="open_clip",
        model="ViT-B-32-SigLIP2-256",
        repository="timm/ViT-B-32-SigLIP2-256",
        filename="open_clip_model.safetensors",
        tokenizer="tokenizer.json",
        pixels=Preprocessing(short_side=None, crop=256, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    ),
    "mini-dino": EncoderSpec(library="mini", model="dino.safetensors", pixels=MINI_PIXELS),
    "mini-clip": EncoderSpec(library="mini", model="clip.safetensors", pixels=MINI_PIXELS),
    "mini-identity": EncoderSpec(library="mini", model="identity.safetensors", pixels=MINI_PIXELS),
    "mini-classifier": EncoderSpec(library="mini", model="classifier.safetensors", pixels=MINI_PIXELS),
}
# What optional metrics need beside the rows of whole images: `eval.score.masks` gives it
WITHOUT_NETWORK = (*VIEWS, "lpips", "pixels")


def preprocess(image: Image.Image, how: Preprocessing) -> Image.Image:
    """An RGB image of `crop` x `crop` pixels, as torchvision makes it. One of the right size is not resampled."""
    image = image.convert("RGB")
    size = _resized(image.size, how)
    if image.size != size:
        image = image.resize(size, RESAMPLE[how.resample])
    left = round((image.width - how.crop) / 2)
    top = round((image.height - how.crop) / 2)
    if (left, top) == (0, 0) and image.size == (how.crop, how.crop):
        return image
    return image.crop((left, top, left + how.crop, top + how.crop))


def crop_pixels(image: Image.Image, how: Preprocessing) -> Pixels:
    """`preprocess` as an array (crop, crop, 3)."""
    return np.asarray(preprocess(image, how), dtype=np.uint8)


def to_batch(images: Sequence[Image.Image], how: Preprocessing) -> Tensor:
    """Preprocessed and normalised pixels (n, 3, crop, crop), float32."""
    return normalise(np.stack([crop_pixels(image, how) for image in images]), how)


def normalise(crops: Pixels | FloatArray, how: Preprocessing) -> Tensor:
    """Cropped pixels (n, crop, crop, 3) in 0..255, as a network's input (n, 3, crop, crop), float32."""
    batch = torch.from_numpy(crops).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format) / 255
    return (batch - torch.tensor(how.mean).view(3, 1, 1)) / torch.tensor(how.std).view(3, 1, 1)


class Encoder:
    """Images to unit vectors.

    An image's vector does not depend on what is embedded with it: every batch has `batch_size` images, the last one
    filled up, because a network's float32 sums depend on the shape of its batch, and on nothing else of it.

    Args:
        network: maps pixels (n, 3, crop, crop) to embeddings (n, d).
        how: the preprocessing of the network.
        name: "dino", "clip", "identity", ...
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
        pixels = BATCH_PIXELS["cuda" if device.startswith("cuda") else "cpu"]
        self.batch_size = batch_size or max(1, min(MAX_BATCH, pixels // how.crop**2))

    @property
    def key(self) -> str:
        """16 hex digits of all that an embedding depends on: weights, network, preprocessing, device and batch size."""
        return self._key(type(self).__name__)

    def features(self, pixels: Tensor) -> Tensor:
        """Embeddings (n, d) of a normalised batch, not of unit length yet."""
        return self.network(pixels)

    def rows(self, features: Tensor) -> FloatArray:
        """(n, d) of unit length."""
        return nn.functional.normalize(features.float(), dim=1).cpu().numpy()

    def embed(self, crops: Pixels) -> FloatArray:
        """Rows (n, d) of n images as `crop_pixels` gives them, (n, crop, crop, 3), in full batches."""
        parts = _full_batches(crops, self.batch_size)
        return np.concatenate([self._run(part) for part in parts])[: len(crops)]

    def embed_images(self, images: Sequence[Image.Image], batch_size: int | None = None) -> FloatArray:
        """Rows (n, d) of n images of any size and mode, in batches no larger than needed.

        Raises ValueError for an empty list.
        """
        size = self.batch_size if batch_size is None else batch_size
        _check_batches(images, size)
        parts = (images[start : start + size] for start in range(0, len(images), size))
        return np.concatenate([self._run(np.stack([crop_pixels(one, self.how) for one in part])) for part in parts])

    @torch.inference_mode()
    def _run(self, crops: Pixels) -> FloatArray:
        with full_precision(self.device):
            return self.rows(self.features(normalise(crops, self.how).to(self.device)))

    def _key(self, kind: str) -> str:
        parts = {
            "version": EMBEDDING_VERSION,
            "checkpoint": self.checkpoint,
            "how": asdict(self.how),
            "device": self.device.partition(":")[0],
            "batch_size": self.batch_size,
            "type": kind,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


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
        return self._key("text")

    @torch.inference_mode()
    def embed_texts(self, texts: list[str], batch_size: int = TEXT_BATCH) -> FloatArray:
        """Unit vectors (n, d) of n texts, in full batches; words past the network's context length are dropped."""
        _check_batches(texts, batch_size)
        rows = []
        for tokens in _full_batches(self.tokenizer(texts).numpy(), batch_size):
            with full_precision(self.device):
                rows.append(self.rows(self.network.encode_text(torch.from_numpy(tokens).to(self.device))))  # type: ignore[operator]
        return np.concatenate(rows)[: len(texts)]


class Classifier(Encoder):
    """What an image of the mini world shows; a row has the log-probabilities of all OUTPUTS."""

    def features(self, pixels: Tensor) -> Tensor:
        """Log-probabilities (n, 53) of a normalised batch."""
        logits = self.network(pixels)
        return torch.cat([logits[name].float().log_softmax(dim=1) for name in OUTPUTS], dim=1)

    def rows(self, features: Tensor) -> FloatArray:
        """The log-probabilities as they are."""
        return features.cpu().numpy()

    def predict(self, images: Sequence[Image.Image], batch_size: int | None = None) -> dict[str, FloatArray]:
        """Log-probabilities of n images: class (n, 15), context (n, 21), outfit (n, 11), change (n, 6).

        The last context is the studio; outfit 0 and change 0 are "none".
        """
        return split_outputs(self.embed_images(images, batch_size))


def split_outputs(rows: FloatArray) -> dict[str, FloatArray]:
    """A classifier's rows (n, 53), each output by itself."""
    ends = np.cumsum(list(OUTPUTS.values()))[:-1]
    return dict(zip(OUTPUTS, np.split(rows, ends, axis=1), strict=True))


@dataclass(frozen=True, kw_only=True)
class Evaluators:
    """The networks of one protocol. encoders: "dino" and "clip", "identity" where there is one, and those of optional
    metrics; metrics: the names of the optional metrics to score.
    """

    protocol: str
    encoders: Mapping[str, Any]
    classifier: Classifier | None = None
    metrics: tuple[str, ...] = ()

    @property
    def networks(self) -> dict[str, Encoder]:
        """All of them; the classifier is "classifier"."""
        return {**self.encoders} | ({} if self.classifier is None else {"classifier": self.classifier})

    @property
    def checkpoints(self) -> dict[str, Any]:
        """What a run record says of the weights."""
        return {name: network.checkpoint for name, network in self.networks.items()}

    def metrics_of(self, suite: Suite) -> dict[str, Metric]:
        """The metrics that these networks score on a suite, in the order of METRICS."""
        return {
            name: metric
            for name, metric in METRICS.items()
            if (metric.encoder in self.networks or metric.encoder in WITHOUT_NETWORK)
            and (name in self.metrics or not metric.optional)
            and not (metric.of_mini_world and suite.source == "photos")
            and not (metric.of_several and max(subject.n_references for subject in suite.subjects) < 2)
        }


def full_precision(device: str) -> AbstractContextManager[Any]:
    """Within it a GPU's convolutions are float32 too: by default they are rounded to TF32, which scores show."""
    if device.startswith("cuda"):
        return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return nullcontext()


def _full_batches(items: NDArray[Any], size: int) -> list[NDArray[Any]]:
    """Parts of `size` items, the last one filled up with copies of its last."""
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    if parts and len(parts[-1]) < size:
        parts[-1] = np.concatenate([parts[-1], np.repeat(parts[-1][-1:], size - len(parts[-1]), axis=0)])
    return parts


def _resized(size: tuple[int, int], how: Preprocessing) -> tuple[int, int]:
    if how.short_side is None:
        return how.crop, how.crop
    short, long = sorted(size)
    if short == how.short_side:
        return size
    # the long side is cut, not rounded, as torchvision does
    scaled = int(how.short_side * long / short)
    return (how.short_side, scaled) if size[0] <= size[1] else (scaled, how.short_side)


def _check_batches(items: Sequence[Any], batch_size: int) -> None:
    if not items:
        raise ValueError("nothing to embed: the list is empty")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
