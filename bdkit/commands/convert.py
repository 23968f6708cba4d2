"""`bdkit convert`: a checkpoint from one layout to another."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bdkit.checkpoints.load import RECORD, add_controlnet, resolve
from bdkit.checkpoints.loading import DTYPES
from bdkit.commands.outputs import check_free
from bdkit.editing.structure_control import has_own_controlnet, load_controlnet
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.testing.tiny_checkpoints import WRITERS
from bdkit.utils.config import add_dataclass_arguments, config_from_args
from bdkit.utils.errors import InputError

NAMES = {"bdkit": "bdkit's layout", "diffusers": "the public diffusers layout", "lavis": "LAVIS's layout"}
# How each foreign layout's own code prepares a subject's image, whatever the file says
OWN_RESIZE = {"diffusers": "squash", "lavis": "torchvision"}


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """What becomes what.

    to: layout to write: bdkit, diffusers or lavis; none: bdkit's, or of a folder in bdkit's the public diffusers one
    base: Stable Diffusion 1.5 folder, for what a LAVIS checkpoint lacks
    qformer_tokenizer: folder of bert-base-uncased's tokenizer, which the public checkpoints lack
    subject: class word of a fine-tuned LAVIS subject, which its files do not tell
    dtype: of the weights that are written: float32, float16 or bfloat16
    """

    to: Literal["bdkit", "diffusers", "lavis"] | None = None
    base: str | None = None
    qformer_tokenizer: str | None = None
    subject: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds IN, OUT and the flags of `ConvertConfig`."""
    parser.add_argument("source", metavar="IN", help="folder, LAVIS tar, hub id, or name of a shipped model")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    add_dataclass_arguments(parser, ConvertConfig)
    parser.add_argument("--overwrite", action="store_true", help="replace what OUT holds")


def run(args: argparse.Namespace) -> int:
    """Reads all of the checkpoint, then writes the folder in one step."""
    config = config_from_args(ConvertConfig, args)
    check_free(args.out, args.overwrite)
    folder = resolve(args.source)
    if args.out.resolve() == folder.resolve():
        raise InputError(f"{args.out} is the checkpoint itself; choose another folder to write")
    target = config.to or ("diffusers" if (folder / RECORD).exists() else "bdkit")
    model = BlipDiffusion.from_pretrained(args.source, base=config.base, qformer_tokenizer=config.qformer_tokenizer)
    if config.subject is not None:
        if model.subject_embeddings is None:
            raise InputError(f"{args.source} holds no fine-tuned subject; leave --subject out")
        model.subject_class = config.subject
    controlled = has_own_controlnet(folder)
    net = load_controlnet(folder if (folder / "controlnet").is_dir() else args.source) if controlled else None
    WRITERS[target](model, args.out, DTYPES[config.dtype])
    if net is not None and target != "lavis":
        add_controlnet(args.out, net, DTYPES[config.dtype])
    print(f"{args.out} holds {args.source} in {NAMES[target]}.")
    if net is not None and target == "lavis":
        print(f"It has no place for the ControlNet; give it with --controlnet {args.source}.")
    resize = model.conventions.pixels.resize
    if target in OWN_RESIZE and resize != OWN_RESIZE[target]:
        print(
            f"Its own code prepares images of a subject that are not square differently ({OWN_RESIZE[target]}, not "
            f"{resize}); give it square ones for the same result."
        )
    return 0
