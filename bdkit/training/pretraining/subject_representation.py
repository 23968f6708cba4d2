"""Stage 2, subject representation learning by prompted context generation (Sec. 3.2)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdkit.losses import noise_prediction_loss, timestep_weights, training_attention, training_scheduler
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.preprocessing import pixels_from_arrays
from bdkit.training.config import TrainingConfig
from bdkit.training.data import FunctionBatches, epoch_indices
from bdkit.training.loop import TrainingLoop
from bdkit.training.pretraining.corpus import Corpus
from bdkit.utils.env import rank
from bdkit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SubjectRepresentationConfig:
    """Settings of stage 2 beside the training's own.

    Paper: one learning rate of 2e-6; here: one for each part, because the U-Net has seen far less before.
    Paper: the cut-out keeps its position; here: it is mirrored, scaled and shifted at random (``jitter``), because
    otherwise the model copies the reference's pose.
    Paper: all timesteps weigh the same; here: ``noise_weights``, because colours are decided where the noise is strong,
    and there the error of the noise hardly shows them.
    Paper: the image encoder is frozen; here: trained too where ``image_encoder_rate`` is above 0, because the mini one
    has seen 65 thousand images, not 400 million, and its tokens lack what tells individuals apart.
    Paper: all pixels weigh the same; here: the subject's ``subject_weight`` times the background's.
    """

    subject_drop: float = 0.15
    empty_share: float = 0.1
    unet_rate: float = 5e-4
    text_rate: float = 5e-4
    multimodal_rate: float = 3e-4
    image_encoder_rate: float = 0.0
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

    pixel_weights: (B, 1, h, w), how much each latent pixel of the target counts; None: all the same.
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
        self.weights = None if config.noise_weights is None else timestep_weights(self.scheduler, *config.noise_weights)

    def forward(self, batch: SubjectBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
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
            self.weights,
            importance_sampling=config.importance_sampling,
            pixel_weights=batch.pixel_weights,
        )
        vectors = subject.detach().float()
        share = vectors.std(0).mean() / vectors.std()  # what of the subject vectors differs between subjects
        return loss, {"prompt_std": vectors.std(), "subject_share": share}


def jitter_cutouts(cutouts: Tensor, rng: np.random.Generator) -> Tensor:
    """Mirrors, scales (0.8 to 1.15) and shifts (up to 10%) cut-outs, each at random.

    Args:
        cutouts: (B, 4, S, S), colours multiplied by alpha, and alpha; 0 outside the subject.
    """
    count = len(cutouts)
    scale = rng.uniform(0.8, 1.15, count)
    shift = rng.uniform(-0.1, 0.1, (count, 2)) * 2  # of a side, which measures 2 here
    mirror = np.where(rng.random(count) < 0.5, -1.0, 1.0)
    moves = np.zeros((count, 2, 3), dtype=np.float32)  # from output to input coordinates
    moves[:, 0, 0], moves[:, 1, 1] = mirror / scale, 1 / scale
    moves[:, :, 2] = -shift / scale[:, None]
    grid = F.affine_grid(torch.from_numpy(moves).to(cutouts.device), list(cutouts.shape), align_corners=False)
    return F.grid_sample(cutouts, grid, align_corners=False)


class SubjectBatches:
    """Batches of stage 2 as a function of their index: input = cut-out on a random background, target = the image.

    The whole corpus is put on the model's device beforehand; a batch only gathers and blends.

    Attributes:
        cutouts: uint8 (N, 4, H, W), each scene's subject without outfit or change, and its alpha.
        backgrounds: uint8 (M, 3, H, W).
        shares: (N, 1, h, w), how much of each latent of a target the subject covers.
    """

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
        device = model.device
        self.model, self.training, self.config = model, training, config
        self.indices = epoch_indices(len(corpus), training.batch_size, training.seed)
        self.latents = latents.to(device)
        self.cutouts = _cutouts(corpus, mattes).to(device)
        self.backgrounds = torch.from_numpy(backgrounds).to(device).permute(0, 3, 1, 2).contiguous()
        size = latents.shape[-2], latents.shape[-1]
        self.shares = torch.cat([_covered(part, size, device) for part in np.array_split(corpus.alphas, 16)])
        self.captions = _CaptionTable(model, corpus)

    def inputs(self, chosen: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Input images, uint8 (B, H, W, 3)."""
        cutouts = self.cutouts[torch.from_numpy(chosen).to(self.cutouts.device)].float()
        alpha = cutouts[:, 3:] / 255
        cutouts = torch.cat([cutouts[:, :3] * alpha, alpha], dim=1)
        if self.config.jitter:
            cutouts = jitter_cutouts(cutouts, rng)
        behind = torch.from_numpy(rng.integers(len(self.backgrounds), size=len(chosen))).to(self.backgrounds.device)
        mixed = cutouts[:, :3] + self.backgrounds[behind].float() * (1 - cutouts[:, 3:])
        return mixed.round().clamp(0, 255).byte().permute(0, 2, 3, 1)

    def __call__(self, index: int, generator: torch.Generator) -> SubjectBatch:
        config, device = self.config, self.latents.device
        chosen = self.indices(index)
        rng = np.random.default_rng([self.training.seed, index, rank()])
        pixels = pixels_from_arrays(self.inputs(chosen, rng), clip=True)
        draw = rng.random(len(chosen))
        kind = np.where(
            draw < config.empty_share,
            EMPTY,
            np.where(draw < config.empty_share + config.subject_drop, DROPPED, WITH_SUBJECT),
        )
        rows = torch.from_numpy(chosen).to(device)
        input_ids, subject_mask = self.captions.prompts(rows, torch.from_numpy(kind).to(device))
        word_ids, word_mask = self.captions.words(rows)
        return SubjectBatch(
            latents=self.latents[rows].float().to(memory_format=torch.channels_last),
            pixels=pixels,
            word_ids=word_ids,
            word_mask=word_mask,
            input_ids=input_ids,
            subject_mask=subject_mask,
            pixel_weights=None if config.subject_weight == 1.0 else 1 + (config.subject_weight - 1) * self.shares[rows],
        )


EMPTY, DROPPED, WITH_SUBJECT = 0, 1, 2  # prompts: none at all, the caption without its subject, with it


class _CaptionTable:
    """Token ids of a corpus, each caption tokenised once."""

    def __init__(self, model: BlipDiffusion, corpus: Corpus) -> None:
        pairs: dict[tuple[str, str], int] = {}
        rows = [pairs.setdefault(pair, len(pairs)) for pair in zip(corpus.templates, corpus.class_nouns, strict=True)]
        nouns = sorted(set(corpus.class_nouns))
        templates, of_pair = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        kinds = [
            [tensor.expand(len(pairs), -1) for tensor in model.tokenize([""], None, with_subject=False)],
            model.tokenize(templates, of_pair, with_subject=False),
            model.tokenize(templates, of_pair, with_subject=True),
        ]
        words = model.qformer_tokenizer(nouns, padding=True, return_tensors="pt")
        device = model.device
        self._row = torch.tensor(rows, device=device)
        self._noun = torch.tensor([nouns.index(noun) for noun in corpus.class_nouns], device=device)
        self._ids, self._mask = (torch.stack([kind[n] for kind in kinds]).to(device) for n in (0, 1))
        self._words = words.input_ids.to(device), words.attention_mask.to(device)

    def prompts(self, scenes: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids and the mask of the subject's positions, (B, L), of scenes (B,), each in its kind (B,)."""
        rows = self._row[scenes]
        return self._ids[kinds, rows], self._mask[kinds, rows]

    def words(self, scenes: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and mask of the scenes' class nouns for the multimodal encoder, (B, T)."""
        nouns = self._noun[scenes]
        return self._words[0][nouns], self._words[1][nouns]


def _cutouts(corpus: Corpus, mattes: tuple[np.ndarray, np.ndarray] | None) -> Tensor:
    """uint8 (N, 4, H, W): from the closed-form mattes where given, else from the exact alpha."""
    result = torch.empty((len(corpus), 4, *corpus.alphas.shape[1:]), dtype=torch.uint8)
    result[:, :3], result[:, 3] = torch.from_numpy(corpus.images).permute(0, 3, 1, 2), torch.from_numpy(corpus.alphas)
    replaced = dict(enumerate(zip(*mattes, strict=True))) if mattes is not None else {}
    for index, (image, alpha) in (replaced | corpus.plain).items():
        result[index, :3], result[index, 3] = torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(alpha)
    return result


def _covered(alphas: np.ndarray, size: tuple[int, int], device: torch.device) -> Tensor:
    """Mean alpha, 0 to 1, of the pixels of each latent; (B, H, W) uint8 to (B, 1, *size)."""
    return F.adaptive_avg_pool2d(torch.from_numpy(alphas).to(device)[:, None].float() / 255, size)


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
    """Trains Q-Former, projection, text encoder and U-Net; the VAE is frozen, and the image encoder without a rate.

    Args:
        latents: cached target latents (N, C, h, w).
        backgrounds: uint8 (M, H, W, 3) images to blend the cut-outs on.
        mattes: foregrounds and alphas of the first images by closed-form matting; the others use the exact alpha.
    """
    module = SubjectRepresentationLoss(model, config)
    module.requires_grad_(True)
    vision = model.multimodal_encoder.vision_model
    vision.requires_grad_(config.image_encoder_rate > 0)
    model.unet.to(memory_format=torch.channels_last)
    encoder = model.multimodal_encoder
    multimodal = [encoder.query_tokens, *encoder.qformer.parameters(), *encoder.projection.parameters()]
    groups = [
        {"params": list(model.unet.parameters()), "lr": config.unet_rate},
        {"params": list(model.text_encoder.parameters()), "lr": config.text_rate},
        {"params": multimodal, "lr": config.multimodal_rate},
    ]
    if config.image_encoder_rate > 0:
        groups.append({"params": list(vision.parameters()), "lr": config.image_encoder_rate})
    batch = SubjectBatches(model, corpus, latents, backgrounds, mattes, training, config)
    batches = FunctionBatches(batch, training.seed)
    with training_attention(model.unet):
        return TrainingLoop(module, batches, training, out=out, groups=groups, name=name, **loop).run()
