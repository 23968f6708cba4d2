"""Whole files or none: everything a run leaves behind is written here, and read back."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bdkit.utils.errors import InputError

UNFINISHED = ".writing-"


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a temporary path and renames the result to `path`, whose folder is made.

    The file appears whole and on the disk, or not at all. Raises InputError when the system refuses (a full disk, no
    permission); after any error the old file is unchanged and nothing new is left behind.
    """
    path, temporary = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # torch.save refuses a name whose only dot is the first
        handle, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=UNFINISHED, suffix=".tmp"
        )  # torch.save refuses a name with a first dot only
        os.close(handle)
        write(Path(temporary))
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError):
            raise InputError(
                f"cannot write {path}: {error.strerror or error}; free some space or choose another place"
            ) from error
        raise


def write_bytes(data: bytes, path: str | Path) -> None:
    """Writes a file atomically."""
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


def write_text(text: str, path: str | Path) -> None:
    """Writes UTF-8 text atomically, line ends as they are."""
    write_bytes(text.encode(), path)


def write_json(value: Any, path: str | Path) -> None:
    """Writes JSON that people can read, atomically; what JSON does not know (a path) becomes its text."""
    write_text(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n", path)


def read_json(path: str | Path) -> dict[str, Any]:
    """The JSON object of a file."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; is this the right folder?") from error
    except (OSError, ValueError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} is not readable JSON ({line}); replace it or remove it") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is no JSON object; replace it or remove it")
    return value


def file_hash(path: str | Path) -> str:
    """The SHA-256 of a file, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_free(folder: Path, *, overwrite: bool, ignore: str = "") -> None:
    """Raises InputError when `folder` is a file, or holds anything but `ignore` and may not be overwritten."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give a folder with --out")
    if not overwrite and folder.is_dir() and any(path.name != ignore for path in folder.iterdir()):
        raise InputError(f"{folder} already holds something; choose another --out, or --overwrite to replace it")


def remove_unfinished(folder: str | Path) -> None:
    """Removes what a killed process was writing under `folder`. No other process may be writing there."""
    for path in Path(folder).rglob(f"{UNFINISHED}*"):
        path.unlink(missing_ok=True)
