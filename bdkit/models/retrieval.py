"""Re-Imagen's conditioning on retrieved <image, text> neighbours (arXiv 2209.14491), on a latent diffusion.

After the paper, from secondary sources: the U-Net's own down half encodes each neighbour at timestep 0, and an
attention from the noisy image's features to the neighbours' stands between the down half and the up half.
Paper: a pixel-space cascade that is trained whole; here: one latent U-Net, which stays as it is, and the attention
alone is trained.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn


class NeighbourAttention(nn.Module):
    """Attention from an image's features to those of its neighbours, added to them; at the start it adds zero.

    Args:
        channels: of the image's features; neighbour_channels: of the neighbours'.
        heads: must divide ``channels``.
    """

    def __init__(self, channels: int, neighbour_channels: int, heads: int) -> None:
        super().__init__()
        self.norm, self.neighbour_norm = nn.LayerNorm(channels), nn.LayerNorm(neighbour_channels)
        # the plain processor: torch's fused one is slow backwards on short sequences
        self.attention = Attention(
            query_dim=channels,
            cross_attention_dim=neighbour_channels,
            heads=heads,
            dim_head=channels // heads,
            processor=AttnProcessor(),
        )
        for parameter in self.attention.to_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor, neighbours: Tensor, shown: Tensor) -> Tensor:
        """Features (B, C, h, w) after they looked at the neighbours.

        Args:
            features: (B, C, h, w) of the noisy images.
            neighbours: (B, N, D), see `RetrievalUNet.encode`; N positions of all neighbours of an image together.
            shown: (B,), 1 where an image sees its neighbours, 0 where it does not.
        """
        tokens = self.norm(features.flatten(2).transpose(1, 2))
        seen = self.attention(tokens, self.neighbour_norm(neighbours))
        seen = seen.transpose(1, 2).reshape(features.shape)
        return features + (shown.to(seen)[:, None, None, None] * seen).to(features)


class RetrievalUNet(nn.Module):
    """A U-Net that looks at neighbours before a block of its up half, and encodes them with its down half.

    Args:
        unet: shared, not copied.
        up_block: that block, counted from 0; the neighbours' features are the down half's of the same resolution.
    """

    def __init__(self, unet: UNet2DConditionModel, attention: NeighbourAttention, up_block: int) -> None:
        super().__init__()
        self.unet, self.attention, self.up_block = unet, attention, up_block

    def encode(self, latents: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        """What the down half makes of <image, text> pairs at timestep 0: (B, positions, D).

        Args:
            latents: (B, C, h, w), scaled, without noise.
            encoder_hidden_states: (B, L, D) of the texts.
        """
        unet = self.unet
        timesteps = torch.zeros(len(latents), dtype=torch.long, device=latents.device)
        embedding = unet.time_embedding(unet.time_proj(timesteps).to(latents.dtype))
        features = unet.conv_in(latents)
        outputs: tuple[Tensor, ...] = ()
        for block in unet.down_blocks[: len(unet.down_blocks) - self.up_block]:
            reads = getattr(block, "has_cross_attention", False)
            text = {"encoder_hidden_states": encoder_hidden_states} if reads else {}
            features, outputs = block(hidden_states=features, temb=embedding, **text)
        same_resolution = outputs[-1 if block.downsamplers is None else -2]  # the last one is half as large
        return same_resolution.flatten(2).transpose(1, 2)

    def forward(
        self, noisy: Tensor, timesteps: Tensor, encoder_hidden_states: Tensor, neighbours: Tensor, shown: Tensor
    ) -> UNet2DConditionOutput:
        """The U-Net's prediction; ``neighbours`` and ``shown`` as `NeighbourAttention` takes them."""

        def attend(_: nn.Module, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, {**given, "hidden_states": self.attention(given["hidden_states"], neighbours, shown)}

        handle = self.unet.up_blocks[self.up_block].register_forward_pre_hook(attend, with_kwargs=True)
        try:
            return self.unet(noisy, timesteps, encoder_hidden_states)
        finally:
            handle.remove()


class InterleavedGuidance(nn.Module):
    """Guidance by the text or by the neighbours, one of them a step; it stands in the U-Net's place in `sample`.

    After the paper, from secondary sources: with probability eta a step uses w_p e(c_p, c_n) - (w_p - 1) e(c_n), else
    w_n e(c_p, c_n) - (w_n - 1) e(c_p). Which one is a function of the image's seed and the timestep alone, so an image
    depends on neither its batch nor the device. `sample` is called with ``guidance_scale=1``.

    Args:
        neighbours: (1, N, D), the same for all images.
        null_hidden_states: (1, L, D) of the empty (or negative) prompt.
        seeds: one an image.
        guidance_scale: w_p; neighbour_guidance_scale: w_n; text_share: eta.
    """

    def __init__(
        self,
        unet: RetrievalUNet,
        neighbours: Tensor,
        null_hidden_states: Tensor,
        seeds: Sequence[int],
        *,
        guidance_scale: float,
        neighbour_guidance_scale: float,
        text_share: float,
    ) -> None:
        super().__init__()
        self.unet, self.neighbours, self.null, self.seeds = unet, neighbours, null_hidden_states, seeds
        self.scales, self.text_share = (guidance_scale, neighbour_guidance_scale), text_share
        self.config, self.device, self.dtype = unet.unet.config, unet.unet.device, unet.unet.dtype

    def forward(self, model_input: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> UNet2DConditionOutput:
        """The guided noise (B, C, h, w)."""
        drawn = [guided_by_text(seed, float(timestep), self.text_share) for seed in self.seeds]
        by_text = torch.tensor(drawn, device=model_input.device)
        prompts = encoder_hidden_states
        left_out = torch.where(by_text[:, None, None], self.null, prompts)
        shown = torch.cat([by_text, torch.ones_like(by_text)])
        neighbours = self.neighbours.expand(2 * len(prompts), -1, -1)
        both = torch.cat([left_out, prompts])
        noise_pred = self.unet(torch.cat([model_input] * 2), timestep, both, neighbours, shown).sample
        without, complete = noise_pred.chunk(2)
        text, neighbour = self.scales
        scale = complete.new_tensor([text if by else neighbour for by in drawn])[:, None, None, None]
        return UNet2DConditionOutput(sample=without + scale * (complete - without))


def guided_by_text(seed: int, timestep: float, text_share: float) -> bool:
    """Whether the text guides an image at a timestep, rather than the neighbours."""
    draw = np.random.default_rng([seed & 0x7FFF_FFFF_FFFF_FFFF, round(1000 * timestep)]).random()
    return bool(draw < text_share)
