"""The one training loop: pre-training, fine-tuning and the evaluators' training go through it."""

import csv
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from bdkit.training.config import TrainingConfig
from bdkit.training.data import Batches
from bdkit.training.tracking import Tracking
from bdkit.utils.env import device_name, rank, world_size
from bdkit.utils.errors import InputError
from bdkit.utils.io import write_atomically, write_json
from bdkit.utils.progress import progress_bar

DROPOUT_SEED = 0x5DEECE66D  # combined with a batch's seed and the rank, so that dropout, too, depends on ids alone


class TrainingDiverged(InputError):
    """A loss or a weight is not finite. The last good checkpoint is kept; the message names step and batch."""


class TrainingLoop:
    """Trains ``module``, whose ``forward(batch, generator)`` returns ``(loss, logs)``.

    A run that is killed resumes from its last checkpoint when it is started again with the same ``out`` and config, and
    ends with the same weights as an undisturbed one. So does a finished run whose config has more steps.

    Args:
        module: computes the loss; its parameters with ``requires_grad`` are trained. ``logs`` are numbers or detached
            tensors, which are read only now and then. A checkpoint holds the trained parameters, the buffers and the
            module's extra state (``get_extra_state``).
        batches: see `Batches`; `FunctionBatches` makes them from a function.
        config: the settings, saved in ``run.json``.
        out: folder for ``checkpoint.pt``, ``loss.csv`` and ``run.json``; None keeps everything in memory.
        groups: optimiser groups as torch takes them ("params", and "lr" or "weight_decay" if not the config's);
            default: one of all trainable parameters.
        name: label of the progress bar.
        on_step: called with the number of finished steps after each step; True ends the run there.
        tracking: where numbers and samples are sent besides.
        find_unused_parameters: some trained parameters have no part in the loss. Matters to several processes only,
            which otherwise wait for their gradients.

    Raises:
        TrainingDiverged: a loss was not finite, or the weights were not when they were to be saved.
        InputError: ``out`` holds a checkpoint of other settings.
    """

    def __init__(
        self,
        module: nn.Module,
        batches: Batches,
        config: TrainingConfig,
        *,
        out: Path | None = None,
        groups: Sequence[dict[str, Any]] | None = None,
        name: str = "training",
        on_step: Callable[[int], bool | None] | None = None,
        progress: bool = True,
        device: torch.device | str | None = None,
        find_unused_parameters: bool = False,
        tracking: Tracking | None = None,
    ) -> None:
        self.module, self.batches, self.config, self.out, self.name = module, batches, config, out, name
        self.on_step, self.tracking = on_step, tracking
        AcceleratorState._reset_state()
        self.accelerator = Accelerator(
            cpu=device is not None and torch.device(device).type == "cpu",
            mixed_precision=config.mixed_precision,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=find_unused_parameters)],
        )
        if world_size() != self.accelerator.num_processes:
            raise InputError(
                f"{world_size()} processes were started, but {self.accelerator.num_processes} share each batch on "
                f"{self.accelerator.device}: without a GPU for each say --device cpu, or start one process"
            )
        self.progress = progress and self.accelerator.is_local_main_process
        trainable = [p for p in module.parameters() if p.requires_grad]
        groups = [{"lr": config.learning_rate, **g} for g in groups or [{"params": trainable}]]
        self.rates = [group["lr"] for group in groups]
        self.parameters = [p for group in groups for p in group["params"]]
        first, second = config.betas
        optimizer = torch.optim.AdamW(groups, betas=(first, second), weight_decay=config.weight_decay, fused=True)
        self.wrapped, self.optimizer = self.accelerator.prepare(module, optimizer)
        self.ema = (
            EMAModel(self.parameters, decay=config.ema_decay, use_ema_warmup=True, power=2 / 3, foreach=True)
            if config.ema_decay > 0
            else None
        )
        device_used = self.accelerator.device
        self._cuda = [device_used] if device_used.type == "cuda" else []
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []

    @property
    def checkpoint_path(self) -> Path | None:
        return None if self.out is None else self.out / "checkpoint.pt"

    def _settings(self) -> dict[str, Any]:
        free = ("checkpoint_seconds", "gradient_checkpointing")  # may change when a run is resumed
        return {k: v for k, v in asdict(self.config).items() if k not in free}

    def _continues(self, saved: dict[str, Any], step: int) -> bool:
        """Whether the first ``step`` steps with the settings ``saved`` are those of these settings, too.

        So a finished run can be made longer: by more steps where the rate is constant, by a restart where it falls.
        """
        length = ("steps", "restarts")
        fixed = [
            {k: v for k, v in x.items() if k not in length} for x in (saved, json.loads(json.dumps(self._settings())))
        ]
        if fixed[0] != fixed[1] or step > self.config.steps:
            return False
        before = replace(self.config, steps=saved["steps"], restarts=tuple(saved["restarts"]))
        return all(before.factor(done) == self.config.factor(done) for done in range(step))

    def _module_state(self) -> dict[str, Any]:
        """What training changes in the module: all but its frozen parameters."""
        frozen = {k for k, p in self.module.named_parameters(remove_duplicate=False) if not p.requires_grad}
        return {key: value for key, value in self.module.state_dict().items() if key not in frozen}

    def save_checkpoint(self) -> None:
        """Writes the whole state, if all weights are finite (nothing to do without ``out``)."""
        self._check_weights()
        path = self.checkpoint_path
        if path is None or not self.accelerator.is_main_process:
            return
        state = {
            "settings": json.dumps(self._settings()),
            "step": self.step,
            "seconds": self.seconds,
            "history": json.dumps(self.history),
            "batches": self.batches.state_dict(),
            "module": self._module_state(),
            "optimizer": self.optimizer.state_dict(),
            "ema": [p.detach() for p in self.ema.shadow_params] if self.ema else [],
            "ema_step": self.ema.optimization_step if self.ema else 0,
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else {},  # fp16's
        }
        write_atomically(path, lambda p: torch.save(state, p))

    def load_checkpoint(self) -> bool:
        """Resumes from the checkpoint in ``out``; False when there is none."""
        path = self.checkpoint_path
        if path is None or not path.exists():
            return False
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch and pickle raise many kinds
            raise InputError(f"the checkpoint {path} cannot be read; remove it to start again") from error
        same_module = state["module"].keys() == self._module_state().keys()
        if not same_module or not self._continues(json.loads(state["settings"]), state["step"]):
            raise InputError(f"{path} belongs to a run with other settings; choose another folder or remove it")
        self.module.load_state_dict(state["module"], strict=False)
        self.batches.load_state_dict(state["batches"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            for shadow, saved in zip(self.ema.shadow_params, state["ema"], strict=True):
                shadow.copy_(saved)
            self.ema.optimization_step = state["ema_step"]
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.history = json.loads(state["history"])
        return True

    def _train_step(self, batches: Iterator[tuple[Any, torch.Generator]]) -> dict[str, Any]:
        config, accelerator = self.config, self.accelerator
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * config.factor(self.step)
        losses: list[Tensor] = []
        mean, logs = 0.0, {}
        for _ in range(config.gradient_accumulation_steps):
            batch, generator = next(batches)
            with accelerator.accumulate(self.wrapped):
                with torch.random.fork_rng(devices=self._cuda):
                    torch.manual_seed((generator.initial_seed() ^ DROPOUT_SEED) + rank())
                    loss, logs = self.wrapped(batch, generator)
                losses.append(loss.detach())
                if accelerator.sync_gradients:
                    read = _start_reading(torch.stack(losses))
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    mean = self._mean_loss(read())  # a GPU computes the gradients meanwhile; the weights are as before
                    if config.max_grad_norm > 0:
                        accelerator.clip_grad_norm_(self.parameters, config.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
        if self.ema:
            self.ema.step(self.parameters)
        return {"loss": mean, **logs}

    def _mean_logs(self, logs: dict[str, Any]) -> dict[str, float]:
        """The means over all processes; called now and then only, because on a GPU it waits for all work."""
        values = torch.tensor([float(value) for value in logs.values()], dtype=torch.float64)
        means: list[float] = self.accelerator.reduce(values.to(self.accelerator.device), "mean").tolist()
        return dict(zip(logs, means, strict=True))

    def _track(self, logs: dict[str, float]) -> None:
        assert self.tracking is not None
        config, rate = self.config, self.rates[0] * self.config.factor(self.step - 1)
        images = config.batch_size * config.gradient_accumulation_steps * self.accelerator.num_processes
        self.tracking.log(self.step, self.seconds, images, {**logs, "learning_rate": rate})

    def _sample(self, tracking: Tracking) -> None:
        """Samples of the averaged weights, where there is an average; the training goes on as if there were none."""
        if self.ema:
            self.ema.store(self.parameters)
            self.ema.copy_to(self.parameters)
        self.module.eval()
        tracking.sample(self.step)
        self.module.train()
        if self.ema:
            self.ema.restore(self.parameters)

    def _mean_loss(self, losses: list[float]) -> float:
        """The mean over a step's micro-batches, all of them finite."""
        for micro, value in enumerate(losses):
            if not math.isfinite(value):
                index = self.step * len(losses) + micro
                self._stop(f"the loss is {value} at step {self.step}, batch {index}")
        return sum(value / len(losses) for value in losses)

    def _check_weights(self) -> None:
        if not torch.stack([p.detach().isfinite().all() for p in self.parameters]).all():
            self._stop(f"weights are not finite after step {self.step - 1}, though its loss is")

    def _stop(self, what: str) -> NoReturn:
        saved = self.checkpoint_path is not None and self.checkpoint_path.exists()
        kept = f"; the checkpoint of an earlier step is kept in {self.out}" if saved else ""
        raise TrainingDiverged(
            f"{self.name}: {what} (seed {self.config.seed}){kept}; lower the learning rate or look at that batch"
        )

    def run(self) -> list[dict[str, float]]:
        """Trains to ``config.steps``; leaves the (averaged) weights in the module and returns the loss history."""
        self.load_checkpoint()
        # accelerate keeps this number for the whole process: another loop may have been built in between.
        self.accelerator.gradient_accumulation_steps = self.config.gradient_accumulation_steps
        was_training = self.module.training
        self.module.train()
        start = time.monotonic() - self.seconds
        last = time.monotonic()
        every = max(1, self.config.steps // 400)
        if self.tracking:
            self.tracking.start(asdict(self.config), self.step, self.seconds)
        total, done = self.config.steps, self.step
        batches = iter(self.batches)
        with progress_bar(total=total, initial=done, desc=self.name, show=self.progress) as bar:
            while self.step < self.config.steps:
                logs = self._train_step(batches)
                self.step += 1
                self.seconds = time.monotonic() - start
                tracked = self.tracking is not None and self.step % self.tracking.every == 0
                recorded = self.step % every == 0 or self.step == self.config.steps
                if tracked or recorded:
                    logs = self._mean_logs(logs)
                if tracked:
                    self._track(logs)
                if recorded:
                    self.history.append({"step": self.step, "seconds": round(self.seconds, 1), **logs})
                    bar.set_postfix({k: f"{v:.4f}" for k, v in logs.items()}, refresh=False)
                bar.update(1)
                if self.tracking and self.step % self.tracking.sample_every == 0:
                    self._sample(self.tracking)
                if self.on_step and self.on_step(self.step) is True:
                    break
                if time.monotonic() - last > self.config.checkpoint_seconds:
                    self.save_checkpoint()
                    self._write_loss()
                    last = time.monotonic()
        if self.tracking:
            self.tracking.finish()
        self.save_checkpoint()
        self._write_loss()
        if self.ema:
            self.ema.copy_to(self.parameters)
        self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
        self.module.train(was_training)
        if self.out is not None and self.accelerator.is_main_process:
            write_json(self.record(), self.out / "run.json")
        return self.history

    def record(self) -> dict[str, Any]:
        """What goes into ``run.json`` and the model card."""
        return {
            "name": self.name,
            "config": asdict(self.config),
            "seconds": round(self.seconds, 1),
            "device": device_name(str(self.accelerator.device)),
            "processes": self.accelerator.num_processes,
            "threads": torch.get_num_threads(),
            "trained_parameters": sum(p.numel() for p in self.parameters),
            "final": self.history[-1] if self.history else {},
        }

    def _write_loss(self) -> None:
        if self.out is None or not self.history or not self.accelerator.is_main_process:
            return
        keys = list(self.history[-1])

        def write(path: Path) -> None:
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, keys, extrasaction="ignore")
                writer.writeheader()
                writer.writerows(self.history)

        write_atomically(self.out / "loss.csv", write)


def _start_reading(values: Tensor) -> Callable[[], list[float]]:
    """Starts copying ``values`` to the CPU; the function that is returned waits for them, not for later work."""
    copied = values.to("cpu", non_blocking=values.is_cuda)
    if not values.is_cuda:
        return copied.tolist
    ready = torch.cuda.Event()
    ready.record()

    def read() -> list[float]:
        ready.synchronize()
        return copied.tolist()

    return read
