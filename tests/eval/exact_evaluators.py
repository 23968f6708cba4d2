"""Old names of `eval_helpers`."""

from eval_helpers import HOW
from eval_helpers import exact_evaluators as evaluators

__all__ = ["HOW", "evaluators"]
