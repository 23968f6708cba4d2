"""Rows -> methods: bdkit's by name, classes of your own by "my_package.my_module:MyMethod"."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from bdkit.checkpoints.files import LoadOptions
from bdkit.methods import METHODS, Method, build_method, method_config
from bdkit.methods.own import as_method, build_own, own_arguments
from bdkit.methods.presets import METHOD_PRESETS
from bdkit.training.config import AUTO
from bdkit.utils.errors import InputError
from eval.experiments import BenchConfig, Row

Methods = Mapping[str, Callable[..., Any]]
"""Method name -> what is called with model=... and a row's overrides; None, where allowed, for bdkit's own."""

_last: tuple[tuple[str, str], Method] | None = None
"""The method of this process's last task, with its model and `Row.group`: building one can take longer than a task."""


def check_methods(config: BenchConfig, methods: Methods | None = None) -> None:
    """Raises InputError for a row whose method or overrides do not exist, before anything is loaded or written."""
    for row in config.chosen_rows:
        try:
            if methods is not None and row.method in methods:
                continue
            if row.is_own:
                own_arguments(row.method, config.model, row.overrides)
            elif methods is not None:
                raise InputError(f"unknown method {row.method!r}; known are {', '.join(methods)}")
            else:
                _check_overrides(row)
        except InputError as error:
            raise InputError(f"row {row.name!r}: {error}") from error


def _check_overrides(row: Row) -> None:
    """Raises InputError when no preset takes them; which one it is, the model says when it is loaded."""
    if row.method not in METHODS:
        raise InputError(
            f"unknown method {row.method!r}; known are {', '.join(METHODS)}, or my_package.my_module:MyMethod"
        )
    errors = []
    for preset in METHOD_PRESETS:
        try:
            method_config(row.method, preset, **row.overrides)
        except InputError as error:
            errors.append(error)
    if len(errors) == len(METHOD_PRESETS):
        raise errors[0]


def method_of(config: BenchConfig, row: Row, methods: Methods | None) -> Method:
    """The method of a row, kept until another is asked for."""
    global _last
    key = (config.model, f"{row.group} {config.drawing}")
    if _last is None or _last[0] != key:
        forget_method()  # first, so that two are never in memory
        if methods is not None and row.method in methods:
            method = as_method(methods[row.method](model=config.model, **row.overrides), row.method)
        elif row.is_own:
            method = build_own(row.method, config.model, row.overrides)
        else:
            options = LoadOptions(
                dtype=getattr(torch, config.dtype), channels_last=config.channels_last, compiled=config.compile
            )
            method = build_method(row.method, model=config.model, options=options, **row.overrides)
        _last = key, method
    return _last[1]


def check_snapshot(row: Row, method: Method) -> None:
    """Raises InputError for a snapshot that the row's method will not keep."""
    if row.snapshot is not None and row.overrides.get("steps") == AUTO:
        raise InputError(f"row {row.name!r}: with steps auto the last weights alone are kept; leave the snapshot out")
    kept = method.snapshots or (0,)
    if row.snapshot is not None and row.snapshot not in kept:
        known = f"it keeps those of {', '.join(map(str, kept))}" if method.snapshots else "leave the snapshot out"
        raise InputError(f"row {row.name!r}: {row.method} keeps no weights of step {row.snapshot}; {known}")


def forget_method() -> None:
    """Frees the memory of the last method."""
    global _last
    _last = None
