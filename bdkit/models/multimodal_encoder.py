"""The multimodal encoder: image encoder, Q-Former and projection, from stock transformers classes (Sec. 3.1)."""

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, InstructBlipQFormerConfig, InstructBlipQFormerModel

from bdkit.models.configs import MultimodalEncoderConfig


class SubjectProjection(nn.Module):
    """x + dropout(dense2(quick_gelu(dense1(layernorm(x))))), the published projection.

    Paper: nothing follows; here: with ``output_scale`` a layer norm without bias, times that constant, because at mini
    size, trained from scratch, the subject prompt otherwise outgrows the token embeddings it stands among (0.02 to
    0.04), or a bias, which Adam moves by its learning rate a step, drowns what differs between subjects.
    """

    def __init__(self, width: int, hidden: int, dropout: float, output_scale: float | None) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(width, eps=1e-12)
        self.dense1 = nn.Linear(width, hidden)
        self.dense2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        self.output_norm = nn.LayerNorm(width, bias=False) if output_scale is not None else None
        self.output_scale = output_scale

    def forward(self, hidden_states: Tensor) -> Tensor:
        x = self.dense1(self.layer_norm(hidden_states))
        x = hidden_states + self.dropout(self.dense2(x * torch.sigmoid(1.702 * x)))
        return x if self.output_norm is None else self.output_norm(x) * self.output_scale


class MultimodalEncoder(nn.Module):
    """Subject image + subject category word -> ``num_query_tokens`` subject vectors.

    The Q-Former attends to the image tokens in every layer; queries and words have feed-forward layers of their own.
    """

    def __init__(self, config: MultimodalEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_model = CLIPVisionModel(CLIPVisionConfig(**config.vision))
        width = self.vision_model.config.hidden_size
        self.qformer = InstructBlipQFormerModel(
            InstructBlipQFormerConfig(
                **{"cross_attention_frequency": 1, "encoder_hidden_size": width, **config.qformer}
            )
        )
        size = self.qformer.config.hidden_size
        self.query_tokens = nn.Parameter(torch.empty(1, config.num_query_tokens, size).normal_(std=0.02))
        self.projection = SubjectProjection(
            size, config.projection_size, config.projection_dropout, config.output_scale
        )

    @property
    def image_size(self) -> int:
        return int(self.vision_model.config.image_size)

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """Image tokens (B, 1 + patches, W), post-layernorm over the whole sequence; pixel_values (B, 3, S, S)."""
        hidden = self.vision_model(pixel_values=pixel_values).last_hidden_state
        norm: nn.Module = self.vision_model.post_layernorm
        return norm(hidden)

    def query(
        self,
        image_tokens: Tensor | None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Run the Q-Former; returns (B, Q + T, D).

        Args:
            image_tokens: (B, N, W), or None for text alone (then there are no queries).
            input_ids: (B, T) word ids, or None for the queries alone.
            attention_mask: (B, T) padding mask of the words, or a boolean (B, 1, Q + T, Q + T) mask, True = may attend.
        """
        queries = None
        if image_tokens is not None:
            queries = self.query_tokens.expand(image_tokens.shape[0], -1, -1)
            if attention_mask is not None and attention_mask.dim() == 2:
                ones = attention_mask.new_ones(queries.shape[:2])
                attention_mask = torch.cat([ones, attention_mask], dim=1)
        return self.qformer(
            input_ids=input_ids,
            attention_mask=attention_mask,
            query_embeds=queries,
            encoder_hidden_states=image_tokens,
        ).last_hidden_state

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Subject vectors (B, Q, D) of subject images (B, 3, S, S) and category words (B, T)."""
        hidden = self.query(self.encode_image(pixel_values), input_ids, attention_mask)
        return self.projection(hidden[:, : self.config.num_query_tokens])
