"""Which model a command works with, and how it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bdkit.checkpoints.loading import DTYPES
from bdkit.models.options import LoadOptions


@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """A model and how it is read.

    model: folder or id of a model, or the name of a shipped one
    qformer_tokenizer: folder of bert-base-uncased's tokenizer, which the public checkpoints lack
    base: Stable Diffusion 1.5 folder, for what a LAVIS checkpoint lacks; of a LoRA or a learned word: the model it was
        trained on, where that has moved
    dtype: of the weights in memory: float32, float16 or bfloat16
    """

    model: str = "mini"
    qformer_tokenizer: str | None = None
    base: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"

    @property
    def options(self) -> LoadOptions:
        """As the library takes them."""
        return LoadOptions(qformer_tokenizer=self.qformer_tokenizer, base=self.base, dtype=DTYPES[self.dtype])
