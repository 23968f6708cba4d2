"""Prompt right: does the image show what its prompt asks for? Not in the paper."""

import numpy as np

from dreambench.suites import Prompt
from eval.score.metrics.base import Batch, FloatArray, Metric

# In the classifier's outputs 0 to 19 are the contexts of the object prompts 0 to 19 (live subjects have the first ten),
# outfits 1 to 10 those of the live prompts 10 to 19, and changes 1 to 5 those of the prompts 20 to 24
FIRST_OUTFIT_PROMPT = 10
FIRST_PROPERTY_PROMPT = 20


def expected(prompt: Prompt) -> tuple[str, int]:
    """Which output of the classifier judges `prompt`, and the index it must find there."""
    if prompt.kind == "context":
        return "context", prompt.index
    if prompt.kind == "outfit":
        return "outfit", prompt.index - FIRST_OUTFIT_PROMPT + 1
    return "change", prompt.index - FIRST_PROPERTY_PROMPT + 1


def score(batch: Batch) -> FloatArray:
    """(n,) 1 where the classifier finds the prompt's context, outfit or changed property, else 0. The batch must have
    predictions and prompts.
    """
    assert batch.predictions is not None
    assert batch.prompts is not None
    found = {name: values.argmax(axis=1) for name, values in batch.predictions.items()}
    right = []
    for row, prompt in enumerate(batch.prompts):
        output, index = expected(prompt)
        right.append(found[output][row] == index)
    return np.asarray(right, dtype=np.float64)


METRIC = Metric(
    name="prompt_right", title="Prompt right", encoder="classifier", score=score, of_prompt=True, of_mini_world=True
)
