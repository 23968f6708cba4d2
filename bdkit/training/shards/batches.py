"""Batches of shards for the stages' training, which takes them as it takes those of a corpus in memory."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bdkit.models.latent_diffusion import Vae, encode_images
from bdkit.models.preprocessing import pixels_from_arrays
from bdkit.training.config import TrainingConfig
from bdkit.training.data import step_generator
from bdkit.training.pretraining.autoencoder import encode_corpus, latent_batch
from bdkit.training.pretraining.image_encoder import flip_half
from bdkit.training.pretraining.retrieval_augmented import RetrievalBatch
from bdkit.training.pretraining.subject_representation import SubjectBatch, covered, pixel_weights
from bdkit.training.shards.latents import Latents, cache_latents
from bdkit.training.shards.read import Record, ShardLoader, Shards
from bdkit.training.shards.retrieval import RetrievalSamples
from bdkit.training.shards.samples import PairSamples, StructureSamples, SubjectSamples, SubjectTensors, square
from bdkit.utils.env import rank, world_size

Finish = Callable[[Any, torch.Generator], Any]


class ShardBatches:
    """`Batches` of a `ShardLoader`; what a worker cannot do is done here: a mirror image, the device, the VAE.

    Args:
        finish: the loader's batch, and the generator that the loss goes on drawing from -> the stage's batch.
    """

    def __init__(self, loader: ShardLoader, finish: Finish) -> None:
        self.loader, self.finish = loader, finish

    def __iter__(self) -> Iterator[tuple[Any, torch.Generator]]:
        loader = self.loader
        an_epoch = len(loader.shards) // loader.total
        for batch in loader:
            index = loader.epoch * an_epoch + loader.record // loader.total - 1
            generator = step_generator(loader.seed, index)
            yield self.finish(batch, generator), generator

    def state_dict(self) -> dict[str, Any]:
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loader.load_state_dict(state)


def shard_batches(
    shards: Shards,
    samples: PairSamples | SubjectSamples | StructureSamples | RetrievalSamples,
    training: TrainingConfig,
    finish: Finish,
    workers: int = 0,
) -> ShardBatches:
    """This process's part of the batches of shards, in the order that the training's seed decides."""
    loader = ShardLoader(
        shards,
        samples,
        training.batch_size,
        seed=training.seed,
        rank=rank(),
        world_size=world_size(),
        num_workers=workers,
        collate=samples.collate,
        pin_memory=torch.cuda.is_available(),
    )
    return ShardBatches(loader, finish)


class FinishPairs:
    """Batches of `PairSamples` on a device, half of them mirrored."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(
        self, batch: tuple[Tensor, Tensor, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        pixels, ids, mask = batch
        pixels = flip_half(pixels, generator)
        return pixels.to(self.device), ids.to(self.device), mask.to(self.device)


class EncodeTargets:
    """Targets -> scaled latents (B, C, h, w) float32 on the VAE's device; latents pass through.

    precision: "bf16" encodes in bfloat16, as the training computes
    """

    def __init__(self, vae: Vae, precision: str) -> None:
        self.vae, self.precision = vae, precision

    @torch.no_grad()
    def __call__(self, targets: Tensor, generator: torch.Generator) -> Tensor:
        """Latents of uint8 images (B, R, R, 3), sampled from a variational autoencoder's posterior."""
        targets, device = targets.to(self.vae.device, non_blocking=True), self.vae.device
        if targets.dtype == torch.uint8:
            pixels = pixels_from_arrays(targets).to(memory_format=torch.channels_last)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
                targets = encode_images(self.vae, pixels, generator=generator)
        return targets.float().to(memory_format=torch.channels_last)


class FinishSubjects:
    """Batches of `SubjectSamples` as stage 2 takes them."""

    def __init__(self, encode: EncodeTargets, subject_weight: float) -> None:
        self.encode, self.subject_weight = encode, subject_weight

    def __call__(self, batch: SubjectTensors, generator: torch.Generator) -> SubjectBatch:
        device = self.encode.vae.device
        latents = self.encode(batch.targets, generator)
        size = latents.shape[-2], latents.shape[-1]
        shares = None if batch.alphas is None else covered(batch.alphas.to(device), size)
        return SubjectBatch(
            latents=latents,
            pixels=batch.pixels.to(device),
            word_ids=batch.word_ids.to(device),
            word_mask=batch.word_mask.to(device),
            input_ids=batch.input_ids.to(device),
            subject_mask=batch.subject_mask.to(device),
            pixel_weights=pixel_weights(shares, self.subject_weight),
        )


class FinishNeighbours:
    """Batches of `RetrievalSamples` as Re-Imagen's training takes them."""

    def __init__(self, encode: EncodeTargets) -> None:
        self.encode = encode

    def __call__(self, batch: tuple[Tensor, Tensor, Tensor], generator: torch.Generator) -> RetrievalBatch:
        images, ids, shown = batch
        device = self.encode.vae.device
        latents = self.encode(images.flatten(0, 1), generator).unflatten(0, images.shape[:2])
        ids = ids.to(device)
        return RetrievalBatch(
            latents=latents[:, 0].contiguous(memory_format=torch.channels_last),
            input_ids=ids[:, 0],
            neighbours=latents[:, 1:],
            neighbour_ids=ids[:, 1:],
            shown=shown.to(device),
        )


class FinishStructures:
    """Batches of `StructureSamples` as a ControlNet's training takes them."""

    def __init__(self, encode: EncodeTargets) -> None:
        self.encode = encode

    def __call__(
        self, batch: tuple[Tensor, Tensor, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        targets, ids, edges = batch
        device = self.encode.vae.device
        maps = edges.to(device).float()[:, None].expand(-1, 3, -1, -1) / 255
        latents = self.encode(targets, generator)
        return latents, ids.to(device), maps.to(memory_format=torch.channels_last)


def shard_latents(
    shards: Shards, vae: Vae, vae_hash: str, resolution: int, folder: Path, *, progress: bool = True
) -> Latents:
    """Latents of all targets of stage 2, float16, made once and kept in a folder."""

    def encode(records: Sequence[Record]) -> np.ndarray:
        images = [square(record.image(), resolution, record.details.get("box")) for record in records]
        return encode_corpus(vae, np.stack(images)).numpy()

    made_by, batch = f"{vae_hash} at {resolution} px", latent_batch(resolution)
    return cache_latents(shards, encode, folder, made_by=made_by, batch_size=batch, progress=progress)
