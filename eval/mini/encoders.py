"""Training of the four mini evaluators on arrays: DINO, CLIP, identity and the classifier.

None of them shares data, seeds or architecture with the model that they score. Training is resumable: a checkpoint is
written at least once a minute, and a stopped run goes on to the same weights (with the same number of threads).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from bdkit.utils.errors import InputError
from eval.mini.measure import measure_classifier, measure_clip, measure_embeddings
from eval.mini.networks import WordTokenizer, load_network, save_network
from eval.mini.tasks import ClassifierTask, ClipTask, DinoTask, IdentityTask, Pool, Task
from eval.score.encoders import Classifier, ClipEncoder, Encoder
from eval.score.protocols import PROTOCOLS
from eval.score.weights import CARD

CHECKPOINT_SECONDS = 45.0


@dataclass(frozen=True, kw_only=True)
class Training:
    """How one evaluator is trained: AdamW, linear warm-up, cosine decay to 0.

    Args:
        batch: images a step (instances, for DINO).
        warmup: share of the steps.
        seed: decides the first weights and every draw.
    """

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float = 0.05
    warmup: float = 0.05
    clip_norm: float = 1.0
    seed: int


TRAININGS: dict[str, Training] = {
    "identity": Training(steps=1400, batch=128, learning_rate=2e-3, seed=9101),
    "classifier": Training(steps=1100, batch=128, learning_rate=2e-3, seed=9102),
    "clip": Training(steps=2400, batch=128, learning_rate=2e-3, seed=9103),
    "dino": Training(steps=2000, batch=48, learning_rate=2e-3, seed=9104),
}
SMOKE: dict[str, Training] = {
    name: replace(training, steps=6, batch=16, warmup=0.2) for name, training in TRAININGS.items()
}


@dataclass(frozen=True, kw_only=True)
class Material:
    """What the four are trained and measured on.

    Args:
        train, held_out: images of disjoint subjects.
        words: every word that a caption or prompt can hold.
        prompts: a prompt for every class (rows) in every context (columns), for CLIP's zero-shot measures.
    """

    train: Pool
    held_out: Pool
    words: list[str]
    prompts: list[list[str]]


def build_task(name: str, material: Material, training: Training) -> Task:
    """The named evaluator, untrained. Raises InputError for an unknown name."""
    if name == "identity":
        return IdentityTask(material.train, training.batch, training.seed)
    if name == "classifier":
        return ClassifierTask(material.train, training.batch, training.seed)
    if name == "clip":
        return ClipTask(material.train, training.batch, training.seed, material.words)
    if name == "dino":
        return DinoTask(material.train, training.batch, training.seed)
    raise InputError(f"unknown evaluator {name!r}; known: {', '.join(TRAININGS)}")


def train_evaluator(
    name: str,
    material: Material,
    training: Training,
    work: Path,
    weights: Path,
    *,
    bfloat16: bool = False,
    stop_after: float | None = None,
    log: Callable[[str], None] = print,
) -> dict[str, Any] | None:
    """Train one evaluator, write its weights, measure the written file, and note it in the card.

    Args:
        work: folder of checkpoints; a run found there is resumed, a finished one is only measured again.
        weights: folder of `<name>.safetensors` and card.json.
        bfloat16: compute in bfloat16 where torch allows it (fast on CPUs with AVX512-BF16 only).
        stop_after: seconds after which to write a checkpoint and return None, for a run in portions.

    Raises InputError when the loss is not finite, or `work` holds a run with other settings.
    """
    work.mkdir(parents=True, exist_ok=True)
    task = build_task(name, material, training)
    history = _fit(name, task, training, work / f"{name}.pt", bfloat16, stop_after)
    if history is None:
        return None
    path = weights / f"{name}.safetensors"
    sha256 = save_network(task.network, task.config, path)
    measures = measure(path, material)
    entry = {
        "sha256": sha256,
        "bytes": path.stat().st_size,
        "parameters": sum(p.numel() for p in task.network.parameters()),
        "training": {
            **asdict(training),
            "pictures": len(material.train.images),
            "subjects": len(set(material.train.subject.tolist())),
            "bfloat16": bfloat16,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            **history,
        },
        "measures": {key: round(value, 4) for key, value in measures.items()},
    }
    _note(weights / CARD, name, entry)
    log(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in measures.items()))
    return entry


def measure(path: Path, material: Material) -> dict[str, float]:
    """The measures of a weights file on the held-out subjects."""
    network, config = load_network(path)
    how, checkpoint, kind = PROTOCOLS["mini"].dino, {"file": path.name}, config["kind"]
    if kind == "classifier":
        return measure_classifier(Classifier(network, how, "classifier", checkpoint), material.held_out)
    if kind != "clip":
        return measure_embeddings(Encoder(network, how, kind, checkpoint), material.held_out)
    tokenizer = WordTokenizer(config["words"], config["text"]["context_length"])
    clip = ClipEncoder(network, PROTOCOLS["mini"].clip, kind, checkpoint, tokenizer=tokenizer)
    measures = measure_embeddings(clip, material.held_out)
    return {**measures, **measure_clip(clip, material.held_out, material.prompts)}


def _fit(
    name: str, task: Task, training: Training, path: Path, bfloat16: bool, stop_after: float | None
) -> dict[str, Any] | None:
    """All steps that are left; {"seconds", "losses"} at the end, None when `stop_after` came first."""
    optimizer = torch.optim.AdamW(
        _groups(task, training.weight_decay), lr=training.learning_rate, betas=(0.9, 0.98), fused=True
    )
    data = hashlib.sha256(np.ascontiguousarray(task.pool.images[::101]).tobytes()).hexdigest()[:16]
    settings = json.dumps({**asdict(training), **_plain(task.config), "data": data, "bf16": bfloat16})
    state = _resume(path, settings, task, optimizer)
    started, saved = time.monotonic(), time.monotonic()
    before, recent = state["seconds"], state["recent"]
    task.nets.train()
    bar = tqdm(total=training.steps, initial=state["step"], desc=name, unit="step", mininterval=1.0)
    for step in range(state["step"], training.steps):
        progress = step / training.steps
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * _schedule(progress, training.warmup)
        with _arithmetic(bfloat16):
            loss = task.loss(step, progress)
        if not torch.isfinite(loss):
            raise InputError(
                f"the loss of the {name} evaluator became {loss.item()} at step {step} (its batch follows from seed "
                f"{training.seed} and that step); the last good checkpoint is {path}; try a lower learning rate"
            )
        loss.backward()
        nn.utils.clip_grad_norm_(list(task.trained()), training.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        task.after_step(progress)
        recent.append(float(loss.detach()))
        if len(recent) == 50 or step + 1 == training.steps:
            state["losses"].append([step + 1, round(sum(recent) / len(recent), 4)])
            recent.clear()
            bar.set_postfix(loss=f"{state['losses'][-1][1]:.3f}", refresh=False)
        bar.update()
        now = time.monotonic()
        out_of_time = stop_after is not None and now - started > stop_after
        if now - saved > CHECKPOINT_SECONDS or out_of_time or step + 1 == training.steps:
            state.update(step=step + 1, seconds=before + now - started)
            _save(path, {**state, "nets": task.nets.state_dict(), "optimizer": optimizer.state_dict()})
            saved = now
        if out_of_time and step + 1 < training.steps:
            bar.close()
            return None
    bar.close()
    return {"seconds": round(state["seconds"], 1), "losses": state["losses"]}


@contextmanager
def _arithmetic(bfloat16: bool) -> Iterator[None]:
    if not bfloat16:
        yield
        return
    # torch's fused attention on a CPU is several times slower in bfloat16 than plain matrix products
    with torch.autocast("cpu", dtype=torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        yield


def _groups(task: Task, weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; biases, norms and scales do not."""
    parameters = list(task.trained())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _schedule(progress: float, warmup: float) -> float:
    if progress < warmup:
        return max(progress / warmup, 0.01)
    angle = torch.pi * (progress - warmup) / (1 - warmup)
    return 0.5 * (1 + float(torch.cos(torch.tensor(angle))))


def _resume(path: Path, settings: str, task: Task, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    fresh: dict[str, Any] = {"step": 0, "seconds": 0.0, "losses": [], "recent": [], "settings": settings}
    if not path.is_file():
        return fresh
    try:
        state = torch.load(path, weights_only=True)
    except Exception as error:  # torch and pickle raise many kinds
        raise InputError(f"the checkpoint {path} cannot be read; delete it to start again") from error
    if state["settings"] != settings:
        raise InputError(f"the checkpoint {path} is of a run with other settings; delete it or use another folder")
    task.nets.load_state_dict(state["nets"])
    optimizer.load_state_dict(state["optimizer"])
    return {key: state[key] for key in fresh}


def _save(path: Path, state: dict[str, Any]) -> None:
    part = path.with_name(path.name + ".part")
    try:
        torch.save(state, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    return {key: len(value) if key == "words" else value for key, value in config.items()}


def _note(path: Path, name: str, entry: dict[str, Any]) -> None:
    """Write one evaluator's entry into the card, which appears whole or not at all."""
    card: dict[str, Any] = {"protocol": "mini", "models": {}}
    if path.is_file():
        card = json.loads(path.read_text(encoding="utf-8"))
    card["models"][name] = entry
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
