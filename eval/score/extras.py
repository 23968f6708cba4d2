"""What the optional metrics need beside the embeddings of whole pictures: masks, sources of edits, pixels, LPIPS.

Masks and sources are trees of PNGs like a results folder's own images, whatever the layout of the scored ones:
seed<k>/METHOD/SUBJECT/<prompt>-<sample>.png, and for masks also references/SUBJECT/<name of the reference>.png.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bdkit.utils.errors import InputError
from bdkit.utils.images import read_image
from dreambench.suites import Prompt
from eval.results_dir import REFERENCES
from eval.score.cache import EmbeddingCache, content_hash
from eval.score.checkpoints import WeightsSource
from eval.score.encoders import ClipEncoder, Encoder
from eval.score.masks import VIEWS, ClipSegSegmenter, Mask, keep, mean_colour, read_mask
from eval.score.metrics import Metric
from eval.score.metrics.base import Edit, FloatArray, PixelArray
from eval.score.metrics.clip_t_background import place_words
from eval.score.perceptual import load_lpips

SEGMENT = "clipseg"
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class ExtraOptions:
    """masks: folder of the subjects' masks, white on the subject, or "clipseg" to find them; sources: folder of the
    images that edited ones were made from.
    """

    masks: str | None = None
    sources: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Placed:
    """An image's file, content hash and place in the trees of masks and sources, without ending."""

    path: Path
    content: bytes
    place: Path


def image_place(method: str, seed_set: int, subject: str, prompt: int, sample: int) -> Path:
    """Where a generated image's mask and source are."""
    return Path(f"seed{seed_set}") / method / subject / f"{prompt:02d}-{sample}"


def reference_place(subject: str, path: Path) -> Path:
    """Where a reference's mask is."""
    return Path(REFERENCES) / subject / path.stem


class Extras:
    """Gives the fields of `Batch` that the metrics wanted need.

    Args:
        metrics: those that are scored.
        encoders: "dino" and "clip", real encoders of this package.
        cache: folder for the embeddings of masked images.

    Raises InputError when masks, sources or weights that a metric needs are not there.
    """

    def __init__(
        self,
        metrics: Sequence[Metric],
        encoders: Mapping[str, Any],
        options: ExtraOptions,
        cache: Path,
        source: WeightsSource | None = None,
        device: str = "cpu",
    ) -> None:
        wanted = {metric.encoder for metric in metrics}
        self.views = [name for name in VIEWS if name in wanted]
        self.edits = any(metric.of_edits for metric in metrics)
        self.pixels = any(metric.encoder == "lpips" and not metric.of_edits for metric in metrics)
        self.encoders, self.options, self.cache = encoders, options, cache
        if (self.views or self.edits) and options.masks is None:
            named = ", ".join(metric.name for metric in metrics if metric.encoder in VIEWS or metric.of_edits)
            raise InputError(f"{named}: give the subjects' masks with --masks DIR, or let --masks {SEGMENT} find them")
        if self.edits and options.sources is None:
            named = ", ".join(metric.name for metric in metrics if metric.of_edits)
            raise InputError(f"{named}: give the images that the edits were made from with --sources DIR")
        self.segmenter = ClipSegSegmenter(device=device) if options.masks == SEGMENT else None
        self.perceptual = load_lpips(source, device) if "lpips" in wanted else None

    def of_references(self, noun: str, references: Sequence[Placed]) -> dict[str, FloatArray]:
        """View -> (r, d) embeddings of one subject's references."""
        return {name: self._embed(name, noun, references) for name in self.views}

    def of_images(self, noun: str, pictures: Sequence[Placed], prompts: Sequence[Prompt]) -> dict[str, Any]:
        """Fields of `Batch` for images of one subject; "generated" and "more_texts" join what is there already."""
        fields: dict[str, Any] = {
            "generated": {name: self._embed(name, noun, pictures) for name in self.views},
            "more_texts": {},
            "perceptual": self.perceptual,
        }
        if "clip_background" in self.views:
            clip = self.encoders["clip"]
            assert isinstance(clip, ClipEncoder)
            # a prompt without a place gets some text, and no score
            texts = [place_words(prompt) or "a" for prompt in prompts]
            fields["more_texts"]["clip_background"] = clip.embed_texts(texts)
        if self.pixels:
            fields["pictures"] = _stack([(picture.path, read_image(picture.path)) for picture in pictures])
        if self.edits:
            fields["edits"] = tuple(self._edit(noun, picture) for picture in pictures)
        return fields

    def _edit(self, noun: str, picture: Placed) -> Edit:
        assert self.options.sources is not None
        image = read_image(picture.path)
        path = (self.options.sources / picture.place).with_name(picture.place.name + ".png")
        source = read_image(path)
        if source.size != image.size:
            raise InputError(f"{path} and {picture.path} have different sizes; an edit keeps its source's size")
        mask = self._mask(noun, picture, image)
        return Edit(picture=np.asarray(image), source=np.asarray(source), mask=mask)

    def _embed(self, view: str, noun: str, pictures: Sequence[Placed]) -> FloatArray:
        name, kept = VIEWS[view]
        encoder = self.encoders[name]
        assert isinstance(encoder, Encoder)
        cache = EmbeddingCache(self.cache / f"{encoder.key}-{kept}")
        keys = [content_hash(picture.content + self._mask_content(noun, picture)) for picture in pictures]
        missing = set(cache.missing(keys))
        lacking = list({key: p for key, p in zip(keys, pictures, strict=True) if key in missing}.items())
        for start in range(0, len(lacking), BATCH):
            part = lacking[start : start + BATCH]
            images = [read_image(picture.path) for _, picture in part]
            masks = [self._mask(noun, p, image) for (_, p), image in zip(part, images, strict=True)]
            fill = mean_colour(encoder.how)
            seen = [keep(image, mask, kept, fill) for image, mask in zip(images, masks, strict=True)]
            cache.put([key for key, _ in part], encoder.embed_images(seen))
        cache.flush()
        return cache.get(keys)

    def _mask(self, noun: str, picture: Placed, image: Image.Image) -> Mask:
        if self.segmenter is not None:
            return self.segmenter([image], noun)[0]
        assert self.options.masks is not None
        return read_mask(Path(self.options.masks), picture.place, image.size)

    def _mask_content(self, noun: str, picture: Placed) -> bytes:
        """What a mask is known by: its file, or the words that it is found with."""
        if self.segmenter is not None:
            return f"{SEGMENT} {noun}".encode()
        assert self.options.masks is not None
        path = (Path(self.options.masks) / picture.place).with_name(picture.place.name + ".png")
        try:
            return content_hash(path.read_bytes())
        except OSError as error:
            raise InputError(f"{path} is missing: every image needs its mask there, white on the subject") from error


def _stack(pictures: Sequence[tuple[Path, Image.Image]]) -> PixelArray:
    first_path, first = pictures[0]
    for path, image in pictures:
        if image.size != first.size:
            raise InputError(f"{path} and {first_path} have different sizes; LPIPS compares images of one size")
    return np.stack([np.asarray(image) for _, image in pictures])
