"""Config dataclasses as command-line flags: one definition serves the flag, the notebook and the saved run.json."""

import argparse
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

from bdkit.utils.errors import InputError

Config = TypeVar("Config")
NoneType = type(None)


def add_dataclass_arguments(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    config_class: type,
    skip: Collection[str] = (),
    show_defaults: bool = True,
) -> None:
    """Adds one flag a field of a config dataclass to `parser`: field `num_steps` becomes `--num-steps`.

    Fields may be str, int, float, bool (`--flag` / `--no-flag`), Path, a Literal, a tuple of one of these (written with
    commas) or any of them `| None` (written `none`). The help is the field's `metadata["help"]`, else the line
    `name: text` of the class docstring. A flag that is not given leaves no trace in the namespace, so that
    `config_from_args` can start from a preset; the class's own defaults are then better not shown.

    Raises TypeError for a field of another type that is not named in `skip`.
    """
    hints = typing.get_type_hints(config_class)
    documented = _docstring_fields(config_class)
    for field in dataclasses.fields(config_class):
        if field.name in skip:
            continue
        flag = "--" + field.name.replace("_", "-")
        text = field.metadata.get("help", documented.get(field.name, ""))
        text = f"{text}{_default_text(field) if show_defaults else ''}".strip().replace("%", "%%")
        if hints[field.name] is bool:
            parser.add_argument(
                flag, dest=field.name, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
            )
            continue
        convert = _converter(hints[field.name], field.name)
        metavar = field.name.rsplit("_", 1)[-1].upper()
        parser.add_argument(
            flag, dest=field.name, type=convert, default=argparse.SUPPRESS, metavar=metavar, help=text or None
        )


def config_from_args(config_class: type[Config], args: argparse.Namespace, base: Config | None = None) -> Config:
    """The config that the given flags describe; fields without a flag come from `base`, else from the defaults.

    Raises InputError when a field has neither, or when the config's own checks refuse a value.
    """
    given = given_fields(config_class, args)
    if base is not None:
        return dataclasses.replace(base, **given)  # type: ignore[type-var]
    for field in dataclasses.fields(config_class):  # type: ignore[arg-type]
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in given:
            raise InputError(f"--{field.name.replace('_', '-')} is missing; give it a value")
    return config_class(**given)


def given_fields(config_class: type, args: argparse.Namespace) -> dict[str, Any]:
    """The fields whose flags were given, with their values."""
    names = [field.name for field in dataclasses.fields(config_class)]
    return {name: getattr(args, name) for name in names if hasattr(args, name)}


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


def _default_text(field: "dataclasses.Field[Any]") -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return ""
    if value is None or value == "" or value == ():
        return ""
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return f" (default: {shown})"


def _docstring_fields(config_class: type) -> dict[str, str]:
    """The "name: text" lines of the docstrings of a class and its bases; lines that are indented deeper continue."""
    names = {field.name for field in dataclasses.fields(config_class)}
    found: dict[str, str] = {}
    current, indent = "", 0
    texts = [inspect.cleandoc(base.__doc__ or "") for base in reversed(config_class.__mro__[:-1])]
    for line in "\n".join(texts).splitlines():
        stripped = line.strip()
        here = len(line) - len(line.lstrip())
        match = re.match(r"`{0,2}(\w+)`{0,2}:\s+(.*)", stripped)
        if match and match[1] in names:
            current, indent = match[1], here
            found[current] = match[2]
        elif current and stripped and here > indent:
            found[current] += " " + stripped
        else:
            current = ""
    return found


def _converter(hint: Any, name: str) -> Any:
    """A function from a flag's text to a value of type `hint`; its ValueError becomes argparse's message."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [argument for argument in arguments if argument is not NoneType]
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
    if hint in (str, int, float, Path):
        return hint
    raise TypeError(f"{name}: no flag can be made for {hint}")


def _literal(choices: tuple[Any, ...]) -> Any:
    by_text = {str(choice): choice for choice in choices}

    def convert(text: str) -> Any:
        if text not in by_text:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(by_text)}")
        return by_text[text]

    return _named(convert, "choice")


def _named(function: Any, name: str) -> Any:
    function.__name__ = name
    return function
