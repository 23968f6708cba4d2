"""Only the part that computes lies on the GPU (accelerate's hooks)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import cpu_offload_with_hook
from accelerate.hooks import remove_hook_from_module
from torch import nn


def offload_in_turn(parts: Sequence[nn.Module], device: torch.device) -> list[Any]:
    """Keeps ``parts`` on the CPU; each goes to ``device`` when it is called, and back when a later one is.

    Args:
        parts: in the order in which they are called.

    Returns:
        The hooks; ``hook.offload()`` brings a part back at once.
    """
    hooks: list[Any] = []
    for part in parts:
        _, hook = cpu_offload_with_hook(part, device, prev_module_hook=hooks[-1] if hooks else None)
        hooks.append(hook)
    return hooks


def stop_offloading(parts: Sequence[nn.Module]) -> None:
    """Takes the hooks off; the parts stay where they are."""
    for part in parts:
        remove_hook_from_module(part)
