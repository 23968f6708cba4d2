"""CLIP-T, background only: is the place that the prompt asks for behind the subject? Not in the paper."""

import numpy as np

from dreambench.suites import Prompt
from eval.score.metrics.base import Batch, FloatArray, Metric, rowwise_cosine


def place_words(prompt: Prompt) -> str:
    """The prompt without its subject, such as "in the jungle"; "" for a prompt that names no place."""
    if prompt.kind != "context":
        return ""
    return " ".join(prompt.template.format("", "").split()).removeprefix("a ")


def score(batch: Batch) -> FloatArray:
    """(n,) cosine similarity, in -1 to 1, of each image without its subject's pixels (`eval.score.masks.keep_background`)
    with the words of the place; NaN for prompts that name none. The batch must have prompts and the places' texts.
    """
    assert batch.prompts is not None
    cosines = rowwise_cosine(batch.generated["clip_background"], batch.more_texts["clip_background"])
    return np.where([bool(place_words(prompt)) for prompt in batch.prompts], cosines, np.nan)


METRIC = Metric(
    name="clip_t_background",
    title="CLIP-T, background only",
    encoder="clip_background",
    score=score,
    of_prompt=True,
    partial=True,
    optional=True,
)
