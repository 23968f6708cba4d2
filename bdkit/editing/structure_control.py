"""ControlNets: the structure of one image, the subject of another (Sec. 3.3, 4.2)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, MultiControlNetModel, UNet2DConditionModel
from huggingface_hub import hf_hub_download
from PIL import Image
from torch import Tensor, nn

from bdkit.checkpoints.files import fill, read_weights
from bdkit.checkpoints.hub import fetch_controlnet, is_hub_id
from bdkit.sampling import Control
from bdkit.utils.errors import InputError
from bdkit.utils.io import read_json
from bdkit.utils.rgb import as_rgb

# Off-the-shelf ControlNets for Stable Diffusion v1-5, used without training, and what its U-Net is
CONTROLNETS = {
    "canny": "lllyasviel/sd-controlnet-canny",
    "depth": "lllyasviel/sd-controlnet-depth",
    "hed": "lllyasviel/sd-controlnet-hed",
    "scribble": "lllyasviel/sd-controlnet-scribble",
}
STABLE_DIFFUSION = {
    "cross_attention_dim": 768,
    "block_out_channels": (320, 640, 1280, 1280),
    "in_channels": 4,
    "layers_per_block": 2,
}
# Those that are shipped, and the structure that they keep
SHIPPED = {"mini-canny": Path(__file__).parents[1] / "weights" / "mini-controlnet-canny"}
Maps = Image.Image | Sequence[Image.Image]


class StructureControl:
    """One or more ControlNets, and the structure maps that they keep; given to a model's call as ``control``.

    The residuals are added to the U-Net's from outside: the model itself is not changed, so the next call without
    control is that of a fresh process. Guidance may be on or off.

    Args:
        controlnets: one or several; their residuals are added up.
        structures: the structure map of each ControlNet (see `structure_map`), resized to the image that is drawn
            as the reference does. For one ControlNet a single map, or a list of one map an image; for several a list
            of such.
        strength: factor of each ControlNet's residuals, at least 0; one for all, or one each.
        start: share of the steps, 0 to 1, at which it begins; one for all, or one each.
        end: share of the steps at which it ends.
        guided: whether guidance strengthens the structure as it does the prompt: the residuals are then added for the
            prompt alone, not for the negative one (as diffusers' ``guess_mode`` does, but without its other factors).
    """

    def __init__(
        self,
        controlnets: ControlNetModel | Sequence[ControlNetModel],
        structures: Maps | Sequence[Maps],
        *,
        strength: float | Sequence[float] = 1.0,
        start: float | Sequence[float] = 0.0,
        end: float | Sequence[float] = 1.0,
        guided: bool = False,
    ) -> None:
        single = not isinstance(controlnets, Sequence)
        nets: list[Any] = [controlnets] if single else list(controlnets)
        given: list[Any] = [structures] if single or isinstance(structures, Image.Image) else list(structures)
        if not nets or len(given) != len(nets):
            raise InputError(f"{len(nets)} ControlNets but {len(given)} structure maps; give one map a ControlNet")
        self.structures = [[maps] if isinstance(maps, Image.Image) else list(maps) for maps in given]
        if not all(self.structures):
            raise InputError("a ControlNet has no structure map; give at least one")
        self.nets, self.guided = MultiControlNetModel(nets).eval(), guided
        self.strength = _one_each("strength", strength, len(nets))
        self.start, self.end = _one_each("start", start, len(nets)), _one_each("end", end, len(nets))
        for value in self.strength:
            if not 0 <= value < math.inf:
                raise InputError(f"the strength of a ControlNet is {value}; use a number of at least 0")
        for begin, stop in zip(self.start, self.end, strict=True):
            if not 0 <= begin < stop <= 1:
                raise InputError(
                    f"a ControlNet runs from {begin} to {stop}; use shares of the steps, 0 <= start < end <= 1"
                )

    @classmethod
    def from_pretrained(
        cls, paths: str | Path | Sequence[str | Path], structures: Maps | Sequence[Maps], **settings: Any
    ) -> StructureControl:
        """Reads the ControlNets; see the class for the other arguments. The shipped ones are ``guided`` by default.

        Args:
            paths: folders or ids, or keys of `CONTROLNETS` or `SHIPPED`: a ControlNet itself, or a model that holds one
                in its folder controlnet/, such as salesforce/blipdiffusion-controlnet.
        """
        named = [paths] if isinstance(paths, (str, Path)) else paths
        settings.setdefault("guided", all(str(path) in SHIPPED for path in named))
        if isinstance(paths, (str, Path)):
            return cls(load_controlnet(paths), structures, **settings)
        return cls([load_controlnet(path) for path in paths], structures, **settings)

    def residuals(self, unet: UNet2DConditionModel, count: int, height: int, width: int, factor: int) -> Control:
        """What `bdkit.sampling.sample` takes as ``control``.

        Args:
            unet: the U-Net that is controlled, to check that the ControlNets belong to it.
            count: number of images that are drawn together.
            height, width: their pixels.
            factor: pixels per latent.
        """
        for net in self.nets.nets:
            _check_fits(net, unet, factor)
        for maps in self.structures:
            if len(maps) not in (1, count):
                raise InputError(f"{len(maps)} structure maps for {count} images; give 1 or as many")
        pixels = [structure_pixels(maps, height, width) for maps in self.structures]
        pixels = [values.expand(count, -1, -1, -1) for values in pixels]

        def at_step(index: int, steps: int, latents: Tensor, timestep: Tensor, context: Tensor) -> dict[str, Any]:
            scales = [
                strength if start <= index / steps and (index + 1) / steps <= end else 0.0
                for strength, start, end in zip(self.strength, self.start, self.end, strict=True)
            ]
            if not any(scales):
                return {}
            nn.Module.to(self.nets, context.device, context.dtype)  # diffusers' own logs a warning each time
            plain = len(latents) - count if self.guided else 0  # of the negative prompt, which come first
            repeats = (len(latents) - plain) // count  # 2 with guidance of both prompts, else 1
            shown = [values.to(context).repeat(repeats, 1, 1, 1) for values in pixels]
            down, middle = self.nets(latents[plain:], timestep, context[plain:], shown, scales, return_dict=False)
            down, middle = [_after_zeros(values, plain) for values in down], _after_zeros(middle, plain)
            return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}

        return at_step


def load_controlnet(path: str | Path) -> ControlNetModel:
    """A ControlNet in float32: a folder, an id or a key of `CONTROLNETS` or `SHIPPED`; or a model's own."""
    source = CONTROLNETS.get(str(path)) or str(SHIPPED.get(str(path), path))
    folder = _controlnet_folder(source)
    settings = read_json(folder / "config.json")
    if settings.get("_class_name", "ControlNetModel") != "ControlNetModel":
        raise InputError(f"no ControlNet at {source!r}: it is a {settings['_class_name']}; give a folder or an id")
    state = read_weights(folder, "controlnet")
    return fill(lambda: ControlNetModel.from_config(settings), state, folder, torch.float32)


def _controlnet_folder(source: str) -> Path:
    """The folder of a ControlNet itself; a model's own is in its controlnet/."""
    folder = Path(source)
    if not folder.is_dir():
        if folder.is_file():
            raise InputError(f"no ControlNet at {source!r}: it is a file; give a folder in diffusers' format, or an id")
        if not is_hub_id(source):
            raise InputError(f"no ControlNet at {source!r}; give a folder, an id or one of {', '.join(CONTROLNETS)}")
        try:
            folder = fetch_controlnet(source)
        except InputError as error:
            raise InputError(f"no ControlNet at {source!r}: {error} (--controlnet)") from None
    for candidate in (folder, folder / "controlnet"):
        if (candidate / "config.json").is_file():
            return candidate
    raise InputError(
        f"no ControlNet at {source!r}: neither config.json nor controlnet/config.json; give another folder"
    )


def default_controlnet(kind: str, model: str | Path, unet: UNet2DConditionModel) -> str:
    """Which ControlNet keeps a structure where none is named: the model's own for edges, a shipped one, the public one.

    Raises:
        InputError: none of these belongs to the U-Net.

    Args:
        kind: a key of `CONTROLNETS`.
        model: where the model was read from.
        unet: its U-Net; a shipped ControlNet must belong to it.
    """
    if kind == "canny" and has_own_controlnet(model):
        return str(model)
    shipped = f"mini-{kind}"
    if shipped in SHIPPED and _mismatch(ControlNetModel.load_config(SHIPPED[shipped]), unet.config) is None:
        return shipped
    if _mismatch(STABLE_DIFFUSION, unet.config) is None:
        return CONTROLNETS[kind]
    raise InputError(
        f"no known ControlNet keeps {kind!r} for the U-Net of {model}; name one of its size with --controlnet "
        f"(shipped: {', '.join(SHIPPED)}, which keeps the mini model's edges)"
    )


def has_own_controlnet(model: str | Path) -> bool:
    """Whether a model names a ControlNet among its parts; a folder that its index does not name is left alone."""
    index = Path(model) / "model_index.json"
    try:
        if not Path(model).is_dir():
            if not is_hub_id(str(model)):
                return False
            index = Path(hf_hub_download(str(model), "model_index.json"))
        return "controlnet" in json.loads(index.read_text())
    except (OSError, ValueError):
        return False


def structure_pixels(maps: Sequence[Image.Image], height: int, width: int) -> Tensor:
    """Structure maps to (N, 3, height, width) in 0..1, resized without keeping the aspect, as the reference does."""
    resized = [as_rgb(m).resize((width, height), Image.Resampling.BICUBIC) for m in maps]
    return torch.from_numpy(np.stack([np.asarray(m) for m in resized])).permute(0, 3, 1, 2).float() / 255


def _after_zeros(values: Tensor, count: int) -> Tensor:
    """(N, ...) residuals behind ``count`` that change nothing."""
    return torch.cat([values.new_zeros(count, *values.shape[1:]), values]) if count else values


def _one_each(name: str, value: float | Sequence[float], count: int) -> list[float]:
    if isinstance(value, (int, float)):
        return [float(value)] * count
    values = [float(v) for v in value]
    if len(values) not in (1, count):
        raise InputError(f"{len(values)} values of {name} for {count} ControlNets; give 1 or as many")
    return values * count if len(values) == 1 else values


def _check_fits(net: ControlNetModel, unet: UNet2DConditionModel, factor: int) -> None:
    name = _mismatch(net.config, unet.config)
    if name is not None:
        raise InputError(
            f"the ControlNet belongs to another U-Net: its {name} is {net.config[name]}, the model's "
            f"{unet.config[name]}; use one for the model's Stable Diffusion"
        )
    shrinks = 2 ** (len(net.config.conditioning_embedding_out_channels) - 1)
    if shrinks != factor:
        raise InputError(f"the ControlNet makes maps {shrinks} times smaller, the model's autoencoder {factor} times")


def _mismatch(net: Mapping[str, Any], unet: Mapping[str, Any]) -> str | None:
    """The first part of their configs in which a ControlNet and a U-Net do not belong together."""
    for name in ("cross_attention_dim", "block_out_channels", "in_channels", "layers_per_block"):
        ours, theirs = (tuple(v) if isinstance(v, (list, tuple)) else v for v in (unet[name], net[name]))
        if ours != theirs:
            return name
    return None
