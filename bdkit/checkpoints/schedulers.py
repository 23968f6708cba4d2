"""The scheduler of a checkpoint: which it may be; and what old files of a plain Stable Diffusion say wrong."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
from diffusers import UNet2DConditionModel

from bdkit.checkpoints.files import reading
from bdkit.sampling import DISTILLED, SAMPLERS
from bdkit.utils.errors import InputError
from bdkit.utils.io import read_json

PREDICTIONS = ("epsilon", "v_prediction", "sample")


def load_scheduler(folder: Path, **changes: Any) -> Any:
    """The diffusers scheduler that a folder names: a sampler of ours, or one that a distilled model needs."""
    settings = {**read_json(folder / "scheduler_config.json"), **changes}
    name = str(settings.get("_class_name"))
    if name not in (*SAMPLERS, *DISTILLED):
        raise InputError(
            f"{folder}/scheduler_config.json names {name!r}, which is no scheduler of diffusers for this kind of "
            f"model; it can be {', '.join((*SAMPLERS, *DISTILLED))}"
        )
    path = folder / "scheduler_config.json"
    with reading(path):
        scheduler = getattr(diffusers, name).from_config(settings)
        kind, steps = scheduler.config.prediction_type, scheduler.config.num_train_timesteps
        if kind not in PREDICTIONS:
            raise InputError(f"{path} has the prediction_type {kind!r}; it can be {', '.join(PREDICTIONS)}")
        if len(scheduler.alphas_cumprod) != steps or not scheduler.alphas_cumprod.isfinite().all():
            raise InputError(f"{path} has betas that are no noise schedule of {steps} timesteps; fetch it again")
    return scheduler


def load_plain_scheduler(folder: Path, index: Mapping[str, Any]) -> Any:
    """A plain Stable Diffusion's scheduler, by the class its index names, mended as diffusers' pipeline does.

    Files from before 2023 lack clip_sample, or say steps_offset 0.
    """
    entry = index.get("scheduler")
    name = entry[1] if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str) else None
    settings: dict[str, Any] = {} if name is None else {"_class_name": name}
    config = load_scheduler(folder, **settings).config
    if config.get("steps_offset", 1) != 1:
        settings["steps_offset"] = 1
    if config.get("clip_sample", False) is True:
        settings["clip_sample"] = False
    return load_scheduler(folder, **settings)


def mend_sample_size(unet: UNet2DConditionModel) -> None:
    """U-Nets of diffusers before 0.9 say a size of 32 or so where 64 is meant; diffusers' pipeline mends that, too."""
    version, side = re.match(r"(\d+)\.(\d+)", str(unet.config.get("_diffusers_version"))), unet.config.sample_size
    old = version is not None and (int(version[1]), int(version[2])) < (0, 9)
    if old and isinstance(side, int) and side < 64:
        unet.register_to_config(sample_size=64)
