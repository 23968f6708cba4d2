"""Image-text contrastive training of the image encoder (CLIP), which stages 1 and 2 then keep frozen."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, CLIPVisionModel

from bdkit.models.preprocessing import pixels_from_arrays
from bdkit.training.config import TrainingConfig
from bdkit.training.data import FunctionBatches, epoch_indices
from bdkit.training.loop import TrainingLoop
from bdkit.training.pretraining.corpus import Corpus
from bdkit.utils.env import shared_draw


class ContrastiveLoss(nn.Module):
    """Symmetric image-text cross-entropy of the stock ``CLIPModel``."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        pixels, input_ids = batch
        outputs = self.clip(input_ids=input_ids, pixel_values=pixels)
        logits = outputs.logits_per_image.float()
        labels = torch.arange(len(logits), device=logits.device)
        loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        return loss, {"top1": (logits.detach().argmax(1) == labels).float().mean()}


def train_image_encoder(
    corpus: Corpus,
    tokenizer: CLIPTokenizer,
    vision: dict[str, Any],
    text: dict[str, Any],
    config: TrainingConfig,
    out: Path | None,
    **loop: Any,
) -> tuple[CLIPVisionModel, list[dict[str, float]]]:
    """Trains a CLIP on images and detailed captions; returns its vision tower without the last layer.

    Paper: CLIP ViT-L/14, 23 of 24 layers; here likewise all but the last, so ``vision`` counts the kept layers.
    """
    vision_config = {**vision, "num_hidden_layers": vision["num_hidden_layers"] + 1}
    torch.manual_seed(config.seed)
    text_config = {**text, "vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id}
    text_config |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    clip = CLIPModel(CLIPConfig(text_config=text_config, vision_config=vision_config, projection_dim=128))
    indices = epoch_indices(len(corpus), config.batch_size, config.seed)
    length = text["max_position_embeddings"]

    def batch(index: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = indices(index)
        plain = shared_draw(lambda rows: torch.rand(rows, generator=generator), len(chosen)) < 0.3
        captions = corpus.captions_at(chosen)
        texts = [captions[k] if plain[k] else corpus.details[i] for k, i in enumerate(chosen)]
        ids = tokenizer(texts, padding=True, max_length=length, truncation=True, return_tensors="pt").input_ids
        return flip_half(pixels_from_arrays(corpus.images[chosen], clip=True), generator), ids

    batches = FunctionBatches(batch, config.seed)
    history = TrainingLoop(ContrastiveLoss(clip), batches, config, out=out, name="image encoder", **loop).run()
    tower = CLIPVisionModel(type(clip.config.vision_config)(**vision))
    state = {
        k: v for k, v in clip.vision_model.state_dict().items() if f"layers.{vision['num_hidden_layers']}." not in k
    }
    tower.load_state_dict(state)
    return tower, history


def flip_half(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrors a random half of the images (B, 3, H, W)."""
    flip = shared_draw(lambda rows: torch.rand(rows, generator=generator), len(pixels)) < 0.5
    pixels[flip] = pixels[flip].flip(-1)
    return pixels
