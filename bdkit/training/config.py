"""Settings of every training, free of torch, so that the command line's help answers at once."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from bdkit.training.stopping import STOPPING
from bdkit.utils.errors import InputError

PRECISIONS = ("no", "bf16", "fp16")
AUTO: Literal["auto"] = "auto"  # in place of a number of steps: as many as the subject's images need
SCHEDULES = ("constant", "linear", "cosine")

# The stages of the pre-training in their order, and what each is for
PRETRAINING_STAGES = {
    "autoencoder": "images to latents and back",
    "image-encoder": "image-text contrastive training of the encoder that stages 1 and 2 keep frozen",
    "base": "text-to-image",
    "stage1": "multimodal representation learning: ITC, ITM, ITG (Sec. 3.1)",
    "stage2": "subject representation learning by prompted context generation (Sec. 3.2)",
    "stage2-joint": "continues stage 2 with the image encoder trained too (not in the paper)",
}


# Trained beside the finished base; part of no model, so not of `bdkit pretrain mini`
BESIDE_STAGES = {
    "controlnet": "edges to images: a ControlNet beside the run's own base, or the shipped one (Sec. 4.2)",
    "re-imagen": "like neighbours to images: Re-Imagen on the run's own base, or the shipped one (arXiv 2209.14491)",
}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of one training run.

    steps: optimiser steps
    batch_size: of one process and one micro-batch; the total batch is batch_size x gradient_accumulation_steps x
        number of processes
    learning_rate: AdamW's, where no group has its own
    schedule: of the learning rate: constant, or to zero at the last step: linear, or cosine (after the warm-up)
    restarts: steps at which the schedule starts again (SGDR)
    warmup_steps: steps of linear warm-up, after each restart too
    max_grad_norm: gradients are clipped to this norm; 0: never
    ema_decay: of the moving average of the weights, which replaces them at the end; 0: none
    mixed_precision: no, bf16 or fp16
    gradient_checkpointing: compute activations a second time for the gradients: slower, with less memory
    checkpoint_seconds: between two checkpoints
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.01
    betas: tuple[float, ...] = (0.9, 0.999)
    schedule: str = "constant"
    restarts: tuple[int, ...] = ()
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    gradient_accumulation_steps: int = 1
    ema_decay: float = 0.0
    mixed_precision: str = "no"
    gradient_checkpointing: bool = False
    checkpoint_seconds: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or len(self.betas) != 2:
            raise InputError(
                f"steps is {self.steps}, batch_size {self.batch_size}, betas {self.betas}; use at least 1, 1 and a pair"
            )
        if self.mixed_precision not in PRECISIONS:
            raise InputError(f"mixed_precision is {self.mixed_precision!r}; use {', '.join(PRECISIONS)}")
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule {self.schedule!r} is not known; use {', '.join(SCHEDULES)}")
        if list(self.restarts) != sorted({r for r in self.restarts if 0 < r < self.steps}):
            raise InputError(f"restarts must rise between 0 and {self.steps}, the number of steps: {self.restarts}")

    def factor(self, step: int) -> float:
        """Learning-rate factor, 0 to 1, at 0-based ``step``, counted from the last restart to the next."""
        begin = max((r for r in self.restarts if r <= step), default=0)
        length = min((r for r in self.restarts if r > step), default=self.steps) - begin
        done = step - begin
        warm = min(1.0, (done + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.schedule == "linear":
            return warm * (1.0 - done / length)
        if self.schedule == "cosine":
            share = max(0, done - self.warmup_steps) / max(1, length - self.warmup_steps)
            return warm * 0.5 * (1.0 + math.cos(math.pi * share))
        return warm


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """Training on shards.

    data: folder or fsspec URL of the shards that `bdkit prepare` wrote
    out: folder for checkpoints and the model; the same command resumes a run that was stopped
    image_encoder: stage 1: a CLIP ViT (folder or hub id, of transformers or open_clip), or a BLIP-Diffusion with one
    qformer: stage 1: the Q-Former's start, a BERT or BLIP-2 (folder or hub id), or random
    qformer_tokenizer: stage 1: a BERT tokenizer, where none is beside --qformer
    base: all but stage 1: the text-to-image model to start from, a Stable Diffusion v1 or BLIP-Diffusion
    init: stage 2: stage 1's result (its RUN/model), or a BLIP-Diffusion; stage 1: an encoder to continue
    backgrounds: stage 2: shards of images to blend the subjects on, or mini, the mini world's
    template: stage 2: where the subject vectors stand in a prompt: paper, public or place
    cache_latents: encode each image once, in float16, and keep the latents in --out
    micro_batch: most items in one forward pass of a process; the rest of the total batch is accumulated
    workers: loader processes of each training process; they change nothing but the speed
    device: where to train; none: the GPU, if there is one
    log_with: send loss, learning rate, images a second, memory and samples to a tracker, in --out/log
    log_every: steps between two lines of numbers
    sample_suite: stage 2: a suite of held-out subjects to draw and score in between, such as mini-quick or dreambench
    sample_every: steps between two grids; with --log-with, stage1 shows the captions it writes and how often it finds
        the right one, controlnet what it draws by the edges of a few images of --data
    photos: stage 2: folder of the photos of --sample-suite
    """

    data: str
    out: Path
    image_encoder: str | None = None
    qformer: str | None = None
    qformer_tokenizer: str | None = None
    base: str | None = None
    init: str | None = None
    backgrounds: str | None = None
    template: str | None = None
    cache_latents: bool = False
    micro_batch: int | None = None
    workers: int = 0
    device: Literal["cpu", "cuda"] | None = None
    log_with: Literal["tensorboard", "wandb", "trackio"] | None = None
    log_every: int = 10
    sample_suite: str | None = None
    sample_every: int = 500
    photos: Path | None = None

    def __post_init__(self) -> None:
        if self.micro_batch is not None and self.micro_batch < 1:
            raise InputError(f"--micro-batch is {self.micro_batch}; use at least 1")
        if self.workers < 0:
            raise InputError(f"--workers is {self.workers}; use at least 0")


@dataclass(frozen=True, kw_only=True)
class FewStepConfig:
    """Training on a handful of images.

    steps: optimiser steps
    learning_rate: AdamW's, constant
    weight_decay: AdamW's
    batch_size: images a step
    max_grad_norm: gradients are clipped to this norm; 0 never
    random_flip: mirror half of the images
    mixed_precision: no, bf16 or fp16, over float32 weights
    gradient_accumulation_steps: batches whose gradients make one optimiser step
    gradient_checkpointing: compute activations a second time for the gradients: slower, with less memory
    snapshots: steps, besides the last, after which the weights are kept
    """

    steps: int | Literal["auto"] = 80
    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    batch_size: int = 3
    max_grad_norm: float = 1.0
    random_flip: bool = False
    mixed_precision: str = "no"
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    snapshots: tuple[int, ...] = ()

    takes_auto: ClassVar[bool] = False
    """Whether steps may be "auto"."""

    def __post_init__(self) -> None:
        if self.steps == AUTO and not self.takes_auto:
            raise InputError("steps is 'auto', which is of blip-diffusion alone; give a number")
        if self.steps == AUTO and self.snapshots:
            raise InputError(f"snapshots {list(self.snapshots)} need a number of steps; leave them out with steps auto")
        if self.most_steps < 0 or self.batch_size < 1 or self.gradient_accumulation_steps < 1:
            raise InputError(
                f"steps is {self.steps}, batch_size {self.batch_size}, gradient_accumulation_steps "
                f"{self.gradient_accumulation_steps}; use at least 0, 1 and 1"
            )
        for name in ("learning_rate", "weight_decay", "max_grad_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}; use a finite number of at least 0")
        if self.mixed_precision not in PRECISIONS:
            raise InputError(f"mixed_precision is {self.mixed_precision!r}; use {', '.join(PRECISIONS)}")
        wrong = [step for step in self.snapshots if not 0 <= step <= self.most_steps]
        if wrong:
            raise InputError(f"snapshots {wrong} lie outside 0..{self.steps}, the steps of this training")

    @property
    def most_steps(self) -> int:
        """The number of steps, or the most that "auto" may take."""
        return self.steps if isinstance(self.steps, int) else STOPPING.most

    @property
    def kept_steps(self) -> tuple[int, ...]:
        """The snapshots and the last step, in order."""
        return tuple(sorted({*self.snapshots, self.most_steps}))


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(FewStepConfig):
    """Few-step fine-tuning of BLIP-Diffusion (Sec. 3.3); no steps at all is zero-shot.

    steps: optimiser steps; auto: 40 to 120, until the loss on the subject's images gets flat
    train_embedding: train the cached subject embedding together with the U-Net
    """

    takes_auto: ClassVar[bool] = True

    train_embedding: bool = True
