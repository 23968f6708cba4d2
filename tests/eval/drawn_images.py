"""Old names of `eval_helpers`."""

from eval_helpers import PHOTO_SUITE as SUITE
from eval_helpers import draw, keys_of, write_manifest
from eval_helpers import draw_manifest as manifest
from eval_helpers import draw_tree as tree
from eval_helpers import suite_keys as places

__all__ = ["SUITE", "draw", "keys_of", "manifest", "places", "tree", "write_manifest"]
