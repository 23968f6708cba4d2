"""Whole files or none: everything a run leaves behind is written here, and read back."""

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bdkit.utils.errors import InputError

UNFINISHED = ".writing-"
RUN_FILE = "run.json"
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
NAME_BYTES = 200
WINDOWS_RESERVED = ("CON", "PRN", "AUX", "NUL", *(f"{name}{n}" for name in ("COM", "LPT") for n in range(1, 10)))


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
    """Writes UTF-8 text atomically, line ends as they are.

    What is not Unicode (half of a file name in another encoding) is written like \\udce9, which JSON reads back.
    """
    write_bytes(text.encode(errors="backslashreplace"), path)


def write_json(value: Any, path: str | Path) -> None:
    """Writes JSON that people can read, atomically; what JSON does not know (a path) becomes its text."""
    write_text(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n", path)


def read_json(path: str | Path) -> dict[str, Any]:
    """The JSON object of a file."""
    try:
        # an editor may have put a byte-order mark before it
        value = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; is this the right folder?") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).strip()
        line = (reason or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} is not readable JSON ({line}); replace it or remove it") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is no JSON object; replace it or remove it")
    return value


def file_hash(path: str | Path) -> str:
    """The SHA-256 of a file, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_writable(folder: str | Path, flag: str = "--out") -> None:
    """Raises InputError when `folder`, which a user gave with `flag`, cannot be made or written."""
    folder = Path(folder)
    try:
        for path in (folder, *folder.parents):
            if path.is_symlink() and not path.exists():
                raise InputError(f"{path} is a link that leads nowhere; choose another {flag}")
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
    except OSError as error:
        raise InputError(f"{folder} cannot be a folder ({error.strerror}); choose another {flag}") from error
    if not nearest.is_dir():
        raise InputError(f"{nearest} is a file; give a folder with {flag}")
    try:  # permissions alone do not tell: root may write anywhere, but not on /proc
        os.rmdir(tempfile.mkdtemp(dir=nearest, prefix=UNFINISHED))
    except OSError as error:
        if error.errno in FULL_DISK:
            raise
        raise InputError(
            f"{nearest} cannot be written to (read-only, or no permission); choose another {flag}"
        ) from error


def check_free(folder: Path, *, overwrite: bool, ignore: str = "", inputs: Path | None = None) -> None:
    """Raises InputError when `folder` cannot be made or written, when it is the folder of the `inputs`, or holds
    anything but `ignore` and what a killed run was writing, and may not be overwritten.
    """
    check_writable(folder)
    if inputs is not None and folder.resolve() == inputs.resolve():
        raise InputError(f"--out {folder} is the folder of the images that are read; choose another --out")
    if overwrite or not folder.is_dir():
        return
    if any(path.name != ignore and not path.name.startswith(UNFINISHED) for path in folder.iterdir()):
        raise InputError(f"{folder} already holds something; choose another --out, or --overwrite to replace it")


def holds_run(folder: Path, record: dict[str, Any]) -> bool:
    """Whether the run.json of `folder` begins with all that `record` says: it is the same run, finished or not."""
    path = folder / RUN_FILE
    saved = read_json(path) if path.exists() else {}
    return bool(saved) and all(saved.get(key) == value for key, value in as_json(record).items())


def as_json(value: Any) -> Any:
    """A value as a JSON file gives it back: lists for tuples, text for paths."""
    return json.loads(json.dumps(value, default=str))


def safe_name(text: str) -> str:
    """A name for a file or folder made of a user's text: one part of a path on every system, "subject" at worst.

    Letters, digits, ".", "_" and "-" stay; anything else, such as "/" or a blank, becomes "-".
    """
    name = re.sub(r"[^\w.-]+", "-", text).strip("-.")
    # systems allow 255 bytes, and some need to add an ending
    name = name.encode()[:NAME_BYTES].decode(errors="ignore").rstrip("-.") or "subject"
    return f"_{name}" if name.partition(".")[0].upper() in WINDOWS_RESERVED else name


def check_name(name: str, what: str) -> str:
    """The name, which becomes one part of a path; InputError for one that would lead elsewhere."""
    bad = name in ("", ".", "..") or re.search(r'[\x00-\x1f\x7f<>:"/\\|?*\ud800-\udfff]', name)
    if bad or name[-1] in ". " or name.partition(".")[0].upper() in WINDOWS_RESERVED or len(name.encode()) > NAME_BYTES:
        shown = name if len(name) <= 40 else name[:40] + "..."
        raise InputError(f"{what} {shown!r} cannot name a folder; use letters, digits, '-' and '_'")
    return name


def printable(text: str) -> str:
    """Text with what cannot be printed or is not Unicode written like \\x07 or \\udce9."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_unicode(text: str) -> bool:
    """Whether a text or file name has only whole characters, and so can be written as UTF-8."""
    return not re.search("[\ud800-\udfff]", text)


def check_unicode(text: str, what: str) -> None:
    """Raises InputError for text that came in another encoding than UTF-8, which no tokenizer takes."""
    if not is_unicode(text):
        raise InputError(f"{what} '{printable(text)}' is not UTF-8; write it in UTF-8")


def remove_unfinished(folder: str | Path) -> None:
    """Removes what a killed process was writing under `folder`. No other process may be writing there."""
    for path in Path(folder).rglob(f"{UNFINISHED}*"):
        path.unlink(missing_ok=True)
