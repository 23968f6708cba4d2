"""The metrics: pure functions on a `Batch`, and one registry. A new one is a function and an entry in METRICS.

DINO, CLIP-I and CLIP-T are the DreamBooth paper's (arXiv 2208.12242, Sec. 4.1); no other metric is in a paper that is
reproduced here.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dreambench.suites import Prompt
from eval.score import edit_metrics
from eval.score.edit_metrics import Edit, FloatArray, PerceptualDistance, PixelArray

# What embeds the images: a network, or a network on a part of the image (VIEWS). "pixels" needs no network.
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
# What the masked metrics look at: name -> the encoder, and the side of the mask that it sees
VIEWS: dict[str, tuple[str, Literal["subject", "background"]]] = {
    "dino_subject": ("dino", "subject"),
    "clip_subject": ("clip", "subject"),
    "clip_background": ("clip", "background"),
}
# In the classifier's outputs 0 to 19 are the contexts of the object prompts 0 to 19 (live subjects have the first ten),
# outfits 1 to 10 those of the live prompts 10 to 19, and changes 1 to 5 those of the prompts 20 to 24
FIRST_OUTFIT_PROMPT, FIRST_PROPERTY_PROMPT = 10, 20
# The share of the suite's own references that may count as copied
FALSE_ALARMS = 0.01
# The nearest two references have one similarity, but for the rounding of float32
ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The n images that one method made of one subject with one seed set, embedded.

    generated: encoder name -> (n, d) unit-norm embeddings
    references: encoder name -> (r, d) unit-norm embeddings of the subject's r references
    pairs: (n, r) bool, which reference each image is compared with. All True, but for the oracle without
        self-pairs, whose images are the references: False on the diagonal.
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
    images: n images of one size, (n, H, W, 3) uint8, for metrics that look at pixels; else None
    edits: n edits, for images that were made from a source image; else None
    perceptual: the perceptual distance, where its weights are loaded; else None
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
    images: PixelArray | None = None
    edits: tuple[Edit, ...] | None = None
    perceptual: PerceptualDistance | None = None


@dataclass(frozen=True)
class Metric:
    """One metric; its name in scores.csv is its key in METRICS.

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


# Subject fidelity


def mean_cosine(batch: Batch, encoder: EncoderName) -> FloatArray:
    """(n,) mean cosine similarity, in -1 to 1, of each image with the references it is compared with."""
    return np.asarray((_cosines(batch, encoder) * batch.pairs).sum(axis=1) / batch.pairs.sum(axis=1))


def nearest_cosine(batch: Batch, encoder: EncoderName) -> FloatArray:
    """(n,) cosine similarity, in -1 to 1, of each image with the nearest of the references it is compared with."""
    return np.asarray(np.where(batch.pairs, _cosines(batch, encoder), -np.inf).max(axis=1))


def nearest_reference(batch: Batch) -> NDArray[np.int64]:
    """(n,) place, from 0, of the reference that is most like each image (DINO), among all of its subject."""
    return np.asarray(_cosines(batch, "dino").argmax(axis=1))


def retrieval(batch: Batch) -> FloatArray:
    """(n,) 1 where the nearest of the suite's mean reference embeddings (identity encoder, cosine) is the subject's,
    else 0. Chance is 1 over the number of subjects. Of an image's subject only the references count that it is
    compared with, so an oracle image does not find itself. The batch must have a gallery.
    """
    generated = batch.generated["identity"].astype(np.float64)
    others = np.stack([_unit(embeddings.astype(np.float64).mean(axis=0)) for embeddings in batch.gallery])
    cosines = generated @ others.T
    weights = batch.pairs / batch.pairs.sum(axis=1, keepdims=True)
    subject = _unit(weights @ batch.references["identity"].astype(np.float64))
    cosines[:, batch.subject_index] = (generated * subject).sum(axis=1)
    return np.asarray(cosines.argmax(axis=1) == batch.subject_index, dtype=np.float64)


def class_right(batch: Batch) -> FloatArray:
    """(n,) 1 where the classifier finds the subject's class, else 0. The batch must have predictions."""
    assert batch.predictions is not None
    return np.asarray(batch.predictions["class"].argmax(axis=1) == batch.class_index, dtype=np.float64)


# Prompt fidelity


def clip_t(batch: Batch) -> FloatArray:
    """(n,) cosine similarity of each image with its prompt's text, in -1 to 1, times the protocol's factor, and where
    the protocol says so not below 0: `dreambench` does neither. The batch must have texts.
    """
    assert batch.texts is not None
    values = batch.text_scale * rowwise_cosine(batch.generated["clip"], batch.texts)
    return np.asarray(np.maximum(values, 0.0) if batch.text_clamped else values)


def siglip2_t(batch: Batch) -> FloatArray:
    """(n,) the same with SigLIP 2 (arXiv 2502.14786): the plain cosine, without its scale, bias and sigmoid."""
    return rowwise_cosine(batch.generated["siglip2"], batch.more_texts["siglip2"])


def clip_t_background(batch: Batch) -> FloatArray:
    """(n,) cosine similarity, in -1 to 1, of each image without its subject's pixels with the words of the place; NaN
    for prompts that name none. The batch must have prompts and the places' texts.
    """
    cosines = rowwise_cosine(batch.generated["clip_background"], batch.more_texts["clip_background"])
    return np.where([bool(place_words(prompt)) for prompt in _prompts(batch)], cosines, np.nan)


def place_words(prompt: Prompt) -> str:
    """The prompt without its subject, such as "in the jungle"; "" for a prompt that names no place."""
    if prompt.kind != "context":
        return ""
    return " ".join(prompt.template.format("", "").split()).removeprefix("a ")


def prompt_right(batch: Batch) -> FloatArray:
    """(n,) 1 where the classifier finds the prompt's context, outfit or changed property, else 0. The batch must have
    predictions and prompts.
    """
    assert batch.predictions is not None
    best = {name: values.argmax(axis=1) for name, values in batch.predictions.items()}
    expected = [expected_output(prompt) for prompt in _prompts(batch)]
    return np.array([best[output][row] == index for row, (output, index) in enumerate(expected)], dtype=np.float64)


def expected_output(prompt: Prompt) -> tuple[str, int]:
    """Which output of the classifier judges `prompt`, and the index it must find there."""
    if prompt.kind == "context":
        return "context", prompt.index
    if prompt.kind == "outfit":
        return "outfit", prompt.index - FIRST_OUTFIT_PROMPT + 1
    return "change", prompt.index - FIRST_PROPERTY_PROMPT + 1


# Copies and diversity


def copied(batch: Batch, encoder: EncoderName = "dino") -> FloatArray:
    """(n,) 1 where an image, background included, is nearer to a reference than real images of one subject are to each
    other (`copy_threshold`), else 0: DINO and CLIP-I reward a copy of the input as fidelity. The batch must have the
    oracle's similarities of that encoder, from a suite with at least two references of some subject.
    """
    limit = copy_threshold(batch.oracle_nearest[encoder]) + ROUNDING
    return np.asarray(nearest_cosine(batch, encoder) > limit, dtype=np.float64)


def copy_threshold(oracle_nearest: FloatArray) -> float:
    """The similarity above which an image counts as copied: the (1 - FALSE_ALARMS) quantile (linear between values) of
    the (m,) similarities of real images with their nearest other real image of the subject.
    """
    return float(np.quantile(oracle_nearest.astype(np.float64), 1 - FALSE_ALARMS))


def nearest_of_references(references: FloatArray) -> FloatArray:
    """(r,) cosine of each of one subject's (r, d) unit-norm references with the nearest other; empty for one."""
    if len(references) < 2:
        return np.zeros(0)
    cosines = references.astype(np.float64) @ references.astype(np.float64).T
    np.fill_diagonal(cosines, -np.inf)
    return np.asarray(cosines.max(axis=1))


def diversity(batch: Batch) -> FloatArray:
    """(n,) 1 - mean cosine similarity (DINO) of each image with the other samples of its prompt, in 0 to 2; NaN for a
    prompt with one sample. A method that draws one good image four times loses nothing by the other metrics. The batch
    must have prompts.
    """
    embeddings = batch.generated["dino"].astype(np.float64)
    return mean_over_others(1 - embeddings @ embeddings.T, _prompts(batch))


def diversity_lpips(batch: Batch) -> FloatArray:
    """(n,) mean LPIPS distance (arXiv 1801.03924), from 0, of each image to the other samples of its prompt; NaN for a
    prompt with one sample. The batch must have prompts, images and the perceptual distance.
    """
    assert batch.images is not None
    assert batch.perceptual is not None
    samples: dict[int, list[int]] = defaultdict(list)
    for row, prompt in enumerate(_prompts(batch)):
        samples[prompt.index].append(row)
    groups = [rows for rows in samples.values() if len(rows) > 1]
    return mean_over_others(edit_metrics.pair_distances(batch.images, groups, batch.perceptual), _prompts(batch))


def mean_over_others(distances: FloatArray, prompts: Sequence[Prompt]) -> FloatArray:
    """(n,) mean of each row of the (n, n) distances over the other images of the same prompt, NaN where none is."""
    indices = np.array([prompt.index for prompt in prompts])
    same = (indices[:, None] == indices[None]) & ~np.eye(len(indices), dtype=bool)
    counts = same.sum(axis=1)
    sums = np.where(same, distances, 0.0).sum(axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def ssim_outside(batch: Batch) -> FloatArray:
    """`edit_metrics.ssim_outside` of the batch's edits."""
    assert batch.edits is not None
    return edit_metrics.ssim_outside(batch.edits)


def lpips_outside(batch: Batch) -> FloatArray:
    """`edit_metrics.lpips_outside` of the batch's edits, with its perceptual distance."""
    assert batch.edits is not None
    assert batch.perceptual is not None
    return edit_metrics.lpips_outside(batch.edits, batch.perceptual)


def rowwise_cosine(first: FloatArray, second: FloatArray) -> FloatArray:
    """(n,) cosine similarity of the rows of two (n, d) arrays of unit vectors."""
    return np.asarray((first.astype(np.float64) * second.astype(np.float64)).sum(axis=1))


def _cosines(batch: Batch, encoder: EncoderName) -> FloatArray:
    return np.asarray(batch.generated[encoder].astype(np.float64) @ batch.references[encoder].astype(np.float64).T)


def _unit(vectors: FloatArray) -> FloatArray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def _prompts(batch: Batch) -> tuple[Prompt, ...]:
    assert batch.prompts is not None
    return batch.prompts


def _means(encoder: EncoderName) -> Callable[[Batch], FloatArray]:
    return lambda batch: mean_cosine(batch, encoder)


_EDIT = {"of_edits": True, "partial": True, "optional": True}
METRICS: dict[str, Metric] = {
    "dino": Metric("DINO", "dino", _means("dino")),
    "clip_i": Metric("CLIP-I", "clip", _means("clip")),
    "clip_t": Metric("CLIP-T", "clip", clip_t, of_prompt=True),
    "identity": Metric("Identity", "identity", _means("identity"), of_mini_world=True),
    "retrieval": Metric("Retrieval", "identity", retrieval, of_mini_world=True),
    "class_right": Metric("Class right", "classifier", class_right, of_mini_world=True),
    "prompt_right": Metric("Prompt right", "classifier", prompt_right, of_prompt=True, of_mini_world=True),
    "dinov2": Metric("DINOv2", "dinov2", _means("dinov2"), optional=True),
    "siglip2_i": Metric("SigLIP2-I", "siglip2", _means("siglip2"), optional=True),
    "siglip2_t": Metric("SigLIP2-T", "siglip2", siglip2_t, of_prompt=True, optional=True),
    "dino_subject": Metric("DINO, subject only", "dino_subject", _means("dino_subject"), optional=True),
    "clip_i_subject": Metric("CLIP-I, subject only", "clip_subject", _means("clip_subject"), optional=True),
    "clip_t_background": Metric(
        "CLIP-T, background only", "clip_background", clip_t_background, of_prompt=True, partial=True, optional=True
    ),
    "copy_similarity": Metric(
        "Nearest reference", "dino", lambda batch: nearest_cosine(batch, "dino"), optional=True, higher_is_better=False
    ),
    "copied": Metric("Copied", "dino", copied, of_several=True, higher_is_better=False),
    "diversity": Metric("Diversity", "dino", diversity, of_prompt=True, partial=True, optional=True),
    "diversity_lpips": Metric(
        "Diversity, LPIPS", "lpips", diversity_lpips, of_prompt=True, partial=True, optional=True
    ),
    "ssim_outside": Metric("SSIM outside the edit", "pixels", ssim_outside, **_EDIT),
    "lpips_outside": Metric("LPIPS outside the edit", "lpips", lpips_outside, higher_is_better=False, **_EDIT),
}
