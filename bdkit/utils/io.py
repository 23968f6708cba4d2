"""Whole files or none: everything a run leaves behind is written here."""

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from bdkit.utils.errors import InputError

UNFINISHED = ".writing-"


def write_bytes(data: bytes, path: str | Path) -> None:
    """Writes a file atomically, making its folder: it appears with all of `data` in it, on the disk, or not at all.

    Raises InputError when the disk is full or the place cannot be written; then nothing new is left there.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
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


def remove_unfinished(folder: str | Path) -> None:
    """Removes what a killed process was writing under `folder`. No other process may be writing there."""
    for path in Path(folder).rglob(f"{UNFINISHED}*"):
        path.unlink(missing_ok=True)


def write_text(text: str, path: str | Path) -> None:
    """Writes UTF-8 text atomically, line ends as they are. Raises InputError like `write_bytes`."""
    write_bytes(text.encode(), path)


def write_json(value: Any, path: str | Path) -> None:
    """Writes JSON that people can read, atomically. Raises InputError like `write_bytes`."""
    write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", path)


def read_json(path: str | Path) -> Any:
    """Reads a JSON file. Raises InputError when it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; is this a results folder of `bdkit bench`?") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); delete it and run again") from error
