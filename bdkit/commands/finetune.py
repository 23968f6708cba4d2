"""`bdkit finetune`: learns the subject of your own images (Sec. 3.3), by any of the methods that train.

examples:
  bdkit finetune --images photos/ --subject dog --out my-dog
  bdkit finetune --images photos/ --subject dog --steps auto
  bdkit finetune --images photos/ --subject dog --method dreambooth-lora --steps 300 --rank 8
  bdkit finetune --method dreambooth --help
"""

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from bdkit.checkpoints.config import CheckpointConfig
from bdkit.training.config import FewStepConfig
from bdkit.training.method_config import METHOD_CONFIGS, PriorConfig
from bdkit.utils.config import add_dataclass_arguments, config_from_args, flag_of, given_fields
from bdkit.utils.errors import InputError
from bdkit.utils.images import list_images, read_image
from bdkit.utils.io import check_free, check_unicode, file_hash, read_json, safe_name, write_json
from bdkit.utils.seeds import check_seed

WORK = ".fit"  # in the folder that is written: the checkpoints of an unfinished fit
FIT_FILE = "fit.json"
TRAINED = [name for name, config in METHOD_CONFIGS.items() if issubclass(config, FewStepConfig)]
# What the images of the class are drawn with
CLASS_IMAGE_SETTINGS = ("guidance_scale", "num_inference_steps", "scheduler", "negative_prompt")


@dataclass(frozen=True, kw_only=True)
class FinetuneCommandConfig(CheckpointConfig):
    """Subject and method.

    images: folder with one to six images of the subject
    subject: class word of the subject, such as dog
    out: folder for what is learned (default: my-SUBJECT); the same command resumes a fit that was stopped
    method: blip-diffusion (the embedding and the U-Net, few steps), dreambooth, dreambooth-lora, textual-inversion or
        custom-diffusion; all but blip-diffusion can start from a plain Stable Diffusion v1
    preset: which numbers to start from: mini, paper or public (default: the model's own)
    seed: another seed, another run
    checkpoint_seconds: time between two checkpoints of the fit
    overwrite: replace what --out holds
    log_with: send loss, learning rate, images a second and memory to a tracker, in OUT-log
    log_every: steps between two lines of numbers
    """

    images: Path
    subject: str
    out: Path | None = None
    method: str = "blip-diffusion"
    preset: str | None = None
    seed: int = 0
    checkpoint_seconds: float = 60.0
    overwrite: bool = False
    log_with: Literal["tensorboard", "wandb", "trackio"] | None = None
    log_every: int = 1

    def __post_init__(self) -> None:
        # the libraries that write tokenizers and weights take no other names
        for name in ("subject", "out", "model", "base"):
            check_unicode(str(getattr(self, name) or ""), flag_of(name))
        check_seed(self.seed)
        if self.checkpoint_seconds < 0:
            raise InputError(f"checkpoint_seconds is {self.checkpoint_seconds}; use at least 0")
        if not self.subject.strip():
            raise InputError("the class word is empty; say what the subject is, such as --subject dog")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `FinetuneCommandConfig`."""
    add_dataclass_arguments(parser, FinetuneCommandConfig)


def add_dependent_arguments(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Adds the flags of the method that `arguments` name, which replace its preset's numbers; other methods' are
    refused by name.
    """
    name = _method_of(arguments)
    numbers = _numbers(name)
    titles = {
        f"{name} (default: the preset's numbers; --method NAME --help shows another method's)": [
            key for key in numbers if key not in CLASS_IMAGE_SETTINGS
        ],
        f"{name}: how the images of the class are generated": [key for key in numbers if key in CLASS_IMAGE_SETTINGS],
    }
    for title, keys in titles.items():
        skip = {field.name for field in fields(METHOD_CONFIGS[name])} - {*keys}
        add_dataclass_arguments(parser, METHOD_CONFIGS[name], skip=skip, show_defaults=False, title=title)
    others = {key for other in TRAINED for key in _numbers(other)} - {*numbers}
    for key in sorted(others):
        flags = [flag_of(key), flag_of(f"no_{key}")]
        parser.add_argument(
            *flags, action=_Refused, nargs="?", default=argparse.SUPPRESS, help=argparse.SUPPRESS, metavar=name
        )


class _Refused(argparse.Action):
    """A flag of another method than the chosen one, which is this action's metavar."""

    def __call__(self, parser: object, namespace: object, values: object, option_string: str | None = None) -> None:
        flag = flag_of(self.dest)
        owners = " or ".join(other for other in TRAINED if self.dest in _numbers(other))
        raise InputError(f"{self.metavar} has no {flag}; leave it out, or use it with --method {owners}")


def _method_of(arguments: Sequence[str]) -> str:
    """The last `--method` of a command line, else the default."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--method", default=FinetuneCommandConfig.method)
    try:
        name: str = parser.parse_known_args(list(arguments))[0].method
    except argparse.ArgumentError:
        return FinetuneCommandConfig.method  # a --method without a value: the whole parser says so
    if name not in TRAINED:
        raise InputError(f"--method {name!r} cannot be fine-tuned; known are {', '.join(TRAINED)}")
    return name


def _numbers(name: str) -> list[str]:
    """The settings of a method that its fit depends on and that the command has no other flag for."""
    skip = {"snapshots", "start", "prompt_reps"}
    if name == "dreambooth-lora":
        skip |= {"train_text_encoder"}
    if not issubclass(METHOD_CONFIGS[name], PriorConfig):
        skip |= {*CLASS_IMAGE_SETTINGS}  # they would change generation alone, and `bdkit generate` has them
    return [field.name for field in fields(METHOD_CONFIGS[name]) if field.name not in skip]


def run(args: argparse.Namespace) -> int:
    """Fine-tunes, or resumes a fit, then writes the folder in one step."""
    from bdkit.methods import build_method
    from bdkit.methods.base import TrainedMethod
    from bdkit.training.finetuning import Work
    from bdkit.training.tracking import Tracking

    config = config_from_args(FinetuneCommandConfig, args)
    out = config.out or Path(f"my-{safe_name(config.subject)}")
    overrides = given_fields(METHOD_CONFIGS[config.method], args)
    if "model" in given_fields(CheckpointConfig, args):
        overrides["start"] = None  # the model that the user names, not the one that the preset starts from
    check_free(out, overwrite=config.overwrite, ignore=WORK, inputs=config.images)
    if out.resolve() in config.images.resolve().parents:
        raise InputError(f"--out {out} would replace {config.images}, which it contains; choose another --out")
    paths = list_images(config.images)
    images = [read_image(path) for path in paths]
    method = build_method(
        config.method, config.model, preset=config.preset, options=config.options, **overrides, snapshots=()
    )
    assert isinstance(method, TrainedMethod)
    _check_class_images(overrides, method.settings)
    method.progress = True
    fit = {
        "method": method.settings,
        "subject": config.subject,
        "seed": config.seed,
        "dtype": config.dtype,
        "images": {path.name: file_hash(path) for path in paths},
    }
    log = out.with_name(f"{out.name}-log")  # saving replaces all of `out`
    tracking = None if config.log_with is None else Tracking(config.log_with, log / "log", every=config.log_every)
    with _work(out, fit, config.overwrite) as folder:
        method.work = Work(folder=folder, seconds=config.checkpoint_seconds, tracking=tracking)
        method.fit(images, config.subject, config.seed)
    method.save(out)
    if method.stopping_reason:
        print(f"Took {method.chosen_steps} steps: {method.stopping_reason}.")
    print(_next_command(config, out, method.settings))
    return 0


def _check_class_images(overrides: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuses flags for images of the class where there are to be none."""
    useless = [flag_of(key) for key in (*CLASS_IMAGE_SETTINGS, "class_images") if overrides.get(key)]
    if useless and not settings.get("prior_loss_weight"):
        raise InputError(
            f"{', '.join(useless)}: there are no images of the class, because prior_loss_weight is 0; give "
            "--prior-loss-weight 1 too, or leave it out"
        )


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
    from bdkit.checkpoints.files import KEY_VALUES, WORD

    line = f'bdkit generate --model {out} --prompt "a {{}} in the snow" --seeds 0-3 --out images'
    text = f"{out} knows this {config.subject} now; an example:\n{line}"
    if config.method == "blip-diffusion":
        return text
    if "placeholder_token" in settings:
        words = placeholder_words(settings["placeholder_token"], config.subject, settings["with_class_noun"])
        call = f'pipe.load_textual_inversion("{out}", weight_name="{WORD}")'
        if config.method == "custom-diffusion":
            call += f'; pipe.unet.load_attn_procs("{out}", weight_name="{KEY_VALUES}", _pipeline=pipe)'
    else:
        words = f"{settings['token']} {config.subject}"
        call = f'pipe.load_lora_weights("{out}")'
    text += f'\n{{}} stands for "{words}", so "a {words} in the snow" is the same.'
    return text if config.method == "dreambooth" else f"{text}\nWith diffusers: {call}"
