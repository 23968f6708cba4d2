"""Stage 2, subject representation learning by prompted context generation (Sec. 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from torch import Tensor, nn

from bdkit.diffusion import noise_prediction_loss, training_attention, training_scheduler
from bdkit.errors import InputError
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.images import pixels_from_arrays
from bdkit.pretraining.context_generation import blend
from bdkit.pretraining.corpus import Corpus, epoch_indices
from bdkit.training_loop import TrainingConfig, TrainingLoop


@dataclass(frozen=True, kw_only=True)
class SubjectRepresentationConfig:
    """Settings of stage 2 beside the training's own.

    Paper: one learning rate of 2e-6 for all; here: one a part, because the U-Net has seen far less before.
    Paper: the cut-out keeps its place; here: it is mirrored, scaled and shifted at random (``jitter``), because
    otherwise the model copies the reference's pose.
    Paper: all timesteps weigh the same; here: ``noise_weights``, because colours are decided where the noise is strong,
    and there the noise's error hardly shows them: without, 1,500 steps of 32 taught nothing of the subject.
    Paper: the image encoder is frozen; here: trained too where ``image_encoder_rate`` is above 0, because ours has seen
    65 thousand pictures, not 400 million, and its tokens lack what tells individuals apart.
    Paper: all places of a picture weigh the same; here: the subject's ``subject_weight`` times the background's.
    """

    subject_drop: float = 0.15
    empty_share: float = 0.1
    unet_rate: float = 5e-4
    text_rate: float = 5e-4
    multimodal_rate: float = 3e-4  # at 1e-3 all subjects get one prompt within 150 steps
    image_encoder_rate: float = 0.0  # 0: frozen, as in the paper
    noise_weights: tuple[float, float] | None = (0.2, 10.0)
    importance_sampling: bool = False  # of the timesteps, by their weights
    subject_weight: float = 1.0
    jitter: bool = True

    def __post_init__(self) -> None:
        if self.subject_weight <= 0:
            raise InputError(f"subject_weight is {self.subject_weight}; use a number above 0")


@dataclass(frozen=True, kw_only=True)
class SubjectBatch:
    """latents (B, C, h, w) of the target; pixels (B, 3, S, S) of the input; words and prompt ids with masks.

    pixel_weights: (B, 1, h, w), how much each place of the target counts; None: all the same.
    """

    latents: Tensor
    pixels: Tensor
    word_ids: Tensor
    word_mask: Tensor
    input_ids: Tensor
    subject_mask: Tensor
    pixel_weights: Tensor | None = None


class SubjectRepresentationLoss(nn.Module):
    """Noise prediction of the target, guided by its caption with the subject vectors of the synthesised input."""

    def __init__(self, model: BlipDiffusion, config: SubjectRepresentationConfig) -> None:
        super().__init__()
        self.config = config
        self.unet, self.text_encoder = model.unet, model.text_encoder
        self.multimodal_encoder = model.multimodal_encoder
        self.scheduler = training_scheduler()

    def forward(self, batch: SubjectBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        encoder, config = self.multimodal_encoder, self.config
        hidden = encoder.query(encoder.encode_image(batch.pixels), batch.word_ids, batch.word_mask)
        subject = encoder.projection(hidden[:, : encoder.config.num_query_tokens])
        states = self.text_encoder(batch.input_ids, subject, batch.subject_mask)
        loss = noise_prediction_loss(
            self.unet,
            self.scheduler,
            batch.latents,
            states,
            generator,
            config.noise_weights,
            importance_sampling=config.importance_sampling,
            pixel_weights=batch.pixel_weights,
        )
        vectors = subject.detach().float()
        share = vectors.std(0).mean() / vectors.std()  # what of the subject vectors differs between subjects
        return loss, {"prompt_std": float(vectors.std()), "subject_share": float(share)}


def jitter_cutout(image: np.ndarray, alpha: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mirror, scale (0.8 to 1.15) and shift (up to 10%) a cut-out, uint8 (H, W, 3) and (H, W)."""
    from PIL import Image

    size = image.shape[0]
    scale, angle_free = rng.uniform(0.8, 1.15), rng.uniform(-0.1, 0.1, 2) * size
    centre = size / 2
    offset = [centre - (centre + shift) / scale for shift in angle_free]
    data = (1 / scale, 0.0, offset[0], 0.0, 1 / scale, offset[1])
    stacked = Image.fromarray(np.dstack([image, alpha]), "RGBA")
    moved = np.asarray(stacked.transform((size, size), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR))
    if rng.random() < 0.5:
        moved = moved[:, ::-1]
    return moved[..., :3], moved[..., 3]


class SubjectBatches:
    """Batches of stage 2 as a function of the step: input = cut-out on a random background, target = the picture."""

    def __init__(
        self,
        model: BlipDiffusion,
        corpus: Corpus,
        latents: Tensor,
        backgrounds: np.ndarray,
        mattes: tuple[np.ndarray, np.ndarray] | None,
        training: TrainingConfig,
        config: SubjectRepresentationConfig,
    ) -> None:
        self.model, self.corpus, self.latents, self.backgrounds = model, corpus, latents, backgrounds
        self.mattes, self.training, self.config = mattes, training, config
        self.indices = epoch_indices(len(corpus), training.batch_size, training.seed)

    def inputs(self, chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Input pictures, uint8 (B, H, W, 3)."""
        pictures = []
        matted = 0 if self.mattes is None else len(self.mattes[0])
        for index in chosen:
            if self.mattes is not None and index < matted and index not in self.corpus.plain:
                foreground, alpha = self.mattes[0][index], self.mattes[1][index]
            else:
                foreground, alpha = self.corpus.subject_of(index)
            if self.config.jitter:
                foreground, alpha = jitter_cutout(foreground, alpha, rng)
            pictures.append(blend(foreground, alpha, self.backgrounds[rng.integers(len(self.backgrounds))]))
        return np.stack(pictures)

    def __call__(self, step: int, generator: torch.Generator) -> SubjectBatch:
        model, corpus, device = self.model, self.corpus, self.model.device
        chosen = self.indices(step)
        rng = np.random.default_rng([self.training.seed, step, PartialState().process_index])
        pixels = pixels_from_arrays(self.inputs(chosen, rng), clip=True)
        words = model.qformer_tokenizer([corpus.class_nouns[i] for i in chosen], padding=True, return_tensors="pt")
        rows = []
        draw = rng.random(len(chosen))
        for k, index in enumerate(chosen):
            if draw[k] < self.config.empty_share:
                rows.append(model.tokenize([""], None, with_subject=False))
            else:
                with_subject = bool(draw[k] >= self.config.empty_share + self.config.subject_drop)
                noun = corpus.class_nouns[index]
                rows.append(model.tokenize([corpus.templates[index]], [noun], with_subject=with_subject))
        return SubjectBatch(
            latents=self.latents[chosen].float().to(device, memory_format=torch.channels_last),
            pixels=pixels.to(device),
            word_ids=words.input_ids.to(device),
            word_mask=words.attention_mask.to(device),
            input_ids=torch.cat([ids for ids, _ in rows]).to(device),
            subject_mask=torch.cat([mask for _, mask in rows]).to(device),
            pixel_weights=self.pixel_weights(chosen),
        )

    def pixel_weights(self, chosen: np.ndarray) -> Tensor | None:
        """1 on the background, ``subject_weight`` on the subject, in between where a latent covers both."""
        if self.config.subject_weight == 1.0:
            return None
        alphas = torch.from_numpy(self.corpus.alphas[chosen]).float()[:, None] / 255
        height, width = self.latents.shape[-2:]
        share = F.adaptive_avg_pool2d(alphas, (height, width))
        return (1 + (self.config.subject_weight - 1) * share).to(self.model.device)


def train_subject_representation(
    model: BlipDiffusion,
    corpus: Corpus,
    latents: Tensor,
    backgrounds: np.ndarray,
    training: TrainingConfig,
    config: SubjectRepresentationConfig,
    out: Path | None,
    *,
    mattes: tuple[np.ndarray, np.ndarray] | None = None,
    name: str = "stage 2",
    **loop: Any,
) -> list[dict[str, float]]:
    """Train Q-Former, projection, text encoder and U-Net; the VAE is frozen, and the image encoder without a rate.

    Args:
        latents: cached target latents (N, C, h, w).
        backgrounds: uint8 (M, H, W, 3) pictures to blend the cut-outs on.
        mattes: foregrounds and alphas of the first pictures by closed-form matting; the others use the exact alpha.
    """
    module = SubjectRepresentationLoss(model, config)
    module.requires_grad_(True)
    vision = model.multimodal_encoder.vision_model
    vision.requires_grad_(config.image_encoder_rate > 0)
    model.unet.to(memory_format=torch.channels_last)
    encoder = model.multimodal_encoder
    multimodal = [encoder.query_tokens, *encoder.qformer.parameters(), *encoder.projection.parameters()]
    groups = [
        (list(model.unet.parameters()), config.unet_rate),
        (list(model.text_encoder.parameters()), config.text_rate),
        (multimodal, config.multimodal_rate),
    ]
    if config.image_encoder_rate > 0:
        groups.append((list(vision.parameters()), config.image_encoder_rate))
    batches = SubjectBatches(model, corpus, latents, backgrounds, mattes, training, config)
    with training_attention(model.unet):
        return TrainingLoop(module, batches, training, out=out, groups=groups, name=name, **loop).run()
