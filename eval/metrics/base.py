"""What a metric gets and gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dreambench.suites import Prompt

FloatArray = NDArray[np.floating]
EncoderName = Literal["dino", "clip", "identity", "classifier"]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The n pictures that one method made of one subject with one seed set, embedded.

    generated: encoder name -> (n, d) unit-norm embeddings
    references: encoder name -> (r, d) unit-norm embeddings of the subject's r references
    pairs: (n, r) bool, which reference each picture is compared with. All True, but for the oracle without
        self-pairs, whose pictures are the references: there False on the diagonal.
    texts: (n, d) unit-norm CLIP embeddings of the prompts without token; None for the oracle
    predictions: "class" (n, 15), "context" (n, 21), "outfit" (n, 11), "change" (n, 6) log-probabilities; may be empty
    prompts: n prompts; None for the oracle
    gallery: one (r_s, d) array of identity embeddings for each of the suite's subjects; may be empty
    subject_index: this subject's place in the gallery
    class_index: index of the subject's class noun among the classifier's classes
    """

    generated: Mapping[str, FloatArray]
    references: Mapping[str, FloatArray]
    pairs: NDArray[np.bool_]
    subject_index: int
    class_index: int
    texts: FloatArray | None = None
    predictions: Mapping[str, FloatArray] | None = None
    prompts: tuple[Prompt, ...] | None = None
    gallery: tuple[FloatArray, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric: for every metric here more is better.

    name: as it stands in scores.csv
    title: as it stands in the table's head
    encoder: what it needs
    score: Batch -> (n,) float64
    of_prompt: it judges the prompt, so it is not defined for the oracle
    of_mini_world: it reads the mini world's ground truth, so it is not defined for photos
    """

    name: str
    title: str
    encoder: EncoderName
    score: Callable[[Batch], FloatArray]
    of_prompt: bool = False
    of_mini_world: bool = False


def mean_cosine(batch: Batch, encoder: EncoderName) -> FloatArray:
    """(n,) mean cosine similarity, in -1 to 1, of each picture with the references it is compared with."""
    cosines = batch.generated[encoder].astype(np.float64) @ batch.references[encoder].astype(np.float64).T
    return np.asarray((cosines * batch.pairs).sum(axis=1) / batch.pairs.sum(axis=1))
