"""Every number of a run, by name. Mini and full size differ here and nowhere else."""

from dataclasses import dataclass, field, replace
from typing import Any

from bdkit.models.configs import FULL, MINI, ModelConfig, MultimodalEncoderConfig, RetrievalConfig
from bdkit.training.config import TrainingConfig
from bdkit.training.pretraining.config import (
    MultimodalRepresentationConfig,
    RetrievalAugmentedConfig,
    SubjectRepresentationConfig,
)
from bdkit.training.pretraining.corpus import CorpusConfig


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
    noise_weights: tuple[float, float] | None = (0.2, 10.0)


PRETRAIN: dict[str, PretrainConfig] = {
    "mini": _mini(1.0, CorpusConfig()),
    # Everything once, in under two minutes, for tests; the images are noise.
    "mini-smoke": _mini(0.001, CorpusConfig(scenes=256, seed=1), mattes=8, backgrounds=32),
}

CONTROLNET: dict[str, ControlNetPreset] = {
    "mini": ControlNetPreset(
        corpus=CorpusConfig(scenes=8192, seed=4),
        training=TrainingConfig(
            steps=9000,
            batch_size=8,
            learning_rate=6e-4,
            warmup_steps=50,
            ema_decay=0.998,
            mixed_precision="bf16",
        ),
    ),
    "mini-smoke": ControlNetPreset(
        corpus=CorpusConfig(scenes=32, seed=4), training=TrainingConfig(steps=2, batch_size=4, learning_rate=7e-4)
    ),
}


@dataclass(frozen=True, kw_only=True)
class ReImagenPreset:
    """The training of Re-Imagen on a finished base; ``corpus`` is the mini world's, on shards there is none."""

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    training: TrainingConfig
    config: RetrievalAugmentedConfig = field(default_factory=RetrievalAugmentedConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)


RE_IMAGEN: dict[str, ReImagenPreset] = {
    "mini": ReImagenPreset(
        corpus=CorpusConfig(scenes=16384, seed=6, images_per_subject=4),
        training=TrainingConfig(
            steps=5000,
            batch_size=32,
            learning_rate=2e-3,
            warmup_steps=50,
            ema_decay=0.998,
            mixed_precision="bf16",
        ),
        # between the halves, at 4 x 4, this U-Net hardly does anything
        retrieval=RetrievalConfig(up_block=1),
    ),
    "mini-smoke": ReImagenPreset(
        corpus=CorpusConfig(scenes=32, seed=6, images_per_subject=4),
        training=TrainingConfig(steps=2, batch_size=4, learning_rate=1e-3),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Stage1Preset:
    """Stage 1 on shards; ``training.batch_size`` is the total batch.

    encoder: sizes of all but the image encoder, and of a Q-Former that starts from random weights
    image_encoder, qformer: what they start from, where the user names nothing
    """

    training: TrainingConfig
    config: MultimodalRepresentationConfig = field(default_factory=MultimodalRepresentationConfig)
    encoder: MultimodalEncoderConfig
    image_encoder: str | None = None
    qformer: str | None = None


@dataclass(frozen=True, kw_only=True)
class Stage2Preset:
    """Stage 2 on shards; ``training.batch_size`` is the total batch.

    template: of the prompts (`bdkit.models.prompts.PROMPT_TEMPLATES`)
    base, init, backgrounds: where the user names nothing
    """

    training: TrainingConfig
    config: SubjectRepresentationConfig
    template: str = "paper"
    base: str | None = None
    init: str | None = None
    backgrounds: str | None = None


# What BLIP-Diffusion's paper does not say of stage 1 is BLIP-2's (arXiv 2301.12597, Sec. 3.3 and its public code):
# batch 2320 with ViT-L, 250K steps, peak rate 1e-4 after 2K steps of warm-up, betas, weight decay, crops of at least
# half the image, 32 tokens, a space of 256. Our choice: the cosine falls to 0 (there: 1e-5); clipping to 1.
_STAGE1 = TrainingConfig(
    steps=250_000,
    batch_size=2320,
    learning_rate=1e-4,
    weight_decay=0.05,
    betas=(0.9, 0.98),
    schedule="cosine",
    warmup_steps=2000,
    mixed_precision="bf16",
    gradient_checkpointing=True,
    checkpoint_seconds=1800,
)
_BLIP2_PAIRS = MultimodalRepresentationConfig(projection_size=256, min_crop=0.5)
STAGE1: dict[str, Stage1Preset] = {
    "paper-stage1": Stage1Preset(training=_STAGE1, config=_BLIP2_PAIRS, encoder=FULL.multimodal),
    # One GPU and a day, by arithmetic (docs/pretraining.md); not measured.
    "small": Stage1Preset(
        training=replace(_STAGE1, steps=40_000, batch_size=256, warmup_steps=1000),
        config=_BLIP2_PAIRS,
        encoder=FULL.multimodal,
    ),
    "mini": Stage1Preset(
        training=PRETRAIN["mini"].multimodal_representation,
        encoder=MINI.multimodal,
        image_encoder="mini",
        qformer="random",
    ),
}

# Paper (Sec. 4.1): total batch 16, constant 2e-6, AdamW, 500K steps, subject prompt dropped at .15. Our choice, because
# it does not say: weight decay 0.01, clipping to 1, no empty prompts, bfloat16 over float32 weights, no EMA.
_STAGE2 = TrainingConfig(
    steps=500_000,
    batch_size=16,
    learning_rate=2e-6,
    mixed_precision="bf16",
    gradient_checkpointing=True,
    checkpoint_seconds=1800,
)
_PAPER_SUBJECTS = SubjectRepresentationConfig(
    empty_share=0.0,
    unet_rate=2e-6,
    text_rate=2e-6,
    multimodal_rate=2e-6,
    noise_weights=None,
    jitter=False,
    word_length=16,
)
STAGE2: dict[str, Stage2Preset] = {
    "paper-stage2": Stage2Preset(training=_STAGE2, config=_PAPER_SUBJECTS),
    # One GPU and a day, by arithmetic (docs/pretraining.md); not measured. A larger rate and EMA for fewer steps.
    "small": Stage2Preset(
        training=replace(_STAGE2, steps=60_000, learning_rate=1e-5, warmup_steps=1000, ema_decay=0.9995),
        config=replace(
            _PAPER_SUBJECTS, empty_share=0.05, unet_rate=1e-5, text_rate=1e-5, multimodal_rate=1e-5, jitter=True
        ),
    ),
    "mini": Stage2Preset(
        training=PRETRAIN["mini"].subject_representation,
        config=PRETRAIN["mini"].subject,
        template="place",
        base="mini-base",
        backgrounds="mini",
    ),
}

# Our choice: the mini numbers for mini; for one GPU and a day those of the public recipes of ControlNets, not measured.
CONTROLNET_ON_SHARDS: dict[str, TrainingConfig] = {
    "small": TrainingConfig(
        steps=50_000,
        batch_size=16,
        learning_rate=1e-5,
        mixed_precision="bf16",
        gradient_checkpointing=True,
        checkpoint_seconds=1800,
    ),
    "mini": CONTROLNET["mini"].training,
}

# After the paper, from secondary sources: learning rate 1e-4, 200K steps. Our choice: the batch, bfloat16 over float32
# weights. "small" is smaller by arithmetic alone; neither was measured at full size.
_RE_IMAGEN = TrainingConfig(
    steps=200_000,
    batch_size=256,
    learning_rate=1e-4,
    warmup_steps=1000,
    mixed_precision="bf16",
    gradient_checkpointing=True,
    checkpoint_seconds=1800,
)
RE_IMAGEN_ON_SHARDS: dict[str, ReImagenPreset] = {
    "paper-re-imagen": ReImagenPreset(
        training=_RE_IMAGEN,
        config=RetrievalAugmentedConfig(noise_weights=None, word_pairs=False, class_noun_share=0.0, detail_share=0.0),
    ),
    "small": ReImagenPreset(
        training=replace(_RE_IMAGEN, steps=50_000, batch_size=16, ema_decay=0.9995),
        config=RetrievalAugmentedConfig(noise_weights=None, word_pairs=False, detail_share=0.0),
    ),
    "mini": RE_IMAGEN["mini"],
}
