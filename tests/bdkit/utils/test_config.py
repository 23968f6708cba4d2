"""Config dataclasses as flags: what a user types is the field's value; where nothing is typed, a preset's shows."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from bdkit.utils.config import add_dataclass_arguments, checked_value, config_from_args, parse_numbers
from bdkit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe.

    num_steps: how many steps are taken,
        counted from the first
    """

    num_steps: int = 80
    learning_rate: float = field(default=5e-5, metadata={"help": "step size, 100% ours"})
    train_text_encoder: bool = False
    scheduler: Literal["pndm", "ddim"] = "pndm"
    out: Path | None = None
    snapshots: tuple[int, ...] = (40, 80)
    least: int | Literal["auto"] = 1


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_dataclass_arguments(parser, Recipe, show_defaults=False)
    return parser.parse_args(arguments)


def test_flags_become_fields_of_the_right_type() -> None:
    args = parse(
        *("--num-steps", "7", "--learning-rate", "1e-3", "--train-text-encoder", "--scheduler", "ddim"),
        *("--out", "x/y", "--snapshots", "1, 2,3"),
    )
    assert config_from_args(Recipe, args) == Recipe(
        num_steps=7, learning_rate=1e-3, train_text_encoder=True, scheduler="ddim", out=Path("x/y"), snapshots=(1, 2, 3)
    )


def test_a_number_or_a_word() -> None:
    assert [config_from_args(Recipe, parse("--least", text)).least for text in ("7", "auto")] == [7, "auto"]
    assert [checked_value(Recipe, "least", value, "least") for value in (7, "auto")] == [7, "auto"]
    for value in ("autom", 7.5, None):
        with pytest.raises(InputError, match="it must be a whole number or 'auto'"):
            checked_value(Recipe, "least", value, "least")
    with pytest.raises(argparse.ArgumentError, match="invalid int or auto value: 'autom'"):
        parse("--least", "autom")


def test_what_is_not_given_comes_from_base_or_defaults_or_is_named() -> None:
    args = parse("--no-train-text-encoder", "--out", "none")
    base = Recipe(num_steps=3, train_text_encoder=True, out=Path("somewhere"))
    assert config_from_args(Recipe, args, base) == Recipe(num_steps=3)
    assert config_from_args(Recipe, parse()) == Recipe()

    @dataclass(frozen=True, kw_only=True)
    class Needy:
        class_noun: str

    with pytest.raises(InputError, match="--class-noun is missing"):
        config_from_args(Needy, argparse.Namespace())


def test_help_comes_from_metadata_and_docstring_of_a_field_or_what_it_inherits() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Longer(Recipe):
        """Another.

        pause: seconds between
        """

        pause: float = 1.0

    parser = argparse.ArgumentParser()
    add_dataclass_arguments(parser, Longer, show_defaults=False)
    text = " ".join(parser.format_help().split())
    assert "--pause X seconds between" in text
    assert "how many steps are taken, counted from the first" in text
    assert "default" not in text
    parser = argparse.ArgumentParser()
    add_dataclass_arguments(parser, Recipe, skip=["out"])
    text = " ".join(parser.format_help().split())
    assert "how many steps are taken, counted from the first (default: 80)" in text
    assert "step size, 100% ours (default: 5e-05)" in text
    assert "--out" not in text


def test_positional_fields_groups_and_metavars() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Cooking(Recipe):
        """Cooking.

        dishes: what is cooked
        """

        dishes: tuple[Path, ...] = field(metadata={"positional": True, "metavar": "DISH"})
        taste: str = field(default="", metadata={"metavar": "WORD"})

    parser = argparse.ArgumentParser()
    add_dataclass_arguments(parser, Cooking)
    text = parser.format_help().partition("positional arguments")[2]
    assert text.index("Cooking:") < text.index("--taste WORD") < text.index("A recipe:") < text.index("--num-steps N")
    assert "--scheduler {pndm,ddim}" in text
    assert config_from_args(Cooking, parser.parse_args(["a", "b"])).dishes == (Path("a"), Path("b"))


@pytest.mark.parametrize("arguments", [("--num-steps", "7.5"), ("--scheduler", "euler"), ("--snapshots", "1,x")])
def test_a_wrong_value_is_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(argparse.ArgumentError):
        parse(*arguments)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0", [0]), ("0-3", [0, 1, 2, 3]), ("0-3,7", [0, 1, 2, 3, 7]), (" 7 , 1 - 2 ,7", [7, 1, 2]), ("2-2", [2])],
)
def test_seeds_are_numbers_and_ranges(text: str, numbers: list[int]) -> None:
    assert parse_numbers(text) == numbers


@pytest.mark.parametrize("text", ["", "a", "1,,2", "3-1", "-1", "1.5", "0-99999999999", "1" * 30, "٣"])
def test_other_seeds_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_numbers(text)
