"""Settings of every training, free of torch, so that the command line's help answers at once."""

import math
from dataclasses import dataclass

from bdkit.utils.errors import InputError

PRECISIONS = ("no", "bf16", "fp16")
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
    checkpoint_seconds: between two checkpoints
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: str = "constant"
    restarts: tuple[int, ...] = ()
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    gradient_accumulation_steps: int = 1
    ema_decay: float = 0.0
    mixed_precision: str = "no"
    checkpoint_seconds: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
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

    steps: int = 80
    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    batch_size: int = 3
    max_grad_norm: float = 1.0
    random_flip: bool = False
    mixed_precision: str = "no"
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    snapshots: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch_size < 1 or self.gradient_accumulation_steps < 1:
            raise InputError(
                f"steps is {self.steps}, batch_size {self.batch_size}, gradient_accumulation_steps "
                f"{self.gradient_accumulation_steps}; use at least 0, 1 and 1"
            )
        if self.mixed_precision not in PRECISIONS:
            raise InputError(f"mixed_precision is {self.mixed_precision!r}; use {', '.join(PRECISIONS)}")
        wrong = [step for step in self.snapshots if not 0 <= step <= self.steps]
        if wrong:
            raise InputError(f"snapshots {wrong} lie outside 0..{self.steps}, the steps of this training")

    @property
    def kept_steps(self) -> tuple[int, ...]:
        """The snapshots and the last step, in order."""
        return tuple(sorted({*self.snapshots, self.steps}))


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(FewStepConfig):
    """Few-step fine-tuning of BLIP-Diffusion (Sec. 3.3); no steps at all is zero-shot.

    train_embedding: train the cached subject embedding together with the U-Net
    """

    train_embedding: bool = True
