"""The one training loop: every stage of the pre-training and every fine-tuning goes through it."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from diffusers.training_utils import EMAModel
from torch import nn
from tqdm import tqdm

from bdkit.training.config import TrainingConfig
from bdkit.utils.env import device_name, world_size
from bdkit.utils.errors import InputError
from bdkit.utils.io import write_atomically, write_json


class TrainingDiverged(InputError):
    """The loss was not finite. The last good checkpoint is kept; the message names the batch."""


Batches = Callable[[int, torch.Generator], Any]


def step_generator(seed: int, step: int, rank: int = 0) -> torch.Generator:
    """CPU generator of one micro-batch: a function of ids alone, so a resumed run draws the same numbers."""
    mixed = (seed * 1_000_003 + step) * 4_099 + rank
    return torch.Generator().manual_seed(mixed & 0x7FFF_FFFF_FFFF_FFFF)


class TrainingLoop:
    """Train ``module``, whose ``forward(batch, generator)`` returns ``(loss, logs)``, logs numbers or their tensors.

    Args:
        module: computes the loss; its parameters with ``requires_grad`` are trained.
        batches: ``(step, generator) -> batch``; must depend on its arguments only, which makes resuming exact.
        config: the settings, saved in ``run.json``.
        out: folder for ``checkpoint.pt``, ``loss.csv`` and ``run.json``; None keeps everything in memory.
        groups: optional ``(parameters, learning rate)`` pairs; default: all trainable ones at ``config.learning_rate``.
        name: label of the progress bar.
        on_step: called with the number of finished steps after each step (for snapshots).

    A run killed at any moment goes on from its last checkpoint when it is started again with the same ``out`` and
    config, and ends with the same weights as an undisturbed one. A config that only goes further goes on, too.

    Raises:
        TrainingDiverged: the loss was not finite.
        InputError: ``out`` holds a checkpoint of other settings.
    """

    def __init__(
        self,
        module: nn.Module,
        batches: Batches,
        config: TrainingConfig,
        *,
        out: Path | None = None,
        groups: Iterable[tuple[Iterable[nn.Parameter], float]] | None = None,
        name: str = "training",
        on_step: Callable[[int], None] | None = None,
        progress: bool = True,
        device: torch.device | str | None = None,
    ) -> None:
        self.module, self.batches, self.config, self.out, self.name = module, batches, config, out, name
        self.on_step = on_step
        AcceleratorState._reset_state()
        cpu = device is not None and torch.device(device).type == "cpu"
        self.accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=config.mixed_precision,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        started = world_size()
        if started != self.accelerator.num_processes:
            raise InputError(
                f"{started} processes were started, but {self.accelerator.num_processes} share each batch on "
                f"{self.accelerator.device}: without a GPU for each say --device cpu, or start one process"
            )
        self.progress = progress and self.accelerator.is_local_main_process
        trainable = [p for p in module.parameters() if p.requires_grad]
        pairs = [(list(p), lr) for p, lr in groups] if groups is not None else [(trainable, config.learning_rate)]
        self.rates = [lr for _, lr in pairs]
        self.parameters = [p for params, _ in pairs for p in params]
        optimizer = torch.optim.AdamW(
            [{"params": params, "lr": lr} for params, lr in pairs],
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
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
        return {k: v for k, v in asdict(self.config).items() if k != "checkpoint_seconds"}

    def _continues(self, saved: dict[str, Any], step: int) -> bool:
        """Whether ``step`` steps with the settings ``saved`` are what these settings do, too.

        So a finished run can be made longer: by more steps where the rate is constant, by a restart where it falls.
        """
        length = ("steps", "restarts")
        fixed = [
            {k: v for k, v in x.items() if k not in length} for x in (saved, json.loads(json.dumps(self._settings())))
        ]
        if fixed[0] != fixed[1] or step > self.config.steps:
            return False
        before = replace(self.config, steps=saved["steps"], restarts=tuple(saved.get("restarts", ())))
        return all(before.factor(done) == self.config.factor(done) for done in range(step))

    def save_checkpoint(self) -> None:
        """Write the whole state atomically (nothing to do without ``out``)."""
        path = self.checkpoint_path
        if path is None or not self.accelerator.is_main_process:
            return
        state = {
            "settings": json.dumps(self._settings()),
            "step": self.step,
            "seconds": self.seconds,
            "history": json.dumps(self.history),
            "module": [p.detach() for p in self.parameters],
            "buffers": dict(self.module.named_buffers()),
            "optimizer": self.optimizer.state_dict(),
            "ema": [p.detach() for p in self.ema.shadow_params] if self.ema else [],
            "ema_step": self.ema.optimization_step if self.ema else 0,
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else {},  # fp16's
        }
        write_atomically(path, lambda p: torch.save(state, p))

    def load_checkpoint(self) -> bool:
        """Go on from the checkpoint in ``out``; False when there is none."""
        path = self.checkpoint_path
        if path is None or not path.exists():
            return False
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not self._continues(json.loads(state["settings"]), state["step"]):
            raise InputError(f"{path} belongs to a run with other settings; choose another folder or remove it")
        with torch.no_grad():
            for parameter, saved in zip(self.parameters, state["module"], strict=True):
                parameter.copy_(saved)
            buffers = dict(self.module.named_buffers())
            for key, saved in state["buffers"].items():
                buffers[key].copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            for shadow, saved in zip(self.ema.shadow_params, state["ema"], strict=True):
                shadow.copy_(saved)
            self.ema.optimization_step = state["ema_step"]
        if self.accelerator.scaler and state.get("scaler"):
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.history = json.loads(state["history"])
        return True

    def _train_step(self) -> dict[str, Any]:
        config, logs = self.config, {}
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * config.factor(self.step)
        total = 0.0
        for micro in range(config.gradient_accumulation_steps):
            index = self.step * config.gradient_accumulation_steps + micro
            generator = step_generator(config.seed, index, self.accelerator.process_index)
            batch = self.batches(index, generator)
            with self.accelerator.accumulate(self.wrapped):
                with torch.random.fork_rng(devices=self._cuda):
                    torch.manual_seed(generator.initial_seed() ^ 0x5DEECE66D)  # dropout, too, depends on ids alone
                    loss, logs = self.wrapped(batch, generator)
                value = float(loss.detach())
                if not math.isfinite(value):
                    there = self.checkpoint_path is not None and self.checkpoint_path.exists()
                    kept = f"; the checkpoint of an earlier step is kept in {self.out}" if there else ""
                    raise TrainingDiverged(
                        f"{self.name}: the loss is {value} at step {self.step}, batch {index} (seed {config.seed})"
                        f"{kept}; "
                        "lower the learning rate or look at that batch"
                    )
                total += value / config.gradient_accumulation_steps
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients and config.max_grad_norm > 0:
                    self.accelerator.clip_grad_norm_(self.parameters, config.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
        if self.ema:
            self.ema.step(self.parameters)
        return {"loss": total, **logs}

    def run(self) -> list[dict[str, float]]:
        """Train to ``config.steps``; leaves the (averaged) weights in the module and returns the loss history."""
        self.load_checkpoint()
        # accelerate keeps this number for the whole process: another loop may have been built in between.
        self.accelerator.gradient_accumulation_steps = self.config.gradient_accumulation_steps
        was_training = self.module.training
        self.module.train()
        start = time.monotonic() - self.seconds
        last = time.monotonic()
        every = max(1, self.config.steps // 400)
        total, done = self.config.steps, self.step
        with tqdm(total=total, initial=done, desc=self.name, disable=not self.progress, dynamic_ncols=True) as bar:
            while self.step < self.config.steps:
                logs = self._train_step()
                self.step += 1
                self.seconds = time.monotonic() - start
                if self.step % every == 0 or self.step == self.config.steps:
                    logs = {k: float(v) for k, v in logs.items()}  # only here: on a GPU it waits for all work
                    self.history.append({"step": self.step, "seconds": round(self.seconds, 1), **logs})
                    bar.set_postfix({k: f"{v:.4f}" for k, v in logs.items()}, refresh=False)
                bar.update(1)
                if self.on_step:
                    self.on_step(self.step)
                if time.monotonic() - last > self.config.checkpoint_seconds:
                    self.save_checkpoint()
                    self._write_loss()
                    last = time.monotonic()
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
