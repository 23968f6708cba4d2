"""Re-Imagen: text-to-image with retrieved <image, text> neighbours (arXiv 2209.14491), trained on a finished base."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bdkit.checkpoints.load import load_model
from bdkit.checkpoints.re_imagen import MINI_RE_IMAGEN, additions, new_retrieval_unet, save_re_imagen
from bdkit.losses import gradient_checkpointing, noise_prediction_loss, timestep_weights, training_attention
from bdkit.models.configs import RetrievalConfig
from bdkit.models.latent_diffusion import LatentDiffusion
from bdkit.models.retrieval import RetrievalUNet
from bdkit.training.bm25 import bm25_neighbours
from bdkit.training.config import TrainingConfig
from bdkit.training.data import Batches, FunctionBatches, divided, epoch_indices
from bdkit.training.finetuning import CAPTION, noise_process
from bdkit.training.loop import TrainingLoop
from bdkit.training.pretraining.autoencoder import encode_corpus
from bdkit.training.pretraining.config import RetrievalAugmentedConfig
from bdkit.training.pretraining.corpus import Corpus, build_corpus
from bdkit.training.pretraining.presets import PRETRAIN, RE_IMAGEN
from bdkit.training.pretraining.stages import MiniPretraining
from bdkit.utils.env import is_main_process, shared_draw
from bdkit.utils.io import write_atomically


@dataclass(frozen=True, kw_only=True)
class RetrievalBatch:
    """latents (B, C, h, w) and prompt ids (B, L); neighbours (B, K, C, h, w) and their ids (B, K, L); shown (B,) bool.

    shown: whether an image sees its neighbours
    """

    latents: Tensor
    input_ids: Tensor
    neighbours: Tensor
    neighbour_ids: Tensor
    shown: Tensor


class RetrievalAugmentedLoss(nn.Module):
    """Noise prediction guided by the caption and the neighbours; see `RetrievalUNet`.

    Args:
        noise_weights: the smallest and largest weight of a timestep, see `timestep_weights`; None: all the same.
    """

    def __init__(
        self, unet: RetrievalUNet, model: LatentDiffusion, noise_weights: tuple[float, ...] | None = None
    ) -> None:
        super().__init__()
        self.unet, self.scheduler = unet, noise_process(model)
        self.weights = None if noise_weights is None else timestep_weights(self.scheduler, *noise_weights)
        self._frozen = (model.text_encoder,)  # in a tuple: no parameters of this module

    def forward(self, batch: RetrievalBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        text_encoder, count = self._frozen[0], batch.neighbours.shape[1]
        with torch.no_grad():
            hidden = text_encoder(batch.input_ids)
            texts = text_encoder(batch.neighbour_ids.flatten(0, 1))
            encoded = self.unet.encode(batch.neighbours.flatten(0, 1), texts)
        neighbours = encoded.unflatten(0, (-1, count)).flatten(1, 2)
        predict: Any = partial(self.unet, neighbours=neighbours, shown=batch.shown)
        sampling = self.weights is not None
        loss = noise_prediction_loss(
            predict, self.scheduler, batch.latents, hidden, generator, self.weights, importance_sampling=sampling
        )
        return loss, {}


def train_retrieval_augmented(
    model: LatentDiffusion,
    unet: RetrievalUNet,
    batches: Batches,
    training: TrainingConfig,
    config: RetrievalAugmentedConfig,
    out: Path | None,
    **loop: Any,
) -> dict[str, Any]:
    """Trains the additions of ``unet`` in place (`new_retrieval_unet` of ``model``); returns the training's record.

    Args:
        model: stays as it is.
        batches: of `RetrievalBatch`: `retrieval_batches` of a corpus in memory, or those of shards.
    """
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    model.requires_grad_(False)
    for added in additions(unet).values():
        added.requires_grad_(True)
    module = RetrievalAugmentedLoss(unet, model, config.noise_weights)
    checkpointed = gradient_checkpointing([unet.unet], on=training.gradient_checkpointing)
    try:
        with training_attention(unet.unet), checkpointed:
            trainer = TrainingLoop(module, batches, training, out=out, name="Re-Imagen", **loop)
            trainer.run()
    finally:
        unet.eval()
        for parameter, value in zip(model.parameters(), wanted, strict=True):
            parameter.requires_grad_(value)
    return trainer.record()


@dataclass(frozen=True, kw_only=True)
class RetrievalDraw:
    """What is drawn for one image: an empty prompt, its neighbours shown, a detailed caption, class nouns as texts."""

    empty: bool
    shown: bool
    detailed: bool
    class_noun: bool


def draw_retrieval(numbers: Sequence[float], config: RetrievalAugmentedConfig) -> RetrievalDraw:
    """The draw of four independent numbers in 0..1; text and neighbours are dropped independently."""
    return RetrievalDraw(
        empty=numbers[0] < config.text_drop,
        shown=numbers[1] >= config.neighbour_drop,
        detailed=numbers[2] < config.detail_share,
        class_noun=numbers[3] < config.class_noun_share,
    )


def retrieval_batches(
    model: LatentDiffusion,
    corpus: Corpus,
    latents: Tensor,
    neighbours: np.ndarray,
    training: TrainingConfig,
    config: RetrievalAugmentedConfig,
) -> FunctionBatches:
    """The batches of a corpus in memory.

    Args:
        latents: (N, C, h, w) scaled latents of the corpus's images.
        neighbours: (N, K), `bm25_neighbours` of its captions or `descriptions`.
    """
    indices, device = epoch_indices(len(corpus), training.batch_size, training.seed), model.device

    def images(chosen: np.ndarray) -> Tensor:
        return latents[torch.from_numpy(chosen)].float().to(device)

    def ids(texts: Sequence[str]) -> Tensor:
        return model.tokenize(texts)[0].to(device)

    def batch(index: int, generator: torch.Generator) -> RetrievalBatch:
        chosen = indices(index)
        numbers = shared_draw(lambda rows: torch.rand(rows, 4, generator=generator), len(chosen)).tolist()
        draws = [draw_retrieval(row, config) for row in numbers]
        prompts = [
            "" if draw.empty else corpus.details[scene] if draw.detailed else text
            for scene, text, draw in zip(chosen, corpus.captions_at(chosen), draws, strict=True)
        ]
        near = neighbours[chosen]
        texts = [
            CAPTION.format(corpus.class_nouns[scene]) if draw.class_noun else corpus.captions_at(np.array([scene]))[0]
            for row, draw in zip(near, draws, strict=True)
            for scene in row
        ]
        return RetrievalBatch(
            latents=images(chosen).to(memory_format=torch.channels_last),
            input_ids=ids(prompts),
            neighbours=images(near.reshape(-1)).unflatten(0, near.shape),
            neighbour_ids=ids(texts).unflatten(0, near.shape),
            shown=torch.tensor([draw.shown for draw in draws], device=device),
        )

    return FunctionBatches(batch, training.seed)


def descriptions(corpus: Corpus) -> list[str]:
    """What the mini world's neighbours are found by: class noun and looks, without the place, which is in no name."""
    looks = [detail.split(", ", 1)[-1] for detail in corpus.details]
    return [f"{noun} {words}" for noun, words in zip(corpus.class_nouns, looks, strict=True)]


def pretrain_re_imagen(out: Path, *, smoke: bool = False, progress: bool = True, device: str | None = None) -> Path:
    """Trains the mini Re-Imagen on rendered images of individuals; returns the folder of its additions.

    The base is that of the pre-training in ``out`` where that is finished, else the shipped mini-base. A run that was
    stopped resumes.
    """
    name = "mini-smoke" if smoke else "mini"
    preset = RE_IMAGEN[name]
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    finished, folder = out / "weights" / MINI_RE_IMAGEN, out / "re-imagen"
    if finished.exists():
        return finished
    run = MiniPretraining(out, PRETRAIN[name], device=device)
    model: LatentDiffusion = run.model
    beside = "base" if run.load("autoencoder") and run.load("base") else "mini-base"
    if beside == "mini-base":
        model = load_model("mini-base").to(device)
    corpus = build_corpus(preset.corpus, folder / "corpus", progress=progress)
    cached = folder / "latents.safetensors"
    if not cached.exists():
        latents = encode_corpus(model.vae, corpus.images)
        write_atomically(cached, lambda path: save_file({"latents": latents}, path))
    config, training = preset.config, divided(preset.training)
    neighbours = bm25_neighbours(descriptions(corpus), config.neighbours, pairs=config.word_pairs)
    batches = retrieval_batches(model, corpus, load_file(cached)["latents"], neighbours, training, config)
    unet = new_retrieval_unet(model, preset.retrieval, training.seed)
    record = train_retrieval_augmented(model, unet, batches, training, config, folder, progress=progress, device=device)
    same = np.arange(len(corpus))[:, None] // preset.corpus.images_per_subject
    share = float((neighbours // preset.corpus.images_per_subject == same).mean())
    record = {
        "beside": beside,
        "corpus": asdict(preset.corpus),
        "config": asdict(config),
        "neighbours_of_the_same_individual": round(share, 4),
        "training": record,
    }
    if is_main_process():
        save_re_imagen(unet, finished, preset.retrieval, record, model, card=_card(record, preset.retrieval))
    return finished


def _card(record: dict[str, Any], retrieval: RetrievalConfig) -> str:
    """The model card of the mini Re-Imagen."""
    training, corpus, config = record["training"], record["corpus"], record["config"]
    numbers = training["config"]
    return f"""# bdkit {MINI_RE_IMAGEN}

Re-Imagen (arXiv 2209.14491, after the paper from secondary sources) at 64 px: what it adds to `{record["beside"]}`,
which stays as it is, trained by `bdkit pretrain re-imagen`.

The U-Net's down half encodes {config["neighbours"]} neighbours at timestep 0; an attention to them stands before block
{retrieval.up_block} of its up half. Paper: between the halves, and the whole U-Net is trained; here:
that attention alone.

Corpus: {corpus["scenes"]} scenes of training subjects, {corpus["images_per_subject"]} of each, drawn by this package.
Neighbours by BM25 over the captions' class noun and looks, without the own pair:
{record["neighbours_of_the_same_individual"]:.0%} show the same individual. Text dropped {config["text_drop"]:.0%},
neighbours {config["neighbour_drop"]:.0%}.

{numbers["steps"]} steps of {numbers["batch_size"]}, learning rate {numbers["learning_rate"]:g}, moving average
{numbers["ema_decay"]:g}, seed {numbers["seed"]}; {training["seconds"] / 60:.0f} minutes, {training["device"]}.
{training["trained_parameters"] / 1e6:.2f}M parameters, float16 safetensors; licence Apache-2.0.
"""
