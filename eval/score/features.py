"""Every image through every network once: decoded in worker processes, in full batches, kept in the cache."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from bdkit.utils.errors import InputError
from eval.score.cache import EmbeddingCache, content_hash
from eval.score.decoding import Pixels, ToDecode, Workers, decode
from eval.score.encoders import Classifier, ClipEncoder, Encoder
from eval.score.protocols import Preprocessing

CLASSIFIER = "classifier"
# A classifier's outputs, side by side in one row of the cache
PREDICTION_SIZES = {"class": 15, "context": 21, "outfit": 11, "change": 6}
PLAIN_BATCH = 32
FloatArray = npt.NDArray[np.float32]


@dataclass
class Network:
    """One network as the pipeline sees it.

    key: of all that its rows depend on; how: the pixels it wants, None for whole images
    run: pixels of `batch_size` images at most -> (n, d) rows
    """

    key: str
    how: Preprocessing | None
    batch_size: int
    run: Callable[[list[Pixels]], FloatArray]
    waiting: list[tuple[bytes, Pixels]] = field(default_factory=list)


def as_network(evaluator: Any) -> Network:
    """An encoder or classifier of this package, or any object with `embed_images` or `predict` and a checkpoint."""
    if isinstance(evaluator, Classifier):
        classifier = evaluator
        return Network(
            classifier.key,
            classifier.how,
            classifier.batch_size,
            lambda pixels: _join(classifier.predict_crops(np.stack(pixels))),
        )
    if isinstance(evaluator, Encoder):
        encoder = evaluator
        return Network(
            encoder.key, encoder.how, encoder.batch_size, lambda pixels: encoder.embed_crops(np.stack(pixels))
        )
    if hasattr(evaluator, "predict"):
        return Network(
            _plain_key(evaluator), None, PLAIN_BATCH, lambda pixels: _join(evaluator.predict(_images(pixels)))
        )
    return Network(_plain_key(evaluator), None, PLAIN_BATCH, lambda pixels: evaluator.embed_images(_images(pixels)))


class Embeddings:
    """The rows of all networks for all images of a run.

    Args:
        evaluators: name -> encoder or classifier.
        folder: of the cache; each network has its own folder in it.
    """

    def __init__(self, evaluators: Mapping[str, Any], folder: Path) -> None:
        self.folder = folder
        self.evaluators = dict(evaluators)
        self.networks = {name: as_network(evaluator) for name, evaluator in evaluators.items()}
        # networks with the same key share their rows
        self.caches = {network.key: EmbeddingCache(folder / network.key) for network in self.networks.values()}

    def embed(self, files: Mapping[bytes, Path], workers: Workers, show_progress: bool = True) -> int:
        """Embeds what the cache does not have yet of `files` (content hash -> a file that has it); returns how many
        images that were.

        Raises InputError when a file cannot be decoded any more; what was embedded before stays in the cache.
        """
        networks = list({network.key: network for network in self.networks.values()}.values())
        lacking = {
            content: [network for network in networks if content not in self.caches[network.key]] for content in files
        }
        items = [
            ToDecode(files[content], content, tuple(dict.fromkeys(network.how for network in those)))
            for content, those in lacking.items()
            if those
        ]
        bar = tqdm(total=len(items), desc="scoring", unit=" images", disable=not show_progress, dynamic_ncols=True)
        try:
            with bar:
                for item, pixels in zip(items, workers.map(decode, items), strict=True):
                    if isinstance(pixels, str):
                        raise InputError(pixels)
                    by_kind = dict(zip(item.wanted, pixels, strict=True))
                    for network in lacking[item.content]:
                        network.waiting.append((item.content, by_kind[network.how]))
                        if len(network.waiting) == network.batch_size:
                            self._run(network)
                    bar.update()
                for network in networks:
                    if network.waiting:
                        self._run(network)
        finally:
            for network in networks:
                network.waiting.clear()
            for cache in self.caches.values():
                cache.flush()
        return len(items)

    def get(self, name: str, contents: Sequence[bytes]) -> FloatArray:
        """(n, d) rows of one network."""
        return self.caches[self.networks[name].key].get(contents)

    def predictions(self, contents: Sequence[bytes]) -> dict[str, FloatArray]:
        """The classifier's rows, each output by itself."""
        ends = np.cumsum(list(PREDICTION_SIZES.values()))[:-1]
        return dict(zip(PREDICTION_SIZES, np.split(self.get(CLASSIFIER, contents), ends, axis=1), strict=True))

    def texts(self, texts: Sequence[str], name: str = "clip") -> FloatArray:
        """(n, d) rows of the text side of an encoder."""
        clip = self.evaluators[name]
        if not isinstance(clip, ClipEncoder):
            return np.asarray(clip.embed_texts(list(texts)))
        cache = self.caches.setdefault(clip.text_key, EmbeddingCache(self.folder / clip.text_key))
        keys = [content_hash(text.encode()) for text in texts]
        missing = set(cache.missing(keys))
        new = {key: text for key, text in zip(keys, texts, strict=True) if key in missing}
        if new:
            cache.put(list(new), clip.embed_texts(list(new.values())))
            cache.flush()
        return cache.get(keys)

    def _run(self, network: Network) -> None:
        rows = network.run([pixels for _, pixels in network.waiting])
        if not np.isfinite(rows).all():
            name = next(name for name, other in self.networks.items() if other.key == network.key)
            raise InputError(f"the weights of {name!r} give no numbers for an image: damaged; fetch them again")
        self.caches[network.key].put([content for content, _ in network.waiting], rows)
        network.waiting.clear()


def _images(pixels: list[Pixels]) -> list[Image.Image]:
    return [Image.fromarray(one) for one in pixels]


def _join(predictions: Mapping[str, FloatArray]) -> FloatArray:
    return np.concatenate([predictions[name] for name in PREDICTION_SIZES], axis=1)


def _plain_key(evaluator: Any) -> str:
    text = json.dumps([type(evaluator).__qualname__, evaluator.checkpoint], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
