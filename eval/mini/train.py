"""Training of the mini evaluators: DINO, CLIP, identity and the classifier.

They share no data, seeds or architecture with the model that they score.
"""

from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from bdkit.training.config import TrainingConfig
from bdkit.training.data import FunctionBatches
from bdkit.training.loop import TrainingLoop
from bdkit.utils.errors import InputError
from bdkit.utils.io import read_json, write_json
from eval.mini.individuals import IndividualsConfig
from eval.mini.measure import measure
from eval.mini.networks import save_network
from eval.mini.pool import Material, PoolSize, make_material, world_hash
from eval.mini.tasks import TASKS, Task
from eval.score.weights import CARD, MINI_WEIGHTS


def _training(steps: int, batch_size: int, seed: int) -> TrainingConfig:
    return TrainingConfig(
        steps=steps,
        batch_size=batch_size,
        learning_rate=2e-3,
        weight_decay=0.05,
        betas=(0.9, 0.98),
        schedule="cosine",
        warmup_steps=round(0.05 * steps),
        checkpoint_seconds=45.0,
        seed=seed,
    )


TRAININGS: dict[str, TrainingConfig] = {
    "identity": _training(1400, 128, 9101),
    "classifier": _training(1100, 128, 9102),
    "clip": _training(5500, 128, 9203),
    "dino": _training(1500, 48, 9204),
}
# of the recipe in eval.mini.tasks; the card keeps it beside what was trained by it
VERSIONS = {"identity": 1, "classifier": 1, "clip": 2, "dino": 2}
SMOKE = {name: replace(each, steps=6, batch_size=16, warmup_steps=1) for name, each in TRAININGS.items()}
FULL = (
    PoolSize(name="train", objects=180, live=380, images=10),
    PoolSize(name="held-out", objects=12, live=22, images=6),
)
SMALL_INDIVIDUALS = IndividualsConfig(suites=1, subjects=6, lookalikes=1, prompted=1)
SMALL = (PoolSize(name="train", objects=4, live=4, images=4), PoolSize(name="held-out", objects=2, live=2, images=3))


def train_evaluator(
    name: str, material: Material, training: TrainingConfig, work: Path, weights: Path, *, progress: bool = True
) -> dict[str, Any]:
    """Trains one evaluator, writes and measures its weights, and returns its entry in the card.

    Args:
        work: folder of checkpoints; a stopped run resumes from it, a finished one is only measured again.
        weights: folder of `<name>.safetensors` and card.json.
    """
    task: Task = TASKS[name](material, training)
    task.to(memory_format=torch.channels_last)
    trained = [p for p in task.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1]},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},  # biases, norms and scales
    ]
    batches = FunctionBatches(task.batch, training.seed)
    loop = TrainingLoop(
        task,
        batches,
        training,
        out=work / name,
        groups=groups,
        name=f"{name} evaluator",
        on_step=task.after_step,
        progress=progress,
        device="cpu",
    )
    # torch's fused attention on a CPU is several times slower in bfloat16 than plain matrix products
    with sdpa_kernel(SDPBackend.MATH) if training.mixed_precision == "bf16" else nullcontext():
        history = loop.run()
    path = weights / f"{name}.safetensors"
    sha256 = save_network(task.network, task.config, path)
    entry = {
        "version": VERSIONS[name],
        "sha256": sha256,
        "bytes": path.stat().st_size,
        "parameters": sum(p.numel() for p in task.network.parameters()),
        "training": {
            **asdict(training),
            "images": len(material.train.images),
            "subjects": len(set(material.train.subject.tolist())),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "seconds": round(loop.seconds, 1),
            "losses": [[row["step"], round(row["loss"], 4)] for row in history[:: max(1, len(history) // 40)]],
        },
        "measures": {key: round(value, 4) for key, value in measure(path, material).items()},
    }
    card_path = weights / CARD
    card: dict[str, Any] = read_json(card_path) if card_path.exists() else {"protocol": "mini", "models": {}}
    card["models"][name] = entry
    write_json(card, card_path)
    return entry


def train_evaluators(
    names: tuple[str, ...],
    *,
    work: Path,
    weights: Path | None = None,
    length: float = 1.0,
    threads: int | None = None,
    smoke: bool = False,
    precision: str = "auto",
) -> dict[str, dict[str, float]]:
    """Renders the images, trains evaluators on them and returns the measures of each.

    Args:
        names: keys of `TRAININGS`.
        work: folder of rendered images and checkpoints.
        weights: where the weights and card.json go; None: the package's own.
        length: multiplies the number of steps.
        threads: CPU threads; None: torch's.
        smoke: a few steps on a few images, to test the path.
        precision: float32, bfloat16, or auto: bfloat16 where the processor has instructions for it.
    """
    if length <= 0 or (threads is not None and threads < 1):
        raise InputError("--length must be above 0 and --threads at least 1")
    weights = weights or MINI_WEIGHTS
    if smoke and weights.resolve() == MINI_WEIGHTS.resolve():
        raise InputError("--smoke makes useless weights: give --weights another folder")
    torch.set_num_threads(threads or torch.get_num_threads())
    work = work / f"world-{world_hash()}"
    sizes, individuals = (SMALL, SMALL_INDIVIDUALS) if smoke else (FULL, IndividualsConfig())
    material = make_material(sizes, individuals, work / "images", 1 if smoke else torch.get_num_threads())
    fast = precision == "bfloat16" or (precision == "auto" and fast_bfloat16())
    measures = {}
    for name in names:
        training = (SMOKE if smoke else TRAININGS)[name]
        steps, warmup = (max(round(count * length), 1) for count in (training.steps, training.warmup_steps))
        training = replace(training, steps=steps, warmup_steps=warmup, mixed_precision="bf16" if fast else "no")
        measures[name] = train_evaluator(name, material, training, work, weights)["measures"]
    return measures


def fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware."""
    check: Any = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(check and check())
