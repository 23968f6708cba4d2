"""CLIP's text encoder with subject vectors among its token embeddings (Sec. 3.1, Fig. 2)."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel


class SubjectTextEncoder(nn.Module):
    """The stock ``CLIPTextModel`` (``.model``) plus a way to put vectors in place of token embeddings.

    The vectors replace the embeddings of placeholder tokens before position embeddings and causal attention, through a
    forward hook on the token embedding: public API only, so what is saved is a plain ``CLIPTextModel``.
    """

    def __init__(self, model: CLIPTextModel) -> None:
        super().__init__()
        self.model = model

    @property
    def max_length(self) -> int:
        """Number of positions, subject vectors included (77 at full size)."""
        return int(self.model.config.max_position_embeddings)

    def forward(
        self, input_ids: Tensor, subject_embeddings: Tensor | None = None, subject_mask: Tensor | None = None
    ) -> Tensor:
        """Hidden states after the final layer norm, (B, L, D).

        Args:
            input_ids: (B, L) token ids; any id stands at the places of the subject vectors.
            subject_embeddings: (B, Q, D) subject vectors.
            subject_mask: (B, L) bool, True at the places the vectors take: Q in a row, or none for a row whose subject
                prompt is dropped.
        """
        if subject_embeddings is None or subject_mask is None:
            return self.model(input_ids=input_ids).last_hidden_state
        number = (subject_mask.cumsum(dim=1) - 1).clamp(min=0)[..., None]  # of the vector that takes a place

        def insert(_module: nn.Module, _args: Any, embedded: Tensor) -> Tensor:
            # No indexing by the mask: on a GPU that waits for all work before it.
            vectors = subject_embeddings.gather(1, number.expand(*number.shape[:2], embedded.shape[2]))
            return torch.where(subject_mask[..., None], vectors.to(embedded.dtype), embedded)

        handle = self.model.embeddings.token_embedding.register_forward_hook(insert)
        try:
            return self.model(input_ids=input_ids).last_hidden_state
        finally:
            handle.remove()
