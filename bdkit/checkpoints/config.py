"""Which model a command works with, and how it is read. Imports nothing heavy, so that help answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bdkit.utils.errors import InputError

if TYPE_CHECKING:
    from bdkit.checkpoints.files import LoadOptions


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Model.

    model: folder or hub id of a model, or the name of a shipped one; or a file: a whole Stable Diffusion 1.5, or a LoRA
        or a learned word, which go on top of --base
    base: Stable Diffusion 1.5 folder, for what a LAVIS checkpoint or a single file lacks; of a LoRA or a learned word:
        the model it goes on top of
    qformer_tokenizer: folder of bert-base-uncased's tokenizer, which the public checkpoints lack
    dtype: of the weights in memory
    """

    model: str = "mini"
    base: str | None = None
    qformer_tokenizer: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"

    @property
    def options(self) -> LoadOptions:
        """The same for the library."""
        import torch

        from bdkit.checkpoints.files import LoadOptions

        for name in ("model", "base", "qformer_tokenizer"):
            if getattr(self, name) is not None and not getattr(self, name).strip():
                raise InputError(f"--{name.replace('_', '-')} is empty; name a model, a folder or a file")
        return LoadOptions(qformer_tokenizer=self.qformer_tokenizer, base=self.base, dtype=getattr(torch, self.dtype))


@dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    """Speed on a GPU (the images' last bits change).

    channels_last: convolutions with the channels innermost
    compile: compile the U-Net and the decoder; the first image takes about a minute more
    """

    channels_last: bool = False
    compile: bool = False
