"""`bdkit finetune`: learns the subject of your own pictures (Sec. 3.3), or does as the methods it is compared with."""

import argparse
from dataclasses import dataclass, fields
from pathlib import Path

from bdkit.commands.outputs import check_free
from bdkit.configs import add_dataclass_arguments, config_from_args, given_fields
from bdkit.errors import InputError
from bdkit.finetuning import FinetuneConfig
from bdkit.methods import METHODS, build_method, method_config, save_finetuned
from bdkit.methods.base import TrainedMethod
from dreambench.pictures import read_folder


@dataclass(frozen=True, kw_only=True)
class FinetuneCommand:
    """What is learned from what.

    images: folder with one to six pictures of the subject
    subject: class word of the subject, such as dog
    out: folder for what was learned; none: my-SUBJECT
    method: blip-diffusion (the embedding and the U-Net, few steps), dreambooth, dreambooth-lora or textual-inversion
    model: folder or id of a model, or the name of a shipped one; all but blip-diffusion can start from a plain Stable
        Diffusion v1
    preset: which settings to start from: mini, paper or public; none: the model's own
    seed: another seed, another run
    """

    images: Path
    subject: str
    out: Path | None = None
    method: str = "blip-diffusion"
    model: str = "mini"
    preset: str | None = None
    seed: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `FinetuneCommand`, and those of `FinetuneConfig`, which replace the preset's numbers."""
    add_dataclass_arguments(parser, FinetuneCommand)
    parser.add_argument("--overwrite", action="store_true", help="replace what --out holds")
    group = parser.add_argument_group("training, in place of the preset's numbers")
    add_dataclass_arguments(group, FinetuneConfig, skip=["snapshots"], show_defaults=False)


def run(args: argparse.Namespace) -> int:
    """Fine-tunes, then writes the folder in one step."""
    config = config_from_args(FinetuneCommand, args)
    out = config.out or Path(f"my-{config.subject.replace(' ', '-')}")
    overrides = given_fields(FinetuneConfig, args)
    _check_method(config.method, overrides)
    check_free(out, args.overwrite)
    images = read_folder(config.images)
    method = build_method(config.method, config.model, preset=config.preset, **overrides, snapshots=())
    assert isinstance(method, TrainedMethod)
    method.progress = True
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


def _how_to_draw(config: FinetuneCommand, out: Path, method: TrainedMethod) -> str:
    """The next line to type."""
    settings = method.settings
    if config.method == "dreambooth-lora":
        words = f"a {settings['token']} {config.subject} in the snow"
        return f'{out} holds the LoRA; with diffusers: pipe.load_lora_weights("{out}"), then pipe("{words}")'
    if config.method == "textual-inversion":
        words = f"a {settings['placeholder_token']} {config.subject if settings['with_class_noun'] else ''}".strip()
        call = f'pipe.load_textual_inversion("{out}", weight_name="learned_embeds.safetensors")'
        return f'{out} holds the new word; with diffusers: {call}, then pipe("{words} in the snow")'
    place = "{}" if config.method == "blip-diffusion" else f"{settings['token']} {config.subject}"
    line = f'bdkit generate --model {out} --prompt "a {place} in the snow" --seeds 0-3 --out pictures'
    return f"{out} draws this {config.subject} now, for example:\n{line}"
