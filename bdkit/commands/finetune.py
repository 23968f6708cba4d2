"""`bdkit finetune`: learns the subject of your own images (Sec. 3.3), by any of the methods that train.

examples:
  bdkit finetune --images photos/ --subject dog --out my-dog
  bdkit finetune --images photos/ --subject dog --method dreambooth-lora --steps 300
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bdkit.checkpoints.config import CheckpointConfig
from bdkit.training.config import FinetuneConfig
from bdkit.utils.config import add_dataclass_arguments, config_from_args, flag_of, given_fields
from bdkit.utils.errors import InputError
from bdkit.utils.images import list_images, read_images
from bdkit.utils.io import check_free, file_hash, read_json, write_json

WORK = ".fit"  # in the folder that is written: the checkpoints of an unfinished fit
FIT_FILE = "fit.json"


@dataclass(frozen=True, kw_only=True)
class FinetuneCommandConfig(CheckpointConfig):
    """Subject and method.

    images: folder with one to six images of the subject
    subject: class word of the subject, such as dog
    out: folder for what is learned (default: my-SUBJECT); the same command resumes a fit that was stopped
    method: blip-diffusion (the embedding and the U-Net, few steps), dreambooth, dreambooth-lora or textual-inversion;
        all but blip-diffusion can start from a plain Stable Diffusion v1
    preset: which settings to start from: mini, paper or public (default: the model's own)
    seed: another seed, another run
    checkpoint_seconds: time between two checkpoints of the fit
    overwrite: replace what --out holds
    """

    images: Path
    subject: str
    out: Path | None = None
    method: str = "blip-diffusion"
    preset: str | None = None
    seed: int = 0
    checkpoint_seconds: float = 60.0
    overwrite: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `FinetuneCommandConfig`, and those of `FinetuneConfig`, which replace the preset's numbers."""
    add_dataclass_arguments(parser, FinetuneCommandConfig)
    title = "Training (default: the preset's numbers)"
    add_dataclass_arguments(parser, FinetuneConfig, skip=["snapshots"], show_defaults=False, title=title)


def run(args: argparse.Namespace) -> int:
    """Fine-tunes, or resumes a fit, then writes the folder in one step."""
    from bdkit.methods import build_method
    from bdkit.methods.base import TrainedMethod
    from bdkit.training.finetuning import Work

    config = config_from_args(FinetuneCommandConfig, args)
    out = config.out or Path(f"my-{config.subject.replace(' ', '-')}")
    overrides = given_fields(FinetuneConfig, args)
    _check_method(config.method, overrides)
    check_free(out, overwrite=config.overwrite, ignore=WORK)
    images = read_images(config.images)
    method = build_method(
        config.method, config.model, preset=config.preset, options=config.options, **overrides, snapshots=()
    )
    assert isinstance(method, TrainedMethod)
    method.progress = True
    fit = {
        "method": method.settings,
        "subject": config.subject,
        "seed": config.seed,
        "dtype": config.dtype,
        "images": {path.name: file_hash(path) for path in list_images(config.images)},
    }
    with _work(out, fit, config.overwrite) as folder:
        method.work = Work(folder=folder, seconds=config.checkpoint_seconds)
        method.fit(images, config.subject, config.seed)
    method.save(out)
    print(_next_command(config, out, method.settings))
    return 0


def _check_method(name: str, overrides: dict[str, object]) -> None:
    """Raises InputError for a method that does not train, and for a flag that the method has no use for."""
    from bdkit.methods import METHODS, method_config
    from bdkit.methods.base import TrainedMethod

    trained = [key for key, method in METHODS.items() if issubclass(method, TrainedMethod)]
    if name not in trained:
        raise InputError(f"--method {name!r} cannot be fine-tuned; known are {', '.join(trained)}")
    known = {field.name for field in fields(method_config(name))}
    unknown = sorted(flag_of(key) for key in overrides if key not in known)
    if unknown:
        raise InputError(f"{name} has no {', '.join(unknown)}; leave it out")


@contextmanager
def _work(out: Path, fit: dict[str, Any], overwrite: bool) -> Iterator[Path]:
    """The folder in `out` for the checkpoints of a fit; saving replaces all of `out`, and so removes it.

    It is removed after an error that left no checkpoint. InputError when it is another fit's and `overwrite` is False.
    """
    folder, existed, fit = out / WORK, out.exists(), json.loads(json.dumps(fit))
    if folder.exists() and (not (folder / FIT_FILE).exists() or read_json(folder / FIT_FILE) != fit):
        if not overwrite:
            raise InputError(
                f"{out} holds an unfinished fit with other images, settings or weights; choose another --out, or "
                "--overwrite to drop it"
            )
        shutil.rmtree(folder)
    write_json(fit, folder / FIT_FILE)
    try:
        yield folder
    except BaseException:
        if [path.name for path in folder.iterdir()] == [FIT_FILE]:
            shutil.rmtree(folder if existed else out)
        raise


def _next_command(config: FinetuneCommandConfig, out: Path, settings: dict[str, Any]) -> str:
    """The next line to type, and what diffusers reads the folder with."""
    from bdkit.checkpoints.adapters import placeholder_words

    line = f'bdkit generate --model {out} --prompt "a {{}} in the snow" --seeds 0-3 --out images'
    text = f"{out} knows this {config.subject} now; an example:\n{line}"
    if config.method == "blip-diffusion":
        return text
    if config.method == "textual-inversion":
        words = placeholder_words(settings["placeholder_token"], config.subject, settings["with_class_noun"])
        call = f'pipe.load_textual_inversion("{out}", weight_name="learned_embeds.safetensors")'
    else:
        words = f"{settings['token']} {config.subject}"
        call = f'pipe.load_lora_weights("{out}")'
    text += f'\n{{}} stands for "{words}", so "a {words} in the snow" is the same.'
    return text if config.method == "dreambooth" else f"{text}\nWith diffusers: {call}"
