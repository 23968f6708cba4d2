"""Methods by name. A new one is a file here, a line in `METHODS` and its numbers in `presets.py`."""

from dataclasses import fields, replace
from typing import Any

from bdkit.checkpoints.adapters import load_start
from bdkit.checkpoints.files import LoadOptions
from bdkit.methods.base import Method, start_beside
from bdkit.methods.blip_diffusion import BlipDiffusionMethod
from bdkit.methods.custom_diffusion import CustomDiffusion
from bdkit.methods.dreambooth import DreamBooth
from bdkit.methods.dreambooth_lora import DreamBoothLora
from bdkit.methods.presets import DEFAULT_PRESET, METHOD_PRESETS
from bdkit.methods.re_imagen import ReImagen
from bdkit.methods.text_to_image import TextToImage
from bdkit.methods.textual_inversion import TextualInversion
from bdkit.models.latent_diffusion import LatentDiffusion
from bdkit.models.speed import speed_up
from bdkit.training.config import AUTO, FewStepConfig
from bdkit.training.method_config import MethodConfig
from bdkit.utils.config import checked_value
from bdkit.utils.env import pick_device
from bdkit.utils.errors import InputError

METHODS: dict[str, Any] = {
    "base": TextToImage,
    "textual-inversion": TextualInversion,
    "dreambooth": DreamBooth,
    "dreambooth-lora": DreamBoothLora,
    "custom-diffusion": CustomDiffusion,
    "re-imagen": ReImagen,
    "blip-diffusion": BlipDiffusionMethod,
}

__all__ = ["METHODS", "Method", "build_method", "method_config"]


def method_config(name: str, preset: str = DEFAULT_PRESET, **overrides: Any) -> Any:
    """The settings of a method in a preset, with some of them replaced (lists may stand for tuples, as in JSON).

    Fewer steps than the preset's leave out its later snapshots, steps "auto" all of them; no images of the class, the
    loss on them.
    """
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; known are {', '.join(METHODS)}")
    if preset not in METHOD_PRESETS:
        raise InputError(f"unknown preset {preset!r} of methods; known are {', '.join(METHOD_PRESETS)}")
    config: MethodConfig = METHOD_PRESETS[preset][name]
    known = [f.name for f in fields(config)]
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise InputError(f"{name} has no setting {', '.join(unknown)}; it has {', '.join(known)}")
    values = {key: checked_value(config, key, value, f"{name}'s {key}") for key, value in overrides.items()}
    if values.get("class_images") == 0:
        values.setdefault("prior_loss_weight", 0.0)
    if isinstance(config, FewStepConfig) and "steps" in values:
        steps = -1 if values["steps"] == AUTO else values["steps"]
        values.setdefault("snapshots", tuple(step for step in config.snapshots if step <= steps))
    return replace(config, **values)


def build_method(
    name: str,
    model: str | LatentDiffusion,
    *,
    preset: str | None = None,
    device: str | None = None,
    options: LoadOptions | None = None,
    **overrides: Any,
) -> Method:
    """A method on a model.

    Args:
        name: a key of `METHODS`.
        model: the model it starts from: a folder, a shipped model's name, a hub id, or a model in memory. All but
            blip-diffusion can start from a plain Stable Diffusion v1. Where a preset has another ``start``, that is the
            one beside ``model``; without one there, it is ``model``.
        preset: a key of `METHOD_PRESETS`; None: the one that the model's record names, else "paper".
        device: None: the GPU where there is one; a model in memory stays where it is.
        options: how a model that is not in memory is read.
        overrides: settings of the method in place of the preset's.
    """
    method_config(name)  # a wrong name is reported before the weights are read
    given = model if isinstance(model, LatentDiffusion) else load_start(model, options)
    config = method_config(name, preset or given.record.get("method_preset", DEFAULT_PRESET), **overrides)
    start = given
    if config.start is not None:
        beside = start_beside(config.start, given.source)
        if beside is not None:
            start = load_start(beside, options, below=given.source)
        elif "start" in overrides:
            start = load_start(config.start, options, below=given.source or None)
        else:
            config = replace(config, start=None)
    if device is None and not isinstance(model, LatentDiffusion):
        device = pick_device()
    start.to(given.device if device is None else device)
    if options is not None:
        speed_up(start, channels_last=options.channels_last, compiled=options.compiled)
    built: Method = METHODS[name](start, config)
    return built
