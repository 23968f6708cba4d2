"""`--control` of `bdkit generate`: which structure of which image is kept, and by which ControlNet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bdkit.editing.structure_control import CONTROLNETS, StructureControl, has_own_controlnet
from bdkit.editing.structures import STRUCTURES, structure_map
from bdkit.utils.errors import InputError
from bdkit.utils.images import read_image
from bdkit.utils.io import file_hash


@dataclass(frozen=True, kw_only=True)
class ControlFlags:
    """Which structures are kept, and how strictly (Sec. 4.2).

    control: structures to keep, such as canny=photo.jpg; canny, depth, hed or scribble; several with commas between
    controlnet: folder or id of the ControlNet of each; none: the model's own for canny, else the public one of its kind
    control_strength: how strictly each structure is kept, 1 as it was trained, 0 not at all
    control_start: share of the steps, 0 to 1, at which each begins
    control_end: share of the steps at which each ends
    control_ready: the images are structure maps already, such as a drawn scribble
    """

    control: tuple[str, ...] = ()
    controlnet: tuple[str, ...] = ()
    control_strength: tuple[float, ...] = (1.0,)
    control_start: tuple[float, ...] = (0.0,)
    control_end: tuple[float, ...] = (1.0,)
    control_ready: bool = False

    def __post_init__(self) -> None:
        if self.controlnet and len(self.controlnet) != len(self.control):
            raise InputError(f"{len(self.controlnet)} --controlnet for {len(self.control)} --control; give as many")


def parse_control(text: str) -> tuple[str, Path]:
    """ "canny=photo.jpg" -> ("canny", Path("photo.jpg")).

    Raises InputError for another form, an unknown structure or a missing file.
    """
    kind, mark, name = text.partition("=")
    if not mark or not name:
        raise InputError(f"--control {text!r} names no image; write it like canny=photo.jpg")
    if kind not in STRUCTURES:
        raise InputError(f"--control {text!r}: unknown structure {kind!r}; known are {', '.join(STRUCTURES)}")
    path = Path(name)
    if not path.is_file():
        raise InputError(f"--control {text!r}: there is no file {name}")
    return kind, path


def control_record(flags: ControlFlags) -> dict[str, str]:
    """The structures by name with the hash of each image, for the run record.

    Raises what `parse_control` raises.
    """
    pairs = [parse_control(text) for text in flags.control]
    return {f"{number}: {kind} of {path.name}": file_hash(path) for number, (kind, path) in enumerate(pairs)}


def make_control(flags: ControlFlags, model: str, height: int, width: int) -> StructureControl | None:
    """The control that the flags ask for, None without any; structures are found at the size that is drawn.

    Args:
        model: name of the model that is controlled, which may have a ControlNet of its own.

    Raises InputError for whatever is missing or does not fit.
    """
    if not flags.control:
        return None
    pairs = [parse_control(text) for text in flags.control]
    paths: list[str] = list(flags.controlnet) or [_usual(kind, model) for kind, _ in pairs]
    maps = []
    for kind, path in pairs:
        picture = read_image(path)
        maps.append(picture if flags.control_ready else structure_map(kind, picture, height, width))
    settings: dict[str, Any] = {
        "strength": flags.control_strength,
        "start": flags.control_start,
        "end": flags.control_end,
    }
    return StructureControl.from_pretrained(paths, maps, **settings)


def _usual(kind: str, model: str) -> str:
    """The model's own ControlNet for edges, where it has one, else the public one of the kind."""
    return model if kind == "canny" and has_own_controlnet(model) else CONTROLNETS[kind]
