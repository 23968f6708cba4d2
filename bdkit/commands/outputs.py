"""What the commands that write share."""

from pathlib import Path

from bdkit.utils.errors import InputError


def check_free(out: Path, overwrite: bool, *, besides: str = "") -> None:
    """Raises InputError when `out` is a file, or a folder that holds something and `overwrite` is False.

    Args:
        besides: name of what may be there all the same.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder with --out")
    if out.is_dir() and any(path.name != besides for path in out.iterdir()) and not overwrite:
        raise InputError(f"{out} already holds something; choose another --out, or --overwrite to replace it")
