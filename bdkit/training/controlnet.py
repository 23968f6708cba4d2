"""A ControlNet beside a frozen text-to-image model (arXiv 2302.05543); the subject model then uses it (Sec. 4.2)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bdkit.checkpoints.load import load_model
from bdkit.losses import (
    gradient_checkpointing,
    noise_prediction_loss,
    timestep_weights,
    training_attention,
    training_scheduler,
)
from bdkit.models.latent_diffusion import LatentDiffusion, latent_factor
from bdkit.training.config import TrainingConfig
from bdkit.training.data import Batches, FunctionBatches, epoch_indices
from bdkit.training.loop import TrainingLoop
from bdkit.training.pretraining.autoencoder import encode_corpus
from bdkit.training.pretraining.corpus import Corpus, build_corpus
from bdkit.training.pretraining.presets import CONTROLNET, PRETRAIN
from bdkit.training.pretraining.stages import MiniPretraining
from bdkit.training.tracking import Tracking
from bdkit.utils.edges import CANNY_HIGH, CANNY_LOW, canny
from bdkit.utils.env import shared_draw
from bdkit.utils.io import write_atomically, write_json, write_text

# Channels of the condition embedding: one halving for each after the first, as the public ControlNets have them
CONDITION_CHANNELS = (16, 32, 96, 256)
NAME = "mini-controlnet-canny"
EMPTY_SHARE = 0.5  # of captions, as in the ControlNet paper, Sec. 3.4


class ControlNetLoss(nn.Module):
    """Noise prediction guided by the caption and the structure; only the ControlNet is trained.

    ControlNet's paper: all timesteps weigh the same; here: ``noise_weights``, because the layout is decided where the
    noise is strong.

    Args:
        noise_weights: the smallest and largest weight of a timestep, see `timestep_weights`; None: all the same.
    """

    def __init__(
        self,
        controlnet: ControlNetModel,
        unet: UNet2DConditionModel,
        text_encoder: nn.Module,
        noise_weights: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.controlnet, self.scheduler = controlnet, training_scheduler()
        self.weights = None if noise_weights is None else timestep_weights(self.scheduler, *noise_weights)
        self._frozen = (unet, text_encoder)  # in a tuple: no parameters of this module

    def forward(
        self, batch: tuple[Tensor, Tensor, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        latents, input_ids, structure = batch
        unet, text_encoder = self._frozen
        with torch.no_grad():
            hidden = text_encoder(input_ids)

        def controlled(noisy: Tensor, timesteps: Tensor, context: Tensor) -> Any:
            down, middle = self.controlnet(noisy, timesteps, context, structure, return_dict=False)
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
            return unet(noisy, timesteps, context, **residuals)

        weighted = self.weights is not None
        loss = noise_prediction_loss(
            controlled, self.scheduler, latents, hidden, generator, self.weights, importance_sampling=weighted
        )
        return loss, {}


def new_controlnet(unet: UNet2DConditionModel, factor: int) -> ControlNetModel:
    """A ControlNet that starts as a copy of the U-Net's down half, its outputs zero (arXiv 2302.05543, Sec. 3.2).

    Args:
        factor: pixels of the structure map per latent, along one side.
    """
    channels = CONDITION_CHANNELS[: factor.bit_length()]
    net: ControlNetModel = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=channels)
    return net


def train_controlnet(
    model: LatentDiffusion,
    batches: Batches,
    config: TrainingConfig,
    out: Path | None,
    *,
    noise_weights: tuple[float, float] | None = None,
    watch: Callable[[ControlNetModel], Tracking] | None = None,
    **loop: Any,
) -> tuple[ControlNetModel, dict[str, Any]]:
    """Trains a ControlNet for the text-to-image model, which stays as it is.

    Args:
        model: whose U-Net and text encoder are used; nothing of it is changed.
        batches: of latents (B, C, h, w), token ids (B, L) and structure maps (B, 3, H, W) in 0..1:
            `controlnet_batches` of a corpus in memory, or those of shards.
        noise_weights: see `ControlNetLoss`.
        watch: of the ControlNet in training, where its numbers and samples go.

    Returns:
        The trained ControlNet and the training's record.
    """
    trained = [p.requires_grad for p in model.parameters()]
    model.requires_grad_(False)
    torch.manual_seed(config.seed)  # of the condition embedding's random weights
    controlnet = new_controlnet(model.unet, latent_factor(model.vae)).to(
        model.device, memory_format=torch.channels_last
    )
    module = ControlNetLoss(controlnet, model.unet, model.text_encoder, noise_weights)
    if watch is not None:
        loop["tracking"] = watch(controlnet)
    checkpointed = gradient_checkpointing([model.unet, controlnet], on=config.gradient_checkpointing)
    try:
        with training_attention(model.unet), training_attention(controlnet), checkpointed:
            training = TrainingLoop(module, batches, config, out=out, name="controlnet", **loop)
            training.run()
    finally:
        for parameter, value in zip(model.parameters(), trained, strict=True):
            parameter.requires_grad_(value)
    return controlnet.eval(), training.record()


def controlnet_batches(
    model: LatentDiffusion,
    corpus: Corpus,
    latents: Tensor,
    structures: np.ndarray,
    config: TrainingConfig,
    *,
    empty_share: float = EMPTY_SHARE,
) -> FunctionBatches:
    """The batches of a corpus in memory.

    Args:
        latents: (N, C, h, w) scaled latents of the corpus's images.
        structures: (N, H, W) uint8 structure maps of the same images, such as `edges_of`.
        empty_share: share of empty captions, so that the structure is read where the text says nothing (half, as
            there).
    """
    device = model.device
    indices = epoch_indices(len(corpus), config.batch_size, config.seed)

    def batch(index: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        chosen = indices(index)
        empty = shared_draw(lambda rows: torch.rand(rows, generator=generator), len(chosen)) < empty_share
        captions = ["" if none else text for none, text in zip(empty, corpus.captions_at(chosen), strict=True)]
        ids, _ = model.tokenize(captions)
        maps = torch.as_tensor(structures[chosen]).float()[:, None].expand(-1, 3, -1, -1) / 255
        known = latents[chosen].float().to(device, memory_format=torch.channels_last)
        return known, ids.to(device), maps.to(device, memory_format=torch.channels_last)

    return FunctionBatches(batch, config.seed)


def edges_of(images: np.ndarray) -> np.ndarray:
    """Canny edges (N, H, W) uint8, 0 or 255, of images (N, H, W, 3) uint8."""
    return np.stack([canny(image) for image in images])


def pretrain_controlnet(out: Path, *, smoke: bool = False, progress: bool = True, device: str | None = None) -> Path:
    """Trains the mini ControlNet on the edges of rendered images; returns its folder, in half precision.

    The model beside it is the base of the pre-training in ``out`` where that is finished, else the shipped mini-base.
    A run that was stopped resumes.
    """
    name = "mini-smoke" if smoke else "mini"
    preset = CONTROLNET[name]
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    finished, folder = out / "weights" / NAME, out / "controlnet"
    if (finished / "run.json").exists():
        return finished
    run = MiniPretraining(out, PRETRAIN[name], device=device)
    beside = str(out / "base") if run.load("autoencoder") and run.load("base") else "mini-base"
    model = (load_model("mini-base") if beside == "mini-base" else run.model).to(device)
    corpus = build_corpus(preset.corpus, folder / "corpus", progress=progress)
    cached = folder / "latents.safetensors"
    if not cached.exists():
        latents = encode_corpus(model.vae, corpus.images)
        write_atomically(cached, lambda path: save_file({"latents": latents}, path))
    latents, edges = load_file(cached)["latents"], edges_of(corpus.images)
    net, record = train_controlnet(
        model,
        controlnet_batches(model, corpus, latents, edges, preset.training),
        preset.training,
        folder,
        noise_weights=preset.noise_weights,
        progress=progress,
        device=device,
    )
    record = {"beside": beside, "scenes": preset.corpus.scenes, "noise_weights": preset.noise_weights, **record}
    net.half().save_pretrained(finished)
    write_text(_card(record), finished / "README.md")
    write_json(record, finished / "run.json")
    return finished


def _card(record: dict[str, Any]) -> str:
    """The ControlNet's model card."""
    config, weights = record["config"], record["noise_weights"]
    return f"""# bdkit {NAME}

A ControlNet (arXiv 2302.05543) for Canny edges at 64 px, trained beside `{record["beside"]}`, which stayed as it is, by
`bdkit pretrain controlnet`; BLIP-Diffusion mini uses it without further training (arXiv 2305.14720, Sec. 4.2).

Corpus: {record["scenes"]} scenes of as many training subjects, drawn by this package, and their edges (thresholds
{CANNY_LOW} and {CANNY_HIGH}). Half of the captions are empty. A timestep's error counts by 1 / SNR, kept within
{weights[0]:g} and {weights[1]:g} (there: all the same).

{config["steps"]} steps of {config["batch_size"]}, learning rate {config["learning_rate"]:g}, moving average
{config["ema_decay"]:g}, seed {config["seed"]}; {record["seconds"] / 60:.0f} minutes, {record["device"]}.
{record["trained_parameters"] / 1e6:.2f}M parameters, float16 safetensors; licence Apache-2.0.
"""
