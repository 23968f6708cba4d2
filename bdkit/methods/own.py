"""Methods of your own: any class with `fit` and `generate`, by its name "my_package.my_module:MyMethod"."""

import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from bdkit.methods.base import Method
from bdkit.utils.errors import InputError
from bdkit.utils.io import file_hash

NEEDED = {"fit": ("images", "class_noun", "seed"), "generate": ("prompt_template", "class_noun", "seeds")}


class OwnMethod:
    """An object with `fit` and `generate` as a whole `Method`: what else it has is used, what it lacks has a default.

    Its `generate` is called once for each prompt, with one template. Without `snapshots` and `select` it keeps no
    weights of earlier steps; without `state` and `load_state` a fit that was stopped starts again; without `settings`
    its record has the row's overrides alone.

    Args:
        method: the object.
        name: what messages and records call it.
        settings: what its record has besides its own `settings`.
    """

    def __init__(self, method: Any, name: str, settings: Mapping[str, Any] | None = None) -> None:
        for part, arguments in NEEDED.items():
            call = f"{part}({', '.join(arguments)})"
            if not callable(getattr(method, part, None)):
                raise InputError(f"{name} has no {part}; a method needs {call}")
            try:
                inspect.signature(getattr(method, part)).bind(*arguments)
            except TypeError as error:
                raise InputError(f"{name} must have {call}: {error}") from error
        self.method, self.name, self._settings = method, name, dict(settings or {})
        self.snapshots: tuple[int, ...] = tuple(getattr(method, "snapshots", ()))

    def fit(self, images: list[Image.Image], class_noun: str, seed: int) -> None:
        self.method.fit(images, class_noun, seed)

    def select(self, step: int | None) -> None:
        if hasattr(self.method, "select"):
            self.method.select(step)
        elif step is not None:
            raise InputError(f"{self.name} has no select(step); leave the row's snapshot out")

    def generate(self, prompt_template: str | list[str], class_noun: str, seeds: list[int]) -> list[Image.Image]:
        templates = [prompt_template] * len(seeds) if isinstance(prompt_template, str) else prompt_template
        images: list[Image.Image] = []
        for template, group in groupby(zip(templates, seeds, strict=True), key=lambda pair: pair[0]):
            of_prompt = [seed for _, seed in group]
            made = self.method.generate(template, class_noun, of_prompt)
            is_list = isinstance(made, (list, tuple)) and all(isinstance(image, Image.Image) for image in made)
            if not is_list or len(made) != len(of_prompt):
                size = f"{len(made)} images" if is_list else f"{type(made).__name__}"
                raise InputError(
                    f"{self.name}.generate must return a list of {len(of_prompt)} PIL images, one a seed; it returned "
                    f"{size}"
                )
            images += [image.convert("RGB") for image in made]
        return images

    def state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.method.state() if self._has_state else {}
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        if not self._has_state:
            raise InputError(f"{self.name} has no load_state(state) to load a saved fit with")
        self.method.load_state(state)

    @property
    def _has_state(self) -> bool:
        return hasattr(self.method, "state") and hasattr(self.method, "load_state")

    def save(self, folder: str | Path) -> Path:
        raise InputError(f"{self.name} is measured alone; what it learns is not saved")

    @property
    def settings(self) -> dict[str, Any]:
        """JSON: the object's own `settings`, and what it was built with."""
        value = getattr(self.method, "settings", {})
        value = value() if callable(value) else value
        try:
            plain = json.loads(json.dumps(dict(value), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.name}.settings must be a dict of numbers and texts (JSON): {error}") from error
        return {**self._settings, **plain}


def as_method(method: Any, name: str, settings: Mapping[str, Any] | None = None) -> Method:
    """Any object with `fit` and `generate` as a whole method; a method stays as it is."""
    whole = ("snapshots", "fit", "select", "generate", "state", "load_state", "settings")
    if settings is None and all(hasattr(method, part) for part in whole):
        same: Method = method
        return same
    return OwnMethod(method, name, settings)


def find_own(name: str) -> Callable[..., Any]:
    """The class of "my_package.my_module:MyMethod", looked for in the working folder too."""
    module_name, _, attribute = name.partition(":")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if f"{module_name}.".startswith(f"{missing}."):
            raise InputError(
                f"{name}: there is no module {missing!r} in {folder} or among the installed packages; run the command "
                "in the folder that holds it"
            ) from error
        raise InputError(f"{name}: {module_name} imports {missing!r}, which is not installed; install it") from error
    except ImportError as error:
        raise InputError(f"{name}: {module_name} cannot be imported: {error}") from error
    except SyntaxError as error:
        raise InputError(f"{name}: {error.filename}, line {error.lineno}: {error.msg}; mend that line") from error
    own = getattr(module, attribute, None)
    if not callable(own):
        classes = [key for key, value in vars(module).items() if inspect.isclass(value) and hasattr(value, "generate")]
        known = f"; its methods are {', '.join(classes)}" if classes else ""
        raise InputError(f"{name}: {getattr(module, '__file__', module_name)} has no class {attribute!r}{known}")
    lacking = [part for part in NEEDED if isinstance(own, type) and not hasattr(own, part)]
    if lacking:
        calls = " and ".join(f"{part}({', '.join(NEEDED[part])})" for part in lacking)
        raise InputError(f"{name} lacks {calls}; write it")
    return own


def own_arguments(name: str, model: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What the class is built with: the overrides, and the model's name where it has a parameter `model`."""
    signature = inspect.signature(find_own(name))
    arguments = {"model": model, **overrides} if "model" in signature.parameters else dict(overrides)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise InputError(f"{name} cannot be built with the row's overrides: {error}; it takes {signature}") from error
    return arguments


def build_own(name: str, model: str, overrides: Mapping[str, Any]) -> Method:
    """A method of your own; its record names its class, its model and its source file's SHA-256."""
    own, arguments = find_own(name), own_arguments(name, model, overrides)
    settings: dict[str, Any] = {"class": name}
    if "model" in arguments:
        settings["model"] = str(arguments["model"])
    with suppress(OSError, TypeError):  # compiled code has no source
        settings["source_sha256"] = file_hash(inspect.getsourcefile(inspect.unwrap(own)) or "")[:12]
    return as_method(own(**arguments), name, settings)
