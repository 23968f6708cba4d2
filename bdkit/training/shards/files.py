"""Local paths and fsspec URLs (s3://, hf://, ...) alike, and the bytes of a tar."""

import glob
import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bdkit.utils.errors import InputError

BLOCK = 512
END = bytes(2 * BLOCK)


def is_remote(path: str | Path) -> bool:
    """Whether a path is a URL such as s3://bucket/folder."""
    return "://" in str(path)


def join(folder: str | Path, name: str) -> str:
    """The path of `name` in a folder; `name` itself where it is absolute."""
    if is_remote(name) or os.path.isabs(name):
        return name
    return f"{str(folder).rstrip('/')}/{name}"


def filesystem(path: str | Path) -> tuple[Any, str]:
    """fsspec's file system of a path, and the path in it."""
    import fsspec  # type: ignore[import-untyped]

    try:
        return fsspec.core.url_to_fs(str(path))
    except (ImportError, ValueError) as error:
        raise InputError(f"{path} cannot be opened ({error})") from error


def read_file(path: str, start: int | None = None, size: int | None = None) -> bytes:
    """A file's bytes, or `size` of them from `start`. Raises OSError like `open`."""
    if is_remote(path):
        fs, name = filesystem(path)
        data: bytes = fs.cat_file(name, start, None if size is None else (start or 0) + size)
        return data
    with open(path, "rb") as file:
        file.seek(start or 0)
        return file.read(-1 if size is None else size)


def file_size(path: str) -> int | None:
    """Bytes of a file; None when it is missing."""
    if is_remote(path):
        fs, name = filesystem(path)
        return int(fs.size(name)) if fs.isfile(name) else None
    return os.path.getsize(path) if os.path.isfile(path) else None


def list_files(folder: str) -> list[str]:
    """All files under a folder, in the order of their paths, hidden ones left out; of a pattern: what it matches."""
    if is_remote(folder):
        fs, name = filesystem(folder)
        matches = fs.glob(name) if glob.has_magic(name) else fs.find(name)
        return sorted(fs.unstrip_protocol(match) for match in matches)
    if glob.has_magic(folder) and not os.path.exists(folder):
        return sorted(glob.glob(folder))
    if os.path.isfile(folder):
        return [folder]
    paths = (path for path in Path(folder).rglob("*") if path.is_file())
    return sorted(str(path) for path in paths if not any(p.startswith(".") for p in path.relative_to(folder).parts))


def publish(finished: Path, target: str) -> None:
    """Moves a finished local file to where readers look for it: by rename, or by upload."""
    if is_remote(target):
        fs, name = filesystem(target)
        fs.makedirs(name.rsplit("/", 1)[0], exist_ok=True)
        fs.put_file(str(finished), name)
        finished.unlink()
        return
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(finished, target)
    except OSError:  # another disk
        partial = Path(f"{target}.partial")
        shutil.copyfile(finished, partial)
        os.replace(partial, target)
        finished.unlink()


def pack(key: str, files: Mapping[str, bytes]) -> bytes:
    """The record of a tar: a header and the padded bytes of `KEY.EXTENSION` for each of `files`, in their order.

    Time, owner and mode are fixed, so the same files give the same bytes.
    """
    chunks = []
    for extension, data in files.items():
        info = tarfile.TarInfo(f"{key}.{extension}")
        info.size, info.mode = len(data), 0o644
        chunks += [info.tobuf(tarfile.USTAR_FORMAT), data, bytes(-len(data) % BLOCK)]
    return b"".join(chunks)


def unpack(record: bytes) -> tuple[str, dict[str, bytes]]:
    """Key and files of one record as `pack` made it. Raises ValueError for anything else."""
    files, keys, start = {}, set(), 0
    while start < len(record):
        if record[start + 257 : start + 262] != b"ustar":
            raise ValueError("no tar header")
        name = record[start : start + 100].rstrip(b"\0").decode()
        size = int(record[start + 124 : start + 135], 8)
        data = record[start + BLOCK : start + BLOCK + size]
        if len(data) != size:
            raise ValueError("cut off")
        key, _, extension = name.partition(".")
        keys.add(key)
        files[extension] = data
        start += BLOCK + size + -size % BLOCK
    if len(keys) != 1:
        raise ValueError(f"{len(keys)} keys in one record")
    return keys.pop(), files


def scan_tar(path: str) -> Iterator[tuple[str, str, int, int]]:
    """Key, extension, offset and size of each file of a tar, read from its headers alone."""
    opened = _open(path)
    try:
        with opened as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                key, dot, extension = name.partition(".")
                if member.isfile() and key and dot:
                    yield (f"{folder}/{key}" if folder else key), extension.lower(), member.offset_data, member.size
    except tarfile.TarError as error:
        raise InputError(f"{path} is not a whole tar ({error}); copy it once more") from error


def _open(path: str) -> Any:
    try:
        if is_remote(path):
            fs, name = filesystem(path)
            return fs.open(name, "rb")
        return open(path, "rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from error
