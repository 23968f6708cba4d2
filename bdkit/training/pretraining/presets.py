"""Every number of a run, by name. Mini and full size differ here and nowhere else."""

from dataclasses import dataclass, field, replace
from typing import Any

from bdkit.models.configs import MINI, ModelConfig
from bdkit.training.config import TrainingConfig
from bdkit.training.pretraining.corpus import CorpusConfig
from bdkit.training.pretraining.subject_representation import SubjectRepresentationConfig


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """All stages of one pre-training."""

    model: ModelConfig
    corpus: CorpusConfig
    subject_corpus: CorpusConfig  # stage 2 has its own, as in the paper
    joint_corpus: CorpusConfig
    autoencoder: TrainingConfig
    image_encoder: TrainingConfig
    text_to_image: TrainingConfig
    multimodal_representation: TrainingConfig
    subject_representation: TrainingConfig
    joint_training: TrainingConfig  # stage 2 continued with the image encoder trained too
    mattes: int = field(default=512, metadata={"help": "images whose matte comes from closed-form matting"})
    subject: SubjectRepresentationConfig = field(default_factory=SubjectRepresentationConfig)
    joint_subject: SubjectRepresentationConfig = field(default_factory=SubjectRepresentationConfig)
    backgrounds: int = field(default=4096, metadata={"help": "images without a subject, to blend cut-outs on"})


def _mini(scale: float, corpus: CorpusConfig, **changes: Any) -> PretrainConfig:
    """The mini pre-training with its step counts times ``scale``."""

    def steps(count: int) -> int:
        return max(2, round(count * scale))

    shared: dict[str, Any] = {"schedule": "linear", "mixed_precision": "bf16"}
    # A third of the subjects is live, as in DreamBench.
    subject_corpus = replace(
        corpus, seed=corpus.seed + 1, live_share=1 / 3, outfit_share=0.5, change_share=0.25, plain=True
    )
    config: dict[str, Any] = {
        "model": MINI,
        "corpus": corpus,
        "subject_corpus": subject_corpus,
        "joint_corpus": replace(subject_corpus, seed=corpus.seed + 2, scenes=3 * corpus.scenes),
        "autoencoder": TrainingConfig(
            steps=steps(3600),
            batch_size=16,
            learning_rate=2.5e-3,
            weight_decay=0.0,
            warmup_steps=100,
            ema_decay=0.998,
            **shared,
        ),
        "image_encoder": TrainingConfig(
            steps=steps(1200), batch_size=64, learning_rate=1e-3, weight_decay=0.05, warmup_steps=50, **shared
        ),
        "text_to_image": TrainingConfig(
            steps=steps(8000), batch_size=16, learning_rate=7e-4, warmup_steps=100, ema_decay=0.998, **shared
        ),
        "multimodal_representation": TrainingConfig(
            steps=steps(700), batch_size=48, learning_rate=1e-3, weight_decay=0.05, warmup_steps=50, **shared
        ),
        # Two rounds: the second one, of 6,000 steps, starts from the weights of the first.
        "subject_representation": TrainingConfig(
            steps=steps(8600),
            restarts=(steps(2600),),
            batch_size=32,
            learning_rate=5e-4,
            warmup_steps=100,
            ema_decay=0.998,
            **shared,
        ),
        "joint_training": TrainingConfig(
            steps=steps(3200),
            batch_size=min(512, corpus.scenes // 8),
            learning_rate=1e-3,
            warmup_steps=300,
            ema_decay=0.999,
            **shared,
        ),
        "joint_subject": SubjectRepresentationConfig(
            unet_rate=1e-3,
            text_rate=5e-4,
            multimodal_rate=5e-4,
            image_encoder_rate=3e-4,
            importance_sampling=True,
            subject_weight=3.0,
        ),
    }
    return PretrainConfig(**(config | changes))


@dataclass(frozen=True, kw_only=True)
class ControlNetPreset:
    """The training of a ControlNet beside the finished base."""

    corpus: CorpusConfig
    training: TrainingConfig


PRETRAIN: dict[str, PretrainConfig] = {
    "mini": _mini(1.0, CorpusConfig()),
    # Everything once, in under two minutes, for tests; the images are noise.
    "mini-smoke": _mini(0.001, CorpusConfig(scenes=256, seed=1), mattes=8, backgrounds=32),
}

CONTROLNET: dict[str, ControlNetPreset] = {
    "mini": ControlNetPreset(
        corpus=CorpusConfig(scenes=8192, seed=4),
        training=TrainingConfig(
            steps=3000,
            batch_size=8,
            learning_rate=7e-4,
            warmup_steps=50,
            ema_decay=0.99,
            mixed_precision="bf16",
        ),
    ),
    "mini-smoke": ControlNetPreset(
        corpus=CorpusConfig(scenes=32, seed=4), training=TrainingConfig(steps=2, batch_size=4, learning_rate=7e-4)
    ),
}
