"""`bdkit convert`: a checkpoint from one format to another.

examples:
  bdkit convert salesforce/blipdiffusion blip-diffusion --qformer-tokenizer bert-base-uncased/
  bdkit convert my-dog my-dog-diffusers --to diffusers --dtype float16
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bdkit.utils.config import add_dataclass_arguments, config_from_args
from bdkit.utils.errors import InputError
from bdkit.utils.io import check_free

NAMES = {"bdkit": "bdkit's format", "diffusers": "the public diffusers format", "lavis": "LAVIS's format"}
# How each foreign format's own code resizes a subject's image, whatever the file says
RESIZE = {"diffusers": "squash", "lavis": "torchvision"}


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Formats.

    source: folder, LAVIS tar, hub id, or name of a shipped model; or a file: a whole Stable Diffusion 1.5, or a LoRA or
        a learned word, which become part of --base
    out: folder to write
    to: format to write (default: bdkit; of a folder in bdkit's format, and of a Stable Diffusion: diffusers)
    base: Stable Diffusion 1.5 folder, for what a LAVIS checkpoint or a single file lacks; of a LoRA or a learned word:
        the model it goes on top of
    qformer_tokenizer: folder of bert-base-uncased's tokenizer, which the public checkpoints lack
    subject: class word of a fine-tuned LAVIS subject, which its files do not name
    dtype: of the weights that are written
    overwrite: replace what OUT holds
    """

    source: str = field(metadata={"positional": True, "metavar": "IN"})
    out: Path = field(metadata={"positional": True})
    to: Literal["bdkit", "diffusers", "lavis"] | None = None
    base: str | None = None
    qformer_tokenizer: str | None = None
    subject: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    overwrite: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds IN, OUT and the flags of `ConvertConfig`."""
    add_dataclass_arguments(parser, ConvertConfig)


def run(args: argparse.Namespace) -> int:
    """Reads all of the checkpoint, then writes the folder in one step."""
    import torch

    from bdkit.checkpoints.adapters import load_start
    from bdkit.checkpoints.files import LoadOptions
    from bdkit.checkpoints.load import RECORD, resolve
    from bdkit.checkpoints.save import WRITERS, add_controlnet
    from bdkit.editing.structure_control import has_own_controlnet, load_controlnet
    from bdkit.models.blip_diffusion import BlipDiffusion

    config = config_from_args(ConvertConfig, args)
    check_free(config.out, overwrite=config.overwrite)
    folder = resolve(config.source)
    if config.out.resolve() == folder.resolve():
        raise InputError(f"{config.out} is the checkpoint itself; choose another folder to write")
    target = config.to or ("diffusers" if (folder / RECORD).exists() else "bdkit")
    model = load_start(config.source, LoadOptions(base=config.base, qformer_tokenizer=config.qformer_tokenizer))
    if not isinstance(model, BlipDiffusion):
        return _write_stable_diffusion(model, config)
    if config.subject is not None:
        if model.subject_embeddings is None:
            raise InputError(f"{config.source} holds no fine-tuned subject; leave --subject out")
        model.subject_class = config.subject
    controlled = has_own_controlnet(folder)
    net = load_controlnet(folder if (folder / "controlnet").is_dir() else config.source) if controlled else None
    dtype = getattr(torch, config.dtype)
    WRITERS[target](model, config.out, dtype)
    if net is not None and target != "lavis":
        add_controlnet(config.out, net, dtype)
    print(f"{config.out} holds {config.source} in {NAMES[target]}.")
    if net is not None and target == "lavis":
        print(f"This format has no room for the ControlNet; give it with --controlnet {config.source}.")
    resize = model.conventions.pixels.resize
    if target in RESIZE and resize != RESIZE[target]:
        print(
            f"The format's own code resizes images of a subject that are not square differently ({RESIZE[target]}, not "
            f"{resize}); give it square ones for the same result."
        )
    return 0


def _write_stable_diffusion(model: Any, config: ConvertConfig) -> int:
    """A plain Stable Diffusion has one format, diffusers' folder; whatever it was read from becomes part of it."""
    import torch

    if config.to not in (None, "diffusers"):
        raise InputError(f"{config.source} is a plain Stable Diffusion, without a subject encoder; use --to diffusers")
    if config.subject is not None:
        raise InputError(f"{config.source} holds no fine-tuned subject; leave --subject out")
    model.save_pretrained(config.out, getattr(torch, config.dtype))
    print(f"{config.out} holds {config.source} in the diffusers format of Stable Diffusion.")
    return 0
