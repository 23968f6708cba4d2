"""Stage 2, subject representation learning by prompted context generation (Sec. 3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import reduce
from torch import Tensor, nn

from bdkit.losses import (
    gradient_checkpointing,
    noise_prediction_loss,
    timestep_weights,
    training_attention,
    training_scheduler,
)
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.preprocessing import pixels_from_arrays
from bdkit.training.config import TrainingConfig
from bdkit.training.data import Batches, FunctionBatches, epoch_indices, epoch_position, record_rng
from bdkit.training.loop import TrainingLoop
from bdkit.training.pretraining.config import SubjectRepresentationConfig
from bdkit.training.pretraining.context_generation import (
    DROPPED,
    EMPTY,
    WITH_SUBJECT,
    ContextDraw,
    PromptTokenizer,
    draw_context,
    synthesise_inputs,
)
from bdkit.training.pretraining.corpus import Corpus


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
        weights = batch.pixel_weights
        if weights is not None:
            weights = weights / reduce(weights.mean(), "mean")  # of all processes
        loss = noise_prediction_loss(
            self.unet,
            self.scheduler,
            batch.latents,
            states,
            generator,
            self.weights,
            importance_sampling=config.importance_sampling,
            pixel_weights=weights,
        )
        vectors = subject.detach().float()
        share = (
            vectors.std(0, correction=0).mean() / vectors.std()
        )  # what of the subject vectors differs between subjects
        return loss, {"prompt_std": vectors.std(), "subject_share": share}


class SubjectBatches:
    """Batches of stage 2 as a function of their index: input = cut-out on a random background, target = the image.

    The whole corpus is put on the model's device beforehand; a batch only gathers and blends.

    Attributes:
        cutouts: uint8 (N, 4, H, W), each scene's subject without outfit or change, and its alpha; with ``same_image``
            the whole image.
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
        self.cutouts = _cutouts(corpus, mattes, whole=config.same_image).to(device)
        self.backgrounds = torch.from_numpy(backgrounds).to(device).permute(0, 3, 1, 2).contiguous()
        size = latents.shape[-2], latents.shape[-1]
        alphas = (torch.from_numpy(part).to(device) for part in np.array_split(corpus.alphas, 16))
        self.shares = torch.cat([covered(part, size) for part in alphas])
        self.captions = _CaptionTable(model, corpus, config.word_length)

    def inputs(self, chosen: np.ndarray, draws: Sequence[ContextDraw]) -> Tensor:
        """Input images, uint8 (B, H, W, 3)."""
        cutouts = self.cutouts[torch.from_numpy(chosen).to(self.cutouts.device)].float()
        alpha = cutouts[:, 3:] / 255
        behind = torch.tensor([draw.background for draw in draws], device=self.backgrounds.device)
        return synthesise_inputs(torch.cat([cutouts[:, :3] * alpha, alpha], dim=1), self.backgrounds[behind], draws)

    def __call__(self, index: int, generator: torch.Generator) -> SubjectBatch:
        config, training, device = self.config, self.training, self.latents.device
        chosen = self.indices(index)
        epoch, first = epoch_position(index, len(self.cutouts), training.batch_size)
        rngs = [record_rng(training.seed, epoch, first + k) for k in range(len(chosen))]
        draws = [draw_context(rng, len(self.backgrounds), config) for rng in rngs]
        kinds = torch.tensor([draw.kind for draw in draws], device=device)
        rows = torch.from_numpy(chosen).to(device)
        input_ids, subject_mask = self.captions.prompts(rows, kinds)
        word_ids, word_mask = self.captions.words(rows)
        return SubjectBatch(
            latents=self.latents[rows].float().to(memory_format=torch.channels_last),
            pixels=pixels_from_arrays(self.inputs(chosen, draws), clip=True),
            word_ids=word_ids,
            word_mask=word_mask,
            input_ids=input_ids,
            subject_mask=subject_mask,
            pixel_weights=pixel_weights(self.shares[rows], config.subject_weight),
        )


class _CaptionTable:
    """Token ids of a corpus, each caption tokenised once."""

    def __init__(self, model: BlipDiffusion, corpus: Corpus, word_length: int) -> None:
        pairs: dict[tuple[str, str], int] = {}
        rows = [pairs.setdefault(pair, len(pairs)) for pair in zip(corpus.templates, corpus.class_nouns, strict=True)]
        nouns = sorted(set(corpus.class_nouns))
        templates, of_pair = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        tokenizer, device = PromptTokenizer.of(model, word_length), model.device
        kinds = [tokenizer.prompts(templates, of_pair, kind) for kind in (EMPTY, DROPPED, WITH_SUBJECT)]
        self._row = torch.tensor(rows, device=device)
        self._noun = torch.tensor([nouns.index(noun) for noun in corpus.class_nouns], device=device)
        self._ids, self._mask = (torch.stack([kind[n] for kind in kinds]).to(device) for n in (0, 1))
        ids, mask = tokenizer.words(nouns)
        self._words = ids.to(device), mask.to(device)

    def prompts(self, scenes: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids and the mask of the subject's positions, (B, L), of scenes (B,), each in its kind (B,)."""
        rows = self._row[scenes]
        return self._ids[kinds, rows], self._mask[kinds, rows]

    def words(self, scenes: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and mask of the scenes' class nouns for the multimodal encoder, (B, T)."""
        nouns = self._noun[scenes]
        return self._words[0][nouns], self._words[1][nouns]


def _cutouts(corpus: Corpus, mattes: tuple[np.ndarray, np.ndarray] | None, *, whole: bool) -> Tensor:
    """uint8 (N, 4, H, W): from the closed-form mattes where given, else from the exact alpha; or the whole images."""
    result = torch.empty((len(corpus), 4, *corpus.alphas.shape[1:]), dtype=torch.uint8)
    result[:, :3], result[:, 3] = torch.from_numpy(corpus.images).permute(0, 3, 1, 2), torch.from_numpy(corpus.alphas)
    if whole:
        result[:, 3] = 255
        return result
    replaced = dict(enumerate(zip(*mattes, strict=True))) if mattes is not None else {}
    for index, (image, alpha) in (replaced | corpus.plain).items():
        result[index, :3], result[index, 3] = torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(alpha)
    return result


def covered(alphas: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean alpha, 0 to 1, of the pixels of each latent; (B, H, W) uint8 to (B, 1, *size)."""
    return F.adaptive_avg_pool2d(alphas[:, None].float() / 255, size)


def pixel_weights(shares: Tensor | None, subject_weight: float) -> Tensor | None:
    """How much each latent pixel counts, by the share of it that the subject covers; None: all the same."""
    return None if subject_weight == 1.0 or shares is None else 1 + (subject_weight - 1) * shares


def train_subject_representation(
    model: BlipDiffusion,
    batches: Batches,
    training: TrainingConfig,
    config: SubjectRepresentationConfig,
    out: Path | None,
    *,
    name: str = "stage 2",
    **loop: Any,
) -> list[dict[str, float]]:
    """Trains Q-Former, projection, text encoder and U-Net; the VAE is frozen, and every part whose rate is 0.

    Args:
        batches: of `SubjectBatch`: `subject_batches` of a corpus in memory, or those of shards.
    """
    module = SubjectRepresentationLoss(model, config)
    encoder = model.multimodal_encoder
    model.unet.to(memory_format=torch.channels_last)
    trained: list[tuple[list[nn.Parameter], float]] = [
        (list(model.unet.parameters()), config.unet_rate),
        (list(model.text_encoder.parameters()), config.text_rate),
        (
            [encoder.query_tokens, *encoder.qformer.parameters(), *encoder.projection.parameters()],
            config.multimodal_rate,
        ),
        (list(encoder.vision_model.parameters()), config.image_encoder_rate),
    ]
    groups = [{"params": parameters, "lr": rate} for parameters, rate in trained if rate > 0]
    for parameters, rate in trained:
        for parameter in parameters:
            parameter.requires_grad_(rate > 0)
    checkpointed = [model.unet, model.text_encoder.model, encoder.qformer]
    with training_attention(model.unet), gradient_checkpointing(checkpointed, on=training.gradient_checkpointing):
        return TrainingLoop(module, batches, training, out=out, groups=groups, name=name, **loop).run()


def subject_batches(
    model: BlipDiffusion,
    corpus: Corpus,
    latents: Tensor,
    backgrounds: np.ndarray,
    training: TrainingConfig,
    config: SubjectRepresentationConfig,
    mattes: tuple[np.ndarray, np.ndarray] | None = None,
) -> FunctionBatches:
    """The batches of a corpus in memory.

    Args:
        latents: cached target latents (N, C, h, w).
        backgrounds: uint8 (M, H, W, 3) images to blend the cut-outs on.
        mattes: foregrounds and alphas of the first images by closed-form matting; the others use the exact alpha.
    """
    batch = SubjectBatches(model, corpus, latents, backgrounds, mattes, training, config)
    return FunctionBatches(batch, training.seed)
