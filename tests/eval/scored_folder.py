"""Old names of `eval_helpers`."""

from eval_helpers import MAIN_METRICS as METRICS
from eval_helpers import QUICK_SUITE as SUITE
from eval_helpers import Value, add_images, any_value, make_folder, make_scores

__all__ = ["METRICS", "SUITE", "Value", "add_images", "any_value", "make_folder", "make_scores"]
