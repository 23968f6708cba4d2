"""`bdkit stylize`: the shape of one object, the subject of another: its edges, all else the subject's (Sec. 4.2).

examples:
  bdkit stylize teapot.jpg --images photos-of-my-vase --subject vase --target-subject teapot --out styled
  bdkit stylize drawing.png --model my-dog --structure scribble --control-ready --out styled
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bdkit.checkpoints.config import CheckpointConfig
from bdkit.commands.generate import GenerateConfig, SamplingConfig, SubjectConfig, generate
from bdkit.utils.config import add_dataclass_arguments, config_from_args
from bdkit.utils.images import read_image, write_png

ITS_OWN = ("shape", "structure", "controlnet", "strength", "guided", "control_ready")


@dataclass(frozen=True, kw_only=True)
class StylizeConfig(SubjectConfig, CheckpointConfig, SamplingConfig):
    """Shape and style.

    shape: image of the object whose shape is kept
    structure: what is kept of it
    strength: how strictly it is kept, 1 as it was trained, 0 not at all
    guided: guidance strengthens it, too; shipped ControlNets do so anyway
    controlnet: folder or id of the ControlNet; default: the model's own, a shipped one, the public one
    control_ready: the image is a structure map already, such as a drawn scribble
    prompt: what to draw, with {} where the subject goes
    seeds: one image a seed, such as 0-3,7
    out: folder for the images, source.png, structure.png, strip.png and run.json
    overwrite: replace the images of another command that --out holds
    """

    shape: Path = field(metadata={"positional": True})
    out: Path
    structure: Literal["canny", "depth", "hed", "scribble"] = "canny"
    strength: float = 1.0
    guided: bool = False
    controlnet: str | None = None
    control_ready: bool = False
    prompt: str = "a {}"
    seeds: str = "0"
    overwrite: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `StylizeConfig`."""
    add_dataclass_arguments(parser, StylizeConfig)


def run(args: argparse.Namespace) -> int:
    """Generates the images under structure control, and shows them beside the source and its structure."""
    config = config_from_args(StylizeConfig, args)
    source = read_image(config.shape)
    shared = {name: value for name, value in vars(config).items() if name not in ITS_OWN}
    code = generate(
        GenerateConfig(
            **shared,
            control=(f"{config.structure}={config.shape}",),
            controlnet=() if config.controlnet is None else (config.controlnet,),
            control_strength=(config.strength,),
            control_guided=config.guided,
            control_ready=config.control_ready,
        )
    )
    from PIL import Image, ImageOps

    from bdkit.editing.interpolation import strip
    from bdkit.editing.structures import structure_map

    images = [read_image(path) for path in sorted(config.out.glob("[0-9]*.png"))]
    size = images[0].size
    fitted = ImageOps.fit(source, size, Image.Resampling.BICUBIC)
    kept = source.resize(size) if config.control_ready else structure_map(config.structure, source, size[1], size[0])
    for name, image in {"source": fitted, "structure": kept, "strip": strip([fitted, kept, *images])}.items():
        write_png(image, config.out / f"{name}.png")
    return code
