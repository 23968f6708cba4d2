"""The four small networks of the `mini` protocol, their word tokenizer, and their weights files.

Every file is a safetensors file in fp16 whose metadata holds the network's whole configuration as JSON, so that a file
alone is enough to rebuild it. They look at 64 x 64 images and share nothing with the model that they score.
"""

import json
import re
import struct
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from timm.layers import HybridEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from bdkit.utils.errors import InputError
from bdkit.utils.io import file_hash, write_atomically

IMAGE_SIZE = 64
HEADS = ("class", "context", "outfit", "change")

DINO_CONFIG: dict[str, Any] = {"kind": "dino", "stem": [24, 48, 80, 128], "layers": 3, "heads": 2, "mlp_ratio": 2.0}
CLIP_CONFIG: dict[str, Any] = {
    "kind": "clip",
    "embed_dim": 128,
    "stem": [24, 48, 80, 128],
    "vision": {"layers": 2, "width": 128, "head_width": 64, "mlp_ratio": 2.0, "patch_size": 16},
    "text": {"layers": 2, "width": 96, "heads": 2, "mlp_ratio": 3.0, "context_length": 32},
}
IDENTITY_CONFIG: dict[str, Any] = {"kind": "identity", "channels": [24, 48, 80, 128], "dimension": 96}
CLASSIFIER_CONFIG: dict[str, Any] = {
    "kind": "classifier",
    "channels": [24, 48, 80, 128],
    "outputs": {"class": 15, "context": 21, "outfit": 11, "change": 6},
}


def split_words(text: str) -> list[str]:
    """The words of a text, lower case; everything but letters and digits separates."""
    return re.findall(r"[a-z0-9]+", text.lower())


class WordTokenizer:
    """Words to integers: 0 pads, 1 starts, 2 is any unknown word, the highest ends (CLIP pools at the highest).

    Args:
        words: the vocabulary, lower case; its order is the order of the integers.
        context_length: length of every row. A longer text loses its last words, never its end token.
    """

    def __init__(self, words: list[str], context_length: int) -> None:
        self.words = list(words)
        self.context_length = context_length
        self.index = {word: 3 + i for i, word in enumerate(self.words)}
        self.end = 3 + len(self.words)
        self.size = self.end + 1

    def __call__(self, texts: list[str]) -> Tensor:
        """Integers (n, context_length), int64."""
        rows = torch.zeros(len(texts), self.context_length, dtype=torch.long)
        for row, text in zip(rows, texts, strict=True):
            ids = [self.index.get(word, 2) for word in split_words(text)]
            ids = [1, *ids[: self.context_length - 2], self.end]
            row[: len(ids)] = torch.tensor(ids)
        return rows


class Block(nn.Module):
    """A convolution that halves the image, and a residual one."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels_in, channels, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.mix = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H/2, W/2)."""
        x = torch.relu(self.norm1(self.reduce(x)))
        return torch.relu(x + self.norm2(self.mix(x)))


class ConvStem(nn.Sequential):
    """Convolutions that halve an image as often as there are channels: (B, 3, H, W) -> (B, channels[-1], H/16, W/16).

    In front of a transformer, in place of its patch projection, they let it learn from far fewer images (Xiao et al.,
    "Early convolutions help transformers see better"), and minutes on a CPU are few.
    """

    def __init__(self, channels: list[int]) -> None:
        first = [nn.Conv2d(3, channels[0], 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(channels[0]), nn.ReLU()]
        super().__init__(*first, *map(Block, channels[:-1], channels[1:]))


class ConvTrunk(nn.Module):
    """A convolutional stem, then mean and maximum over what is left."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.blocks = ConvStem(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 64, 64) in -1..1 -> (B, 2 * channels[-1])."""
        x = self.blocks(x)
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)


class IdentityNet(nn.Module):
    """Which instance is it? A small residual convolutional network with one embedding."""

    def __init__(self, channels: list[int], dimension: int) -> None:
        super().__init__()
        self.trunk = ConvTrunk(channels)
        self.project = nn.Linear(2 * channels[-1], dimension)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 64, 64) in -1..1 -> (B, dimension), not normalised."""
        return self.project(self.trunk(x))


class ClassifierNet(nn.Module):
    """What is in the image? One trunk, one linear head for each question."""

    def __init__(self, channels: list[int], outputs: dict[str, int]) -> None:
        super().__init__()
        self.trunk = ConvTrunk(channels)
        # "class" is no name that an attribute can have, hence the suffix
        self.heads = nn.ModuleDict({f"{name}_head": nn.Linear(2 * channels[-1], n) for name, n in outputs.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, 64, 64) in -1..1 -> logits (B, n) of each head."""
        features = self.trunk(x)
        return {name.removesuffix("_head"): head(features) for name, head in self.heads.items()}


def build_network(config: dict[str, Any]) -> nn.Module:
    """The network of a configuration, with fresh weights."""
    kind = config["kind"]
    if kind == "dino":
        return VisionTransformer(
            img_size=IMAGE_SIZE,
            patch_size=1,
            embed_layer=partial(HybridEmbed, backbone=ConvStem(config["stem"]), proj=False),
            embed_dim=config["stem"][-1],
            depth=config["layers"],
            num_heads=config["heads"],
            mlp_ratio=config["mlp_ratio"],
            num_classes=0,
            dynamic_img_size=True,
        )
    if kind == "clip":
        vision = {**config["vision"], "image_size": IMAGE_SIZE}
        text = {**config["text"], "vocab_size": len(config["words"]) + 4}
        clip = open_clip.CLIP(embed_dim=config["embed_dim"], vision_cfg=vision, text_cfg=text)
        clip.visual.conv1 = ConvStem(config["stem"])
        return clip
    if kind == "identity":
        return IdentityNet(config["channels"], config["dimension"])
    if kind == "classifier":
        return ClassifierNet(config["channels"], config["outputs"])
    raise ValueError(f"no network of kind {kind!r}; known: dino, clip, identity, classifier")


def save_network(network: nn.Module, config: dict[str, Any], path: Path) -> str:
    """Writes a network in fp16 with its configuration in the metadata, atomically; returns the file's SHA-256."""
    tensors = {
        name: tensor.detach().cpu().to(torch.float16 if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    metadata = {"config": json.dumps(config, sort_keys=True)}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))
    return file_hash(path)


def load_network(path: Path, sha256: str | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """Reads what `save_network` wrote: the network in fp32 and evaluation mode, and its configuration."""
    if not path.is_file():
        raise InputError(
            f"the evaluator's weights {path.name} are missing from {path.parent}; "
            "reinstall the package or train them with `bdkit train-evaluators`"
        )
    if sha256 is not None and file_hash(path) != sha256:
        raise InputError(
            f"the evaluator's weights {path} are not the ones of card.json (their SHA-256 differs); "
            "reinstall the package or train them with `bdkit train-evaluators`"
        )
    try:
        with safe_open(path, framework="pt") as file:
            config = json.loads(file.metadata()["config"])
        network = build_network(config)
        state = {name: t.float() if t.is_floating_point() else t for name, t in load_file(path).items()}
        missing, unknown = network.load_state_dict(state, strict=False)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError, struct.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"the evaluator's weights {path} cannot be read: {reason}; reinstall the package") from error
    if unknown or [name for name in missing if not name.endswith("num_batches_tracked")]:
        raise InputError(f"the evaluator's weights {path} lack or have extra tensors; reinstall the package")
    return network.eval(), config
