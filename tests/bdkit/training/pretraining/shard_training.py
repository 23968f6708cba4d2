"""Trains both stages of a tiny model on shards; run alone, by torchrun, or to be killed: see the end."""

import os
import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

if __name__ != "__mp_main__":  # a loader worker, which imports the main module again, needs none of it
    from bdkit.checkpoints.save import save_blip_diffusion
    from bdkit.miniworld.captions import VOCABULARY
    from bdkit.models.configs import MultimodalEncoderConfig
    from bdkit.testing.tiny_model import tiny_model
    from bdkit.training.config import ShardConfig, TrainingConfig
    from bdkit.training.preparation.prepare_mini import prepare_mini
    from bdkit.training.pretraining.config import SubjectRepresentationConfig
    from bdkit.training.pretraining.corpus import CorpusConfig
    from bdkit.training.pretraining.presets import Stage1Preset, Stage2Preset
    from bdkit.training.pretraining.shard_stages import pretrain_stage1, pretrain_stage2

    CORPUS = CorpusConfig(scenes=40, seed=3, outfit_share=0.4, change_share=0.3, plain=True)


def write_shards(folder: Path, scenes: int = 40, **options: Any) -> Path:
    """Shards of the mini world, rendered in this process."""
    config = CorpusConfig(**{**vars(CORPUS), "scenes": scenes})
    with ThreadPoolExecutor(1) as pool:
        prepare_mini(config, str(folder), executor=pool, workers=1, progress=False, **options)
    return folder


def write_model(folder: Path, size: int = 32) -> Path:
    """A tiny model that knows the mini world's words."""
    return save_blip_diffusion(tiny_model(words=VOCABULARY, size=size, text_length=32), folder)


def presets(steps: int, batch: int, rate: float, **training: Any) -> "tuple[Stage1Preset, Stage2Preset]":
    """Settings of both stages that use all there is: EMA, a schedule, weights of timesteps and pixels."""
    shared = TrainingConfig(
        steps=steps, batch_size=batch, learning_rate=rate, schedule="cosine", ema_decay=0.9, **training
    )
    subject = SubjectRepresentationConfig(
        unet_rate=rate, text_rate=rate, multimodal_rate=rate, subject_weight=2.0, importance_sampling=True
    )
    first = Stage1Preset(training=shared, encoder=MultimodalEncoderConfig())
    return first, Stage2Preset(training=shared, config=subject, template="place")


def train(inputs: Path, out: Path, settings: "tuple[Stage1Preset, Stage2Preset]", **run: Any) -> Path:
    """Both stages, from `inputs`, which holds shards, backgrounds and a model; returns stage 2's folder."""
    data, model = str(inputs / "shards"), str(inputs / "model")
    shared = {"data": data, "device": "cpu", **run}
    pretrain_stage1(settings[0], ShardConfig(out=out / "1", init=model, **shared), progress=False)
    config = ShardConfig(
        out=out / "2", base=model, init=str(out / "1" / "model"), backgrounds=str(inputs / "backgrounds"), **shared
    )
    return pretrain_stage2(settings[1], config, progress=False)


def train_and_be_killed(inputs: Path, out: Path, kills: int, workers: int, seed: int) -> None:
    """Starts the training again and again, kills it at random moments, then lets it finish."""
    settings, rng = presets(30, 4, 1e-3, checkpoint_seconds=0.0), random.Random(seed)
    for attempt in range(kills + 1):
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            train(inputs, out, settings, workers=workers)
            os._exit(0)
        if attempt < kills:
            time.sleep(rng.uniform(0.3, 4.0 + 4 * workers))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if attempt == kills and status:
            sys.exit(f"the training ended with {status}")


if __name__ == "__main__":
    folder, target, *numbers = sys.argv[1:]
    if len(numbers) == 1:  # the total batch
        train(Path(folder), Path(target), presets(20, int(numbers[0]), 1e-4))
    else:  # kills, loader workers, seed
        train_and_be_killed(Path(folder), Path(target), *map(int, numbers))
