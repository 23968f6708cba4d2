"""`bdkit pretrain`: the mini model from scratch, all stages or one; or a stage on shards of your own images.

examples:
  bdkit pretrain mini --out runs/mini
  bdkit pretrain stage2 --out runs/mini
  bdkit pretrain mini --smoke --out /tmp/smoke
  bdkit pretrain controlnet --out runs/mini
  bdkit pretrain stage1 --data PAIRS --image-encoder CLIP --qformer BERT --out stage1
  bdkit pretrain stage2 --data SHARDS --base SD15 --init stage1/model --backgrounds OTHERS --out stage2
  bdkit pretrain controlnet --data PAIRS --base SD15 --out controlnet
  bdkit pretrain re-imagen --data PAIRS --base SD15 --out re-imagen
  accelerate launch -m bdkit.cli pretrain stage2 --data SHARDS ... --out stage2
  bdkit pretrain stage1 --data x --help
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from bdkit.training.config import BESIDE_STAGES, PRETRAINING_STAGES, ShardConfig, TrainingConfig
from bdkit.training.pretraining.config import (
    MultimodalRepresentationConfig,
    RetrievalAugmentedConfig,
    SubjectRepresentationConfig,
)
from bdkit.utils.config import add_dataclass_arguments, config_from_args, given_fields
from bdkit.utils.env import is_main_process
from bdkit.utils.errors import InputError
from bdkit.utils.io import check_writable

STAGE_CONFIGS: dict[str, type | None] = {
    "stage1": MultimodalRepresentationConfig,
    "stage2": SubjectRepresentationConfig,
    "controlnet": None,
    "re-imagen": RetrievalAugmentedConfig,
}
"""The stages that train on shards, and what each has beside its training."""
DEFAULT_PRESETS = {
    "stage1": "paper-stage1",
    "stage2": "paper-stage2",
    "controlnet": "small",
    "re-imagen": "paper-re-imagen",
}


@dataclass(frozen=True, kw_only=True)
class PretrainCommandConfig:
    """Training.

    what: mini for every stage, or one of the stages
    out: folder for checkpoints and weights; the same command resumes a run that was stopped
    data: shards to train on (`bdkit prepare`), for stage1, stage2, controlnet and re-imagen; --data X --help shows
        their flags
    smoke: a handful of steps, to test the path in two minutes
    device: where to train (default: the GPU, if there is one)
    """

    what: str = field(metadata={"positional": True})
    out: Path = Path("runs/mini")
    data: str | None = None
    smoke: bool = False
    device: Literal["cpu", "cuda"] | None = None

    def __post_init__(self) -> None:
        if self.what not in ("mini", *PRETRAINING_STAGES, *BESIDE_STAGES):
            known = ", ".join([*PRETRAINING_STAGES, *BESIDE_STAGES])
            raise InputError(f"unknown stage {self.what!r}; give mini, {known}")
        if self.data is not None and self.what not in STAGE_CONFIGS:
            stages = ", ".join(STAGE_CONFIGS)
            raise InputError(f"{self.what} trains on the mini world alone; leave --data out, or train one of {stages}")
        if self.data is not None and self.smoke:
            raise InputError("--smoke trains on a corpus of its own; with --data give --steps 2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `PretrainCommandConfig`, and the list of stages."""
    add_dataclass_arguments(parser, PretrainCommandConfig)
    stages = PRETRAINING_STAGES | BESIDE_STAGES
    parser.add_argument_group("Stages", "\n".join(f"{name:<21} {text}" for name, text in stages.items()))


def add_dependent_arguments(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Adds the flags of a stage on shards, where `arguments` ask for one."""
    stage = next((argument for argument in arguments if argument in STAGE_CONFIGS), None)
    if stage is None or not any(argument.split("=")[0] == "--data" for argument in arguments):
        return
    known = {each.name for each in fields(PretrainCommandConfig)}
    add_dataclass_arguments(parser, ShardConfig, skip=known, title="On shards")
    names = ", ".join(dict.fromkeys([DEFAULT_PRESETS[stage], "small", "mini"]))
    default = DEFAULT_PRESETS[stage]
    parser.add_argument("--preset", metavar="NAME", default=default, help=f"{names} (default: {default})")
    numbers: dict[str, Any] = {"show_defaults": False}
    title = "Numbers (default: the preset's; --batch-size is of all processes together)"
    add_dataclass_arguments(parser, TrainingConfig, skip={"gradient_accumulation_steps"}, title=title, **numbers)
    config_class = STAGE_CONFIGS[stage]
    if config_class is not None:
        add_dataclass_arguments(parser, config_class, title="The stage's own numbers", **numbers)


def run(args: argparse.Namespace) -> int:
    """Trains what is not finished yet."""
    import torch

    from bdkit.training.controlnet import pretrain_controlnet
    from bdkit.training.pretraining.retrieval_augmented import pretrain_re_imagen
    from bdkit.training.pretraining.stages import pretrain_mini

    config = config_from_args(PretrainCommandConfig, args)
    check_writable(config.out)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: there is no GPU that torch can use; leave --device out")
    stages = list(PRETRAINING_STAGES) if config.what == "mini" else [config.what]
    if config.data is not None:
        weights = _on_shards(config.what, args)
    elif config.what in BESIDE_STAGES:
        train = {"controlnet": pretrain_controlnet, "re-imagen": pretrain_re_imagen}[config.what]
        weights = train(config.out, smoke=config.smoke, device=config.device)
    else:
        weights = pretrain_mini(config.out, smoke=config.smoke, stages=stages, device=config.device)
    if is_main_process():
        print(f"{', '.join(stages)}: finished in {weights}.")
    return 0


def _on_shards(stage: str, args: argparse.Namespace) -> Path:
    from bdkit.training.pretraining.presets import CONTROLNET_ON_SHARDS, RE_IMAGEN_ON_SHARDS, STAGE1, STAGE2
    from bdkit.training.pretraining.shard_stages import (
        pretrain_controlnet_on_shards,
        pretrain_re_imagen_on_shards,
        pretrain_stage1,
        pretrain_stage2,
    )

    all_presets: dict[str, Any] = {
        "stage1": STAGE1,
        "stage2": STAGE2,
        "controlnet": CONTROLNET_ON_SHARDS,
        "re-imagen": RE_IMAGEN_ON_SHARDS,
    }
    presets = all_presets[stage]
    if args.preset not in presets:
        raise InputError(f"--preset {args.preset!r} is not known for {stage}; use {', '.join(presets)}")
    preset, run = presets[args.preset], config_from_args(ShardConfig, args)
    from eval.generate.samples import CaptionSamples, ControlSamples, SuiteSamples, small_suite

    if stage == "controlnet":
        return pretrain_controlnet_on_shards(
            config_from_args(TrainingConfig, args, preset), run, samples=ControlSamples
        )
    numbers, training = given_fields(TrainingConfig, args), preset.training
    if "steps" in numbers and "restarts" not in numbers:  # a shorter run has only the preset's restarts within it
        training = replace(training, restarts=tuple(r for r in training.restarts if r < numbers["steps"]))
    training = config_from_args(TrainingConfig, args, training)
    rate = numbers.get("learning_rate")
    own = config_from_args(type(preset.config), args, preset.config)
    if rate is not None and stage == "stage2":  # of all parts that have none of their own
        names = ("unet_rate", "text_rate", "multimodal_rate")
        given = given_fields(SubjectRepresentationConfig, args)
        own = replace(own, **{name: rate for name in names if name not in given})
    preset = replace(preset, training=training, config=own)
    if stage == "stage1":
        return pretrain_stage1(preset, run, samples=CaptionSamples)
    if stage == "re-imagen":
        return pretrain_re_imagen_on_shards(preset, run)
    samples = None
    if run.sample_suite is not None:
        suite = small_suite(run.sample_suite, run.photos)
        samples = partial(SuiteSamples, suite=suite, photos=run.photos)
    return pretrain_stage2(preset, run, samples=samples)
