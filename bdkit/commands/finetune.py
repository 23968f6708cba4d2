"""`bdkit finetune`: a model folder that draws the subject of your own pictures (Sec. 3.3)."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from bdkit.commands.outputs import check_free
from bdkit.configs import add_dataclass_arguments, config_from_args, given_fields
from bdkit.finetuning import FinetuneConfig
from bdkit.methods import build_method, save_finetuned
from bdkit.methods.blip_diffusion import BlipDiffusionMethod
from dreambench.pictures import read_folder


@dataclass(frozen=True, kw_only=True)
class FinetuneCommand:
    """What is learned from what.

    images: folder with one to six pictures of the subject
    subject: class word of the subject, such as dog
    out: folder for the fine-tuned model
    model: folder of a model, or the name of a shipped one
    preset: which settings to start from: mini, paper or public; none: the model's own
    seed: another seed, another run
    """

    images: Path
    subject: str
    out: Path
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
    check_free(config.out, args.overwrite)
    images = read_folder(config.images)
    overrides = given_fields(FinetuneConfig, args)
    method = build_method("blip-diffusion", config.model, preset=config.preset, **overrides, snapshots=())
    assert isinstance(method, BlipDiffusionMethod)
    method.progress = True
    method.fit(images, config.subject, config.seed)
    save_finetuned(method, config.out)
    print(f"{config.out} draws this {config.subject} now, for example:")
    print(f'bdkit generate --model {config.out} --prompt "a {{}} in the snow" --seeds 0-3 --out pictures')
    return 0
