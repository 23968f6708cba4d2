"""`bdkit finetune`: learns the subject of your own images (Sec. 3.3), or does as the methods it is compared with."""

import argparse
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bdkit.checkpoints.adapters import placeholder_words
from bdkit.commands.loading import ModelFlags
from bdkit.commands.outputs import check_free
from bdkit.methods import METHODS, build_method, method_config, save_finetuned
from bdkit.methods.base import TrainedMethod
from bdkit.training.finetuning import FinetuneConfig, Work
from bdkit.utils.config import add_dataclass_arguments, config_from_args, given_fields
from bdkit.utils.errors import InputError
from bdkit.utils.images import list_images, read_images
from bdkit.utils.io import file_hash, read_json, write_json

WORK = ".fit"  # in the folder that is written: what an unfinished fit goes on with
FIT_FILE = "fit.json"


@dataclass(frozen=True, kw_only=True)
class FinetuneCommand(ModelFlags):
    """What is learned from what.

    images: folder with one to six images of the subject
    subject: class word of the subject, such as dog
    out: folder for what was learned; none: my-SUBJECT
    method: blip-diffusion (the embedding and the U-Net, few steps), dreambooth, dreambooth-lora or textual-inversion
    model: folder or id of a model, or the name of a shipped one; all but blip-diffusion can start from a plain Stable
        Diffusion v1
    base: Stable Diffusion 1.5 folder, for what a LAVIS checkpoint lacks
    dtype: of the weights that are not trained: float32, float16 or bfloat16; those that are trained are float32
    preset: which settings to start from: mini, paper or public; none: the model's own
    seed: another seed, another run
    checkpoint_seconds: how often a fit is written down, to go on from there by the same command after a stop
    """

    images: Path
    subject: str
    out: Path | None = None
    method: str = "blip-diffusion"
    preset: str | None = None
    seed: int = 0
    checkpoint_seconds: float = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `FinetuneCommand`, and those of `FinetuneConfig`, which replace the preset's numbers."""
    add_dataclass_arguments(parser, FinetuneCommand)
    parser.add_argument("--overwrite", action="store_true", help="replace what --out holds")
    group = parser.add_argument_group("training, in place of the preset's numbers")
    add_dataclass_arguments(group, FinetuneConfig, skip=["snapshots"], show_defaults=False)


def run(args: argparse.Namespace) -> int:
    """Fine-tunes, or goes on with it, then writes the folder in one step."""
    config = config_from_args(FinetuneCommand, args)
    out = config.out or Path(f"my-{config.subject.replace(' ', '-')}")
    overrides = given_fields(FinetuneConfig, args)
    _check_method(config.method, overrides)
    check_free(out, args.overwrite, besides=WORK)
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
        "pictures": {path.name: file_hash(path) for path in list_images(config.images)},
    }
    with _work(out, fit, args.overwrite) as folder:
        method.work = Work(folder=folder, seconds=config.checkpoint_seconds)
        method.fit(images, config.subject, config.seed)
    save_finetuned(method, out)
    print(_how_to_draw(config, out, method))
    return 0


def _check_method(name: str, overrides: dict[str, object]) -> None:
    """Raises InputError for a method that does not train, and for a flag that the method has no use for."""
    trained = [key for key, method in METHODS.items() if issubclass(method, TrainedMethod)]
    if name not in trained:
        raise InputError(f"--method {name!r} cannot be fine-tuned; known are {', '.join(trained)}")
    known = {field.name for field in fields(method_config(name))}
    unknown = sorted(f"--{key.replace('_', '-')}" for key in overrides if key not in known)
    if unknown:
        raise InputError(f"{name} has no {', '.join(unknown)}; leave it out")


@contextmanager
def _work(out: Path, fit: dict[str, Any], overwrite: bool) -> Iterator[Path]:
    """The folder in `out` of what a fit keeps until it is finished; saving replaces all of `out`, and so removes it.

    After an error that left nothing to go on with it is gone.

    Raises InputError when it is another fit's, and `overwrite` is False.
    """
    folder, there, fit = out / WORK, out.exists(), json.loads(json.dumps(fit))
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
            shutil.rmtree(folder if there else out)
        raise


def _how_to_draw(config: FinetuneCommand, out: Path, method: TrainedMethod) -> str:
    """The next line to type."""
    settings = method.settings
    line = f'bdkit generate --model {out} --prompt "a {{}} in the snow" --seeds 0-3 --out images'
    text = f"{out} draws this {config.subject} now, for example:\n{line}"
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
