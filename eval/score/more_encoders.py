"""The encoders of the metrics beyond DINO and CLIP: DINOv2 and SigLIP 2, with weights that need not be there.

Paper: neither is in it. Both are newer than the standard protocol's networks; their figures stand beside, never in
place of, DINO, CLIP-I and CLIP-T.
"""

from dataclasses import dataclass
from typing import Literal

import open_clip
import timm
from open_clip.tokenizer import HFTokenizer

from bdkit.utils.errors import InputError
from bdkit.utils.io import file_hash
from eval.score.checkpoints import WeightsSource, load_into
from eval.score.encoders import ClipEncoder, Encoder
from eval.score.protocols import IMAGENET_MEAN, IMAGENET_STD, Preprocessing


@dataclass(frozen=True, kw_only=True)
class EncoderChoice:
    """A public network. model: its name in timm or open_clip; repository, filename: its weights on the hub."""

    library: Literal["timm", "open_clip"]
    model: str
    repository: str
    filename: str
    how: Preprocessing


MORE_ENCODERS: dict[str, EncoderChoice] = {
    "dinov2": EncoderChoice(
        library="timm",
        model="vit_small_patch14_dinov2.lvd142m",
        repository="timm/vit_small_patch14_dinov2.lvd142m",
        filename="model.safetensors",
        how=Preprocessing(short_side=256, crop=224, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    ),
    "siglip2": EncoderChoice(
        library="open_clip",
        model="ViT-B-32-SigLIP2-256",
        repository="timm/ViT-B-32-SigLIP2-256",
        filename="open_clip_model.safetensors",
        how=Preprocessing(short_side=None, crop=256, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    ),
}


def load_more_encoder(
    name: str,
    source: WeightsSource | None = None,
    device: str = "cpu",
    choice: EncoderChoice | None = None,
) -> Encoder:
    """The encoder "dinov2", or "siglip2" (a `ClipEncoder`: it has texts too).

    DINOv2 gives its normalised class token. SigLIP 2's tokenizer.json must lie beside its weights, or in the hub's
    cache.

    Raises InputError for an unknown name, and for weights that are absent, broken or of another network.
    """
    if name not in MORE_ENCODERS:
        raise InputError(f"unknown encoder {name!r}; known: {', '.join(MORE_ENCODERS)}")
    choice = choice or MORE_ENCODERS[name]
    source = source or WeightsSource()
    path = source.find(name, choice.repository, choice.filename)
    checkpoint = {"file": choice.model, "sha256": file_hash(path)}
    if choice.library == "timm":
        # trained at 518 pixels: the position embeddings are resampled to the grid of 224
        network = timm.create_model(choice.model, pretrained=False, num_classes=0, dynamic_img_size=True)
        load_into(network, path)
        return Encoder(network, choice.how, name, checkpoint, device)
    network = open_clip.create_model(choice.model, pretrained=None, pretrained_hf=False)
    load_into(network, path)
    return ClipEncoder(network, choice.how, name, checkpoint, device, tokenizer=_tokenizer(name, choice, source))


def _tokenizer(name: str, choice: EncoderChoice, source: WeightsSource) -> HFTokenizer:
    path = source.find(f"{name}-tokenizer", choice.repository, "tokenizer.json")
    settings = open_clip.get_model_config(choice.model)["text_cfg"]
    try:
        return HFTokenizer(
            str(path.parent), context_length=settings["context_length"], **settings.get("tokenizer_kwargs", {})
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"the tokenizer in {path.parent} cannot be read ({type(error).__name__}); put tokenizer.json and "
            f"tokenizer_config.json of {choice.repository} there"
        ) from error
