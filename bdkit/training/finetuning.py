"""A few steps on one subject's images (Sec. 3.3), and what every method that trains on them shares."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bdkit.losses import noise_prediction_loss, training_attention
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.latent_diffusion import LatentDiffusion, encode_images
from bdkit.models.preprocessing import as_image, image_list, pixels_from_images
from bdkit.sampling import make_scheduler
from bdkit.training.config import AUTO, FewStepConfig, FinetuneConfig, TrainingConfig
from bdkit.training.data import FunctionBatches
from bdkit.training.loop import TrainingLoop
from bdkit.training.stopping import LOSS, STOPPING
from bdkit.training.tracking import Tracking
from bdkit.utils.errors import InputError
from bdkit.utils.io import write_atomically

CAPTION = "a {}"  # the whole caption of a subject's image, in the paper and in its public configs
ENCODE_BATCH = 4
LOSS_REPEATS, LOSS_BATCH, LOSS_SEED = 8, 8, 0  # of `reference_loss`: draws for each image, images at a time

Snapshot = dict[str, Tensor]
"""The trained parameters by name, float32 on the CPU."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Where a fit saves its progress; the same fit resumes from it and gives the same bits as an undisturbed one.

    folder: of this fit alone; the caller chooses it and removes it in the end
    seconds: between two checkpoints
    tracking: where the training's numbers are sent
    """

    folder: Path
    seconds: float = 60.0
    tracking: Tracking | None = None


AfterStep = Callable[[int, float, Callable[[], Snapshot]], bool | None]
"""Called after each step of a fit (of a long one, after those whose loss is kept) with the number of steps, the loss
and a function that copies the trained parameters; True ends the fit there, with these weights."""


def load_or_make(work: Work | None, name: str, make: Callable[[], Tensor]) -> Tensor:
    """The result of ``make``, saved in ``work`` when it is first made."""
    if work is None:
        return make()
    path = work.folder / f"{name}.pt"
    if not path.exists():
        made = make()
        write_atomically(path, lambda temporary: torch.save(made, temporary))
    saved: Tensor = torch.load(path, weights_only=True)
    return saved


class SubjectFinetuning(nn.Module):
    """Noise prediction on the subject's images, guided by "a <subject embedding> <class noun>" (Sec. 3.3).

    The U-Net and the cached mean embedding are trained; the text encoder is in the graph, but frozen and shared.

    Args:
        unet: the U-Net to train, usually a copy of ``model.unet``.
        embedding: (1, Q, D), the mean over the subject's images; trained in float32.
    """

    def __init__(
        self,
        model: BlipDiffusion,
        unet: UNet2DConditionModel,
        embedding: Tensor,
        class_noun: str,
        *,
        train_embedding: bool,
    ) -> None:
        super().__init__()
        self.unet = unet
        self.subject_embeddings = nn.Parameter(embedding.detach().float().clone(), requires_grad=train_embedding)
        self.shared = (model.text_encoder,)  # a tuple, so that it is not registered as a part to train
        ids, mask = model.tokenize([CAPTION], [class_noun], with_subject=True)
        self.ids, self.mask = ids.to(model.device), mask.to(model.device)
        self.scheduler = noise_process(model)

    def forward(self, latents: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        hidden = self.shared[0](self.ids, self.subject_embeddings, self.mask)
        hidden = hidden.expand(len(latents), -1, -1)  # one caption for all images
        return subject_loss(self.unet, self.scheduler, latents, hidden, generator), {}


def noise_process(model: LatentDiffusion) -> DDPMScheduler:
    """The forward process that ``model`` was trained with: its own noise schedule and kind of prediction."""
    scheduler: DDPMScheduler = make_scheduler("DDPMScheduler", model.scheduler)
    return scheduler


def subject_loss(
    unet: UNet2DConditionModel,
    scheduler: DDPMScheduler,
    latents: Tensor,
    encoder_hidden_states: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """`noise_prediction_loss` in the precision of ``unet``, whatever that of the text encoder is."""
    dtype = unet.conv_in.weight.dtype
    return noise_prediction_loss(unet, scheduler, latents.to(dtype), encoder_hidden_states.to(dtype), generator)


def cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Casts the parameters in place, without the warning that diffusers' own ``to`` logs each time."""
    return nn.Module.to(module, dtype)


@contextmanager
def training_settings(unet: UNet2DConditionModel, config: FewStepConfig) -> Iterator[None]:
    """The attention and the memory switches of a fit; within the block only."""
    before = unet.is_gradient_checkpointing
    with training_attention(unet):
        try:
            if config.gradient_checkpointing:
                unet.enable_gradient_checkpointing()
            yield
        finally:
            if not before:
                unet.disable_gradient_checkpointing()


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Switches ``requires_grad`` of all parameters off within the block."""
    parameters = [p for module in modules for p in module.parameters()]
    before = [p.requires_grad for p in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, on in zip(parameters, before, strict=True):
            parameter.requires_grad_(on)


@torch.no_grad()
def cache_latents(
    model: LatentDiffusion, images: Sequence[Image.Image], seed: int, *, random_flip: bool = False
) -> Tensor:
    """Scaled latents (N, C, h, w) of N images; with ``random_flip`` (2N, C, h, w), the mirror images last."""
    images = image_list(images)
    if not images:
        raise InputError("no subject image was given; give at least one")
    # before they are mirrored: a turned photo's other way up is the other axis
    images = [as_image(image) for image in images]
    views = [*images, *(ImageOps.mirror(image) for image in images)] if random_flip else images
    generator = torch.Generator().manual_seed(seed & 0x7FFF_FFFF_FFFF_FFFF)
    parts = []
    for start in range(0, len(views), ENCODE_BATCH):
        pixels = pixels_from_images(views[start : start + ENCODE_BATCH], model.resolution)
        parts.append(encode_images(model.vae, pixels.to(model.device, model.vae.dtype), generator).float())
    return torch.cat(parts).contiguous(memory_format=torch.channels_last)


def draw_latents(latents: Tensor, batch_size: int, generator: torch.Generator, *, random_flip: bool = False) -> Tensor:
    """A batch of the latents that `cache_latents` returns; no image comes twice while others are left."""
    images = len(latents) // 2 if random_flip else len(latents)
    repeats = -(-batch_size // images)
    indices = torch.randperm(images, generator=generator).repeat(repeats)[:batch_size]
    if random_flip:
        indices = indices + images * torch.randint(0, 2, (batch_size,), generator=generator)
    return latents[indices.to(latents.device)]


@torch.no_grad()
def reference_loss(module: nn.Module, latents: Tensor) -> float:
    """The mean loss of ``module`` over latents (N, C, h, w), each at 8 timesteps; the draws are those of every call."""
    generator = torch.Generator().manual_seed(LOSS_SEED)
    was_training = module.training
    module.eval()
    parts = latents.repeat(LOSS_REPEATS, 1, 1, 1).split(LOSS_BATCH)
    losses = [float(module(part, generator)[0]) * len(part) for part in parts]
    module.train(was_training)
    return sum(losses) / (LOSS_REPEATS * len(latents))


def trained_parameters(module: nn.Module) -> Snapshot:
    """Copies of the parameters that are being trained."""
    return {
        name: p.detach().to("cpu", torch.float32, copy=True).contiguous()
        for name, p in module.named_parameters()
        if p.requires_grad
    }


def train_few_steps(
    module: nn.Module,
    make_batch: Callable[[int, torch.Generator], object],
    config: FewStepConfig,
    seed: int,
    *,
    device: torch.device,
    name: str,
    progress: bool = False,
    work: Work | None = None,
    after_step: AfterStep | None = None,
    measure: Callable[[], float] | None = None,
) -> tuple[dict[int, Snapshot], list[dict[str, float]]]:
    """Trains ``module``; returns its snapshots by step and the history of the loss.

    The same seed gives the same bits on a CPU, and a snapshot has those of a run of so many steps.

    Args:
        make_batch: ``(index, generator) -> batch``, see `FunctionBatches`.
        after_step: watches the fit, and may end it early; see `AfterStep`.
        measure: the loss that `STOPPING` looks at, and ends the fit by; the history, which checkpoints hold, keeps it.
    """
    kept: dict[int, Snapshot] = {}

    def keep(step: int) -> bool:
        stop = False
        if measure and step and STOPPING.looks_after(step):
            loop.history[-1][LOSS] = measure()
            stop = STOPPING.reason(loop.history) is not None
        if after_step and step and loop.history and loop.history[-1]["step"] == step:
            stop = bool(after_step(step, loop.history[-1]["loss"], partial(trained_parameters, module))) or stop
        if stop or step in config.kept_steps:
            kept[step] = trained_parameters(module)
            if work is not None and step < config.most_steps:
                write_atomically(_snapshot_path(work, step), lambda path: save_file(kept[step], path))
        if stop or step == config.most_steps:
            loop.out = None  # no last checkpoint: the caller saves the result
        return stop

    keep(0)
    if config.steps == 0:
        return kept, []
    training = TrainingConfig(
        steps=config.most_steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        seed=seed,
        checkpoint_seconds=60.0 if work is None else work.seconds,
    )
    out = None if work is None else work.folder
    batches = FunctionBatches(make_batch, seed)
    loop = TrainingLoop(
        module,
        batches,
        training,
        out=out,
        name=name,
        on_step=keep,
        progress=progress,
        device=device,
        tracking=None if work is None else work.tracking,
    )
    if measure:
        loop.history.append({"step": 0, LOSS: measure()})  # a checkpoint brings its own
    history = loop.run()
    if work is not None:
        earlier = [step for step in config.kept_steps if step not in kept and step <= loop.step]
        kept = {step: load_file(_snapshot_path(work, step)) for step in earlier} | kept
    return kept, history


def _snapshot_path(work: Work, step: int) -> Path:
    return work.folder / f"step-{step}.safetensors"


def mean_embedding(model: BlipDiffusion, images: Sequence[Image.Image], class_noun: str) -> Tensor:
    """The mean subject representation (1, Q, D) over the images (Sec. 3.3)."""
    return model.encode_subject(images, class_noun).mean(dim=0, keepdim=True)


def finetune_subject(
    model: BlipDiffusion,
    unet: UNet2DConditionModel,
    images: Sequence[Image.Image],
    class_noun: str,
    config: FinetuneConfig,
    seed: int,
    *,
    progress: bool = False,
    work: Work | None = None,
    after_step: AfterStep | None = None,
) -> tuple[dict[int, Snapshot], list[dict[str, float]]]:
    """Few-step fine-tuning (Sec. 3.3): the multimodal encoder runs once, then ``unet`` and the embedding are trained.

    Args:
        model: encodes images and text; left as it was.
        unet: trained in place.
        work: where progress is saved, to resume after a stop.
        after_step: see `AfterStep`.

    Returns:
        Snapshots by step, with keys ``subject_embeddings`` and ``unet.*``, and the history of the loss.

    Raises:
        TrainingDiverged: see `TrainingLoop`.
    """
    embedding = mean_embedding(model, images, class_noun)
    if config.steps == 0:
        return {0: {"subject_embeddings": embedding.detach().to("cpu", torch.float32, copy=True)}}, []
    latents = cache_latents(model, images, seed, random_flip=config.random_flip)
    module = SubjectFinetuning(model, unet, embedding, class_noun, train_embedding=config.train_embedding)

    def batches(step: int, generator: torch.Generator) -> Tensor:
        return draw_latents(latents, config.batch_size, generator, random_flip=config.random_flip)

    with frozen(model.text_encoder), training_settings(unet, config):
        name = f"fine-tuning on a {class_noun}"
        kept, history = train_few_steps(
            module,
            batches,
            config,
            seed,
            device=model.device,
            name=name,
            progress=progress,
            work=work,
            after_step=after_step,
            measure=partial(reference_loss, module, latents) if config.steps == AUTO else None,
        )
    constant = {} if config.train_embedding else {"subject_embeddings": embedding.detach().to("cpu", torch.float32)}
    return {step: {**snapshot, **constant} for step, snapshot in kept.items()}, history
