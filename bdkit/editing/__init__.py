"""Ways to change an image beyond its prompt: prompt-to-prompt, inversion of real images, structure control."""

from bdkit.editing.inversion import Inversion, invert
from bdkit.editing.local_blend import LocalBlend
from bdkit.editing.prompt_to_prompt import EditAttention, prompt_to_prompt

__all__ = ["EditAttention", "Inversion", "LocalBlend", "invert", "prompt_to_prompt"]
