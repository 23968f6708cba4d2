"""What a metric gets and gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dreambench.suites import Prompt

FloatArray = NDArray[np.floating]
PixelArray = NDArray[np.uint8]
# What embeds the pictures: a network, or a network on a part of the image ("dino_subject": DINO on the subject
# alone). "pixels" needs no network.
EncoderName = Literal[
    "dino",
    "clip",
    "identity",
    "classifier",
    "dinov2",
    "siglip2",
    "dino_subject",
    "clip_subject",
    "clip_background",
    "lpips",
    "pixels",
]
# Two stacks of images (n, H, W, 3), uint8 -> (n, H, W) float64, how different they look at each place
PerceptualDistance = Callable[[PixelArray, PixelArray], FloatArray]


@dataclass(frozen=True, kw_only=True)
class Edit:
    """An edited image beside what it was made from.

    image, source: (H, W, 3) uint8; mask: (H, W) in 0..1, 1 where the edit may change pixels
    """

    picture: PixelArray
    source: PixelArray
    mask: FloatArray


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The n images that one method made of one subject with one seed set, embedded.

    generated: encoder name -> (n, d) unit-norm embeddings
    references: encoder name -> (r, d) unit-norm embeddings of the subject's r references
    pairs: (n, r) bool, which reference each image is compared with. All True, but for the oracle without
        self-pairs, whose images are the references: there False on the diagonal.
    texts: (n, d) unit-norm CLIP embeddings of the prompts without token; None for the oracle
    text_scale, text_clamped: the protocol's factor on CLIP-T, and whether it is cut off below 0
    more_texts: encoder name -> (n, d) the same of other encoders; "clip_background" has the words of the place alone
    predictions: "class" (n, 15), "context" (n, 21), "outfit" (n, 11), "change" (n, 6) log-probabilities; may be empty
    prompts: n prompts; None for the oracle
    gallery: one (r_s, d) array of identity embeddings for each of the suite's subjects; may be empty
    oracle_nearest: encoder name -> (m,) cosine of each of the suite's m references with the nearest other reference of
        its subject (`nearest_of_references`)
    subject_index: this subject's place in the gallery
    class_index: index of the subject's class noun among the classifier's classes
    pictures: n images of one size, (n, H, W, 3) uint8, for metrics that look at pixels; else None
    edits: n edits, for images that were made from a source image; else None
    perceptual: the perceptual distance, where its weights are there; else None
    """

    generated: Mapping[str, FloatArray]
    references: Mapping[str, FloatArray]
    pairs: NDArray[np.bool_]
    subject_index: int
    class_index: int
    texts: FloatArray | None = None
    text_scale: float = 1.0
    text_clamped: bool = False
    more_texts: Mapping[str, FloatArray] = field(default_factory=dict)
    predictions: Mapping[str, FloatArray] | None = None
    prompts: tuple[Prompt, ...] | None = None
    gallery: tuple[FloatArray, ...] = ()
    oracle_nearest: Mapping[str, FloatArray] = field(default_factory=dict)
    pictures: PixelArray | None = None
    edits: tuple[Edit, ...] | None = None
    perceptual: PerceptualDistance | None = None


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric.

    name: as it stands in scores.csv
    title: as it stands in the table's head
    encoder: what it needs
    score: Batch -> (n,) float64
    of_prompt: it judges the prompt, so it is not defined for the oracle
    of_mini_world: it reads the mini world's ground truth, so it is not defined for photos
    of_edits: it compares an image with the one it was made from
    of_several: it compares a subject's references with each other, so it is not defined where every subject has one
    partial: NaN where it is not defined for an image (that image then has no score)
    optional: scored only where it is asked for by name
    higher_is_better: False where less is better
    """

    name: str
    title: str
    encoder: EncoderName
    score: Callable[[Batch], FloatArray]
    of_prompt: bool = False
    of_mini_world: bool = False
    of_edits: bool = False
    of_several: bool = False
    partial: bool = False
    optional: bool = False
    higher_is_better: bool = True


def mean_cosine(batch: Batch, encoder: EncoderName) -> FloatArray:
    """(n,) mean cosine similarity, in -1 to 1, of each image with the references it is compared with."""
    cosines = batch.generated[encoder].astype(np.float64) @ batch.references[encoder].astype(np.float64).T
    return np.asarray((cosines * batch.pairs).sum(axis=1) / batch.pairs.sum(axis=1))


def nearest_cosine(batch: Batch, encoder: EncoderName) -> FloatArray:
    """(n,) cosine similarity, in -1 to 1, of each image with the nearest of the references it is compared with."""
    cosines = batch.generated[encoder].astype(np.float64) @ batch.references[encoder].astype(np.float64).T
    return np.asarray(np.where(batch.pairs, cosines, -np.inf).max(axis=1))


def nearest_of_references(references: FloatArray) -> FloatArray:
    """(r,) cosine of each of one subject's (r, d) unit-norm references with the nearest other; empty for one."""
    if len(references) < 2:
        return np.zeros(0)
    cosines = references.astype(np.float64) @ references.astype(np.float64).T
    np.fill_diagonal(cosines, -np.inf)
    return np.asarray(cosines.max(axis=1))


def rowwise_cosine(first: FloatArray, second: FloatArray) -> FloatArray:
    """(n,) cosine similarity of the rows of two (n, d) arrays of unit vectors."""
    return np.asarray((first.astype(np.float64) * second.astype(np.float64)).sum(axis=1))
