"""The networks of a protocol together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bdkit.utils.errors import InputError
from eval.score.checkpoints import WeightsSource
from eval.score.encoders import load_classifier, load_encoder
from eval.score.masks import VIEWS
from eval.score.metrics import METRICS
from eval.score.metrics.base import EncoderName
from eval.score.more_encoders import MORE_ENCODERS, load_more_encoder
from eval.score.protocols import find_protocol

# what `eval.score.extras` gives to the metrics that are asked for
WITHOUT_NETWORK = (*VIEWS, "lpips", "pixels")


class Embedder(Protocol):
    """An encoder of images; CLIP's has `embed_texts(texts) -> (n, d)` too."""

    checkpoint: dict[str, str]

    def embed_images(self, images: list[Image.Image]) -> NDArray[np.float32]:
        """(n, d) unit-norm embeddings."""


class Predictor(Protocol):
    """A classifier of images of the mini world."""

    checkpoint: dict[str, str]

    def predict(self, images: list[Image.Image]) -> dict[str, NDArray[np.float32]]:
        """Log-probabilities: class (n, 15), context (n, 21), outfit (n, 11), change (n, 6)."""


@dataclass(frozen=True, kw_only=True)
class Evaluators:
    """The networks of one protocol. encoders: "dino" and "clip", "identity" where there is one, and those of optional
    metrics; metrics: the names of the optional metrics to score.
    """

    protocol: str
    encoders: Mapping[str, Any]
    classifier: Predictor | None = None
    metrics: tuple[str, ...] = ()

    @property
    def checkpoints(self) -> dict[str, Any]:
        """What a run record says of the weights."""
        networks: dict[str, Any] = {**self.encoders}
        if self.classifier is not None:
            networks["classifier"] = self.classifier
        return {name: network.checkpoint for name, network in networks.items()}

    def has(self, encoder: EncoderName) -> bool:
        """Whether a metric that needs `encoder` can be scored."""
        if encoder == "classifier":
            return self.classifier is not None
        return encoder in self.encoders or encoder in WITHOUT_NETWORK


def load_evaluators(
    protocol: str, device: str = "cpu", source: WeightsSource | None = None, metrics: Sequence[str] = ()
) -> Evaluators:
    """All networks of a protocol, and those of the optional metrics named.

    source: where to look for public weights; None: $BDKIT_WEIGHTS_DIR, the hub's cache, the hub

    Raises InputError for an unknown protocol or metric and for weights that are not there.
    """
    more = optional_encoders(metrics)
    names = ["dino", "clip"]
    classifier = None
    if find_protocol(protocol).weights == "shipped":
        names.append("identity")
        classifier = load_classifier(protocol, device)
    encoders = {name: load_encoder(name, protocol, device, source) for name in names}
    encoders |= {name: load_more_encoder(name, source, device) for name in more}
    return Evaluators(protocol=protocol, encoders=encoders, classifier=classifier, metrics=tuple(metrics))


def optional_encoders(metrics: Sequence[str]) -> list[str]:
    """The further encoders that metrics need. Raises InputError for one that `bdkit score` cannot score."""
    for name in metrics:
        if name not in METRICS:
            raise InputError(f"unknown metric {name!r}; known are {', '.join(METRICS)}")
    return sorted({METRICS[name].encoder for name in metrics} & set(MORE_ENCODERS))
