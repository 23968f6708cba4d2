"""Ways to change an image beyond its prompt: edits, prompt-to-prompt, inversion of real images, structure control."""

from bdkit.editing.edit import Edit, EditResult, edit, edit_batch
from bdkit.editing.edit_presets import PRESETS, EditConfig
from bdkit.editing.inversion import Inversion, invert
from bdkit.editing.local_blend import LocalBlend
from bdkit.editing.prompt_to_prompt import EditAttention, prompt_to_prompt

__all__ = [
    "PRESETS",
    "Edit",
    "EditAttention",
    "EditConfig",
    "EditResult",
    "Inversion",
    "LocalBlend",
    "edit",
    "edit_batch",
    "invert",
    "prompt_to_prompt",
]
