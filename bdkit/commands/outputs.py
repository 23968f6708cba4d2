"""What the commands that write share."""

from pathlib import Path

from bdkit.errors import InputError


def check_free(out: Path, overwrite: bool) -> None:
    """Raises InputError when `out` is a file, or a folder that holds something and `overwrite` is False."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder with --out")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise InputError(f"{out} already holds something; choose another --out, or --overwrite to replace it")


def check_class_noun(class_noun: str, known: list[str] | None) -> None:
    """Raises InputError when a model says which class words it knows, and `class_noun` is none of them."""
    if known and class_noun not in known:
        raise InputError(f"this model does not know the class word {class_noun!r}; it knows {', '.join(known)}")
