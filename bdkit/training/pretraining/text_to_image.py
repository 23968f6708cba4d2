"""Base text-to-image model at mini size: U-Net and text encoder from scratch; full size takes Stable Diffusion v1-5."""

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from bdkit.losses import noise_prediction_loss, training_attention, training_scheduler
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.text_encoder import SubjectTextEncoder
from bdkit.training.config import TrainingConfig
from bdkit.training.data import FunctionBatches, epoch_indices
from bdkit.training.loop import TrainingLoop
from bdkit.training.pretraining.corpus import Corpus
from bdkit.utils.env import shared_draw


class TextToImageLoss(nn.Module):
    """Noise prediction guided by the caption."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: SubjectTextEncoder) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        self.scheduler = training_scheduler()

    def forward(self, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        latents, input_ids = batch
        hidden = self.text_encoder(input_ids)
        return noise_prediction_loss(self.unet, self.scheduler, latents, hidden, generator), {}


def train_text_to_image(
    model: BlipDiffusion,
    corpus: Corpus,
    latents: Tensor,
    config: TrainingConfig,
    out: Path | None,
    *,
    empty_share: float = 0.1,
    detail_share: float = 0.3,
    **loop: Any,
) -> list[dict[str, float]]:
    """Trains the U-Net and the text encoder of ``model`` on captions and cached latents (N, C, h, w).

    Args:
        empty_share: share of empty captions, for classifier-free guidance.
        detail_share: share of captions that also name colours, pattern and parts.
    """
    model.vae.requires_grad_(False)
    model.multimodal_encoder.requires_grad_(False)
    model.unet.to(memory_format=torch.channels_last)
    module = TextToImageLoss(model.unet, model.text_encoder)
    indices = epoch_indices(len(corpus), config.batch_size, config.seed)

    def batch(index: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = indices(index)
        draw = shared_draw(lambda rows: torch.rand(rows, generator=generator), len(chosen))
        captions = corpus.captions_at(chosen)
        for k, scene in enumerate(chosen):
            if draw[k] < empty_share:
                captions[k] = ""
            elif draw[k] < empty_share + detail_share:
                captions[k] = corpus.details[scene]
        ids, _ = model.tokenize(captions, None, with_subject=False)
        return latents[chosen].float().to(model.device, memory_format=torch.channels_last), ids.to(model.device)

    batches = FunctionBatches(batch, config.seed)
    with training_attention(model.unet):
        return TrainingLoop(module, batches, config, out=out, name="base text-to-image", **loop).run()
