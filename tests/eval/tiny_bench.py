"""Old names of `eval_helpers`."""

from eval_helpers import METHODS, ROWS, TinyClassifier, TinyEncoder, TinyMethod, pixels, plain, word_vector
from eval_helpers import tiny_evaluators as evaluators

__all__ = [
    "METHODS",
    "ROWS",
    "TinyClassifier",
    "TinyEncoder",
    "TinyMethod",
    "evaluators",
    "pixels",
    "plain",
    "word_vector",
]
