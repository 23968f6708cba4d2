"""Config dataclasses as command-line flags: one definition serves the flag, the notebook and the saved run.json."""

import argparse
import dataclasses
import inspect
import math
import numbers
import re
import types
import typing
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

from bdkit.utils.errors import InputError

Config = TypeVar("Config")
NoneType = type(None)
METAVARS: dict[Any, str] = {int: "N", float: "X", Path: "PATH"}


def add_dataclass_arguments(
    parser: argparse.ArgumentParser,
    config_class: type,
    skip: Collection[str] = (),
    *,
    show_defaults: bool = True,
    title: str | None = None,
) -> None:
    """Adds one flag a field of a config dataclass to `parser`: field `num_steps` becomes `--num-steps`.

    Fields may be str, int, float, bool (`--flag`, and `--no-flag` where it may be on), Path, a Literal, a tuple of one
    of these (written with commas), any of them `| None` (written `none`) or `| Literal["word"]` (written as the word).
    The help is the field's `metadata["help"]`, else the line `name: text` of the class docstring.
    `metadata["positional"]` makes an argument without `--`; of a tuple, several words. Fields stand in a group of their
    class, under the first line of its docstring, or all under `title`. A flag that is not given leaves no trace in the
    namespace, so that `config_from_args` can start from a preset; the class's own defaults are then better not shown.

    Raises TypeError for a field of another type that is not named in `skip`.
    """
    hints = typing.get_type_hints(config_class)
    documented = _docstring_fields(config_class)
    groups: dict[str, Any] = {}
    for field in sorted(dataclasses.fields(config_class), key=lambda field: _depth(config_class, field.name)):
        if field.name in skip:
            continue
        text = field.metadata.get("help", documented.get(field.name, ""))
        text = f"{text}{_default_text(field) if show_defaults else ''}".strip().replace("%", "%%")
        shared: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text or None}
        if field.metadata.get("positional"):
            parser.add_argument(field.name, **shared, **_positional(field, hints[field.name]))
            continue
        heading = title or _title(config_class.__mro__[_depth(config_class, field.name)])
        if heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        if hints[field.name] is bool:
            only_on = show_defaults and field.default is False
            shared |= {"action": "store_true" if only_on else argparse.BooleanOptionalAction}
        else:
            shared["type"] = _converter(hints[field.name], field.name)
            shared["metavar"] = _metavar(field, hints[field.name])
        groups[heading].add_argument(flag_of(field.name), dest=field.name, **shared)


def config_from_args(config_class: type[Config], args: argparse.Namespace, base: Config | None = None) -> Config:
    """The config that the given flags describe; fields without a flag come from `base`, else from the defaults."""
    given = given_fields(config_class, args)
    if base is not None:
        return dataclasses.replace(base, **given)  # type: ignore[type-var]
    for field in dataclasses.fields(config_class):  # type: ignore[arg-type]
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in given:
            raise InputError(f"{flag_of(field.name)} is missing; give it a value")
    return config_class(**given)


def given_fields(config_class: type, args: argparse.Namespace) -> dict[str, Any]:
    """The fields whose flags were given, with their values."""
    names = [field.name for field in dataclasses.fields(config_class)]
    given = {name: getattr(args, name) for name in names if hasattr(args, name)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def checked_value(config_class: Any, name: str, value: Any, label: str) -> Any:
    """A value of JSON or of a caller as a field of a config takes it: a list becomes a tuple, a whole number a float.

    Raises InputError, which begins with `label`, for a value of another type.
    """
    hint = typing.get_type_hints(config_class if isinstance(config_class, type) else type(config_class))[name]
    for option in typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,):
        if (fitting := _as_type(option, value)) is not None or (value is None and option is NoneType):
            return fitting
    raise InputError(f"{label} is {value!r}; it must be {_type_text(hint)}")


def _as_type(hint: Any, value: Any) -> Any:
    """`value` as type `hint` has it; None where it does not fit."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        items = [_as_type(arguments[0], item) for item in value] if isinstance(value, (list, tuple)) else [None]
        return None if None in items else tuple(items)
    if origin is typing.Literal:
        return value if value in arguments else None
    if hint is str and isinstance(value, Path):
        return str(value)
    if hint is bool or isinstance(value, bool):
        return value if hint is bool and isinstance(value, bool) else None
    if hint is int and isinstance(value, numbers.Integral):
        return int(value)
    if hint is float and isinstance(value, numbers.Real):
        return float(value)
    return value if hint in (str, Path) and isinstance(value, hint) else None


def _type_text(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_text(argument) for argument in arguments)
    if origin is tuple:
        return f"a list, each {_type_text(arguments[0])}"
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, arguments))}" if len(arguments) > 1 else repr(arguments[0])
    names = {bool: "true or false", int: "a whole number", float: "a number", NoneType: "null"}
    return names.get(hint, "text")


def flag_of(name: str) -> str:
    """The flag of a field."""
    return "--" + name.replace("_", "-")


def parse_numbers(text: str) -> list[int]:
    """Reads "0-3,7" as [0, 1, 2, 3, 7]: whole numbers >= 0 and ranges with both ends, each number once, in order.

    Raises InputError for anything else, and for more than 100,000 numbers.
    """
    numbers: dict[int, None] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})(?:\s*-\s*(\d{1,18}))?\s*", part, re.ASCII)
        if match is None:
            raise InputError(f"{text!r} is not a list of whole numbers; write it like 0-3,7")
        first = int(match[1])
        last = int(match[2] or match[1])
        if last < first:
            raise InputError(f"the range {part.strip()!r} runs backwards; write it like {last}-{first}")
        if last - first + len(numbers) >= 100_000:
            raise InputError(f"{text!r} names more than 100,000 numbers; ask for fewer at a time")
        numbers.update(dict.fromkeys(range(first, last + 1)))
    return list(numbers)


def _depth(config_class: type, name: str) -> int:
    """Where in the class's order of resolution a field is defined: 0 for the class's own."""
    return next(i for i, base in enumerate(config_class.__mro__) if name in inspect.get_annotations(base))


def _title(config_class: type) -> str:
    return inspect.cleandoc(config_class.__doc__ or "options").splitlines()[0].rstrip(".")


def _positional(field: "dataclasses.Field[Any]", hint: Any) -> dict[str, Any]:
    name = field.metadata.get("metavar", field.name.upper())
    if typing.get_origin(hint) is tuple:
        return {"type": _converter(typing.get_args(hint)[0], field.name), "nargs": "+", "metavar": name}
    optional = field.default is not dataclasses.MISSING
    return {"type": _converter(hint, field.name), "metavar": name, **({"nargs": "?"} if optional else {})}


def _metavar(field: "dataclasses.Field[Any]", hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if "metavar" in field.metadata:
        return str(field.metadata["metavar"])
    if origin in (typing.Union, types.UnionType):
        return _metavar(field, arguments[0])
    if origin is tuple:
        item = _metavar(field, arguments[0])
        return f"{item},..."
    if origin is typing.Literal:
        return "{" + ",".join(map(str, arguments)) + "}"
    return METAVARS.get(hint, field.name.rsplit("_", 1)[-1].upper())


def _default_text(field: "dataclasses.Field[Any]") -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return ""
    if value is None or value == "" or value == () or isinstance(value, bool):
        return ""
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return f" (default: {shown})"


def _docstring_fields(config_class: type) -> dict[str, str]:
    """The "name: text" lines of the docstrings of a class and its bases; lines that are indented deeper continue."""
    names = {field.name for field in dataclasses.fields(config_class)}
    texts: dict[str, str] = {}
    current, indent = "", 0
    docstrings = [inspect.cleandoc(base.__doc__ or "") for base in reversed(config_class.__mro__[:-1])]
    for line in "\n".join(docstrings).splitlines():
        stripped = line.strip()
        depth = len(line) - len(line.lstrip())
        match = re.match(r"`{0,2}(\w+)`{0,2}:\s+(.*)", stripped)
        if match and match[1] in names:
            current, indent = match[1], depth
            texts[current] = match[2]
        elif current and stripped and depth > indent:
            texts[current] += " " + stripped
        else:
            current = ""
    return texts


def _converter(hint: Any, name: str) -> Callable[[str], Any]:
    """A function from a flag's text to a value of type `hint`; its ValueError becomes argparse's message."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [argument for argument in arguments if argument is not NoneType]
        if len(inner) == 2 and NoneType not in arguments and typing.get_origin(inner[1]) is typing.Literal:
            return _number_or_word(_converter(inner[0], name), typing.get_args(inner[1]))
        if len(inner) != 1 or NoneType not in arguments:
            raise TypeError(f"{name}: no flag can be made for {hint}")
        convert_inner = _converter(inner[0], name)
        return _named(lambda text: None if text.lower() == "none" else convert_inner(text), convert_inner.__name__)
    if origin is tuple:
        if len(arguments) != 2 or arguments[1] is not Ellipsis:
            raise TypeError(f"{name}: no flag can be made for {hint}")
        convert_item = _converter(arguments[0], name)
        return _named(
            lambda text: tuple(convert_item(part.strip()) for part in text.split(",") if part.strip()),
            f"{convert_item.__name__} list",
        )
    if origin is typing.Literal:
        return _literal(arguments)
    if hint is float:
        return _named(_finite, "float")
    if hint is Path:
        return _named(_path, "path")
    if hint in (str, int):
        return typing.cast(Callable[[str], Any], hint)
    raise TypeError(f"{name}: no flag can be made for {hint}")


def _path(text: str) -> Path:
    # of an empty text, as of a variable that a script has not set, pathlib makes the current folder
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty; name a file or folder")
    return Path(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def _literal(choices: tuple[Any, ...]) -> Callable[[str], Any]:
    by_text = {str(choice): choice for choice in choices}

    def convert(text: str) -> Any:
        if text not in by_text:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(by_text)}")
        return by_text[text]

    return _named(convert, "choice")


def _number_or_word(convert: Callable[[str], Any], words: tuple[Any, ...]) -> Callable[[str], Any]:
    return _named(lambda text: text if text in words else convert(text), " or ".join([convert.__name__, *words]))


def _named(function: Any, name: str) -> Callable[[str], Any]:
    function.__name__ = name
    return typing.cast(Callable[[str], Any], function)
