"""How a checkpoint is read, said once for every layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """See `BlipDiffusion.from_pretrained`, whose arguments these are.

    qformer_tokenizer: folder of bert-base-uncased's tokenizer, which the public checkpoints lack
    base: Stable Diffusion 1.5 folder or id, for what a LAVIS checkpoint lacks
    local_files_only: never ask the hub
    dtype: of the weights in memory
    """

    qformer_tokenizer: str | Path | None = None
    base: str | Path | None = None
    local_files_only: bool = False
    dtype: torch.dtype = torch.float32
