"""Download of the DreamBench photos, file by file, each checked against its SHA-256.

The content is pinned twice: by the commit in the address and by `checksums.csv` (158 photos and two text files).
"""

import hashlib
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath

from bdkit.utils.errors import InputError
from bdkit.utils.io import file_hash, write_bytes
from bdkit.utils.progress import progress_bar
from dreambench.photos import default_folder
from dreambench.registry import read_rows

COMMIT = "e9b8c013ef2e30ab3d5d9018808513e9093e3bc4"  # the one that added the data set
BASE_URL = f"https://raw.githubusercontent.com/google/dreambooth/{COMMIT}/dataset"
LICENCE = "The photos are published by Google under CC BY 4.0; see references_and_licenses.txt beside them."


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """Download.

    out: folder for the photos (default: the user's cache folder)
    base_url: address of a folder with the published files in it
    retries: further tries for a file when the connection fails
    timeout: seconds without an answer after which a try has failed
    """

    out: Path | None = None
    base_url: str = BASE_URL
    retries: int = 3
    timeout: float = 30.0


@dataclass(frozen=True)
class RemoteFile:
    """One published file: its path below the base address, size in bytes and SHA-256."""

    path: str
    size: int
    sha256: str


def remote_files() -> list[RemoteFile]:
    """The published files in path order."""
    return [RemoteFile(row["path"], int(row["bytes"]), row["sha256"]) for row in read_rows("checksums.csv")]


def fetch_dreambench(config: FetchConfig, files: list[RemoteFile] | None = None) -> Path:
    """Downloads what is missing or damaged and returns the folder; a second call resumes the first.

    files: what to download; None for all published files
    """
    folder = config.out or default_folder()
    if urllib.parse.urlsplit(config.base_url).scheme not in ("http", "https"):
        raise InputError(f"the address {config.base_url!r} is not an http or https address")
    files = remote_files() if files is None else files
    with progress_bar(total=sum(file.size for file in files), unit="B", unit_scale=True, desc="photos") as bar:
        for file in files:
            path = _inside(folder, file.path)
            if not _is_whole(path, file):
                write_bytes(_download(file, config), path)
            bar.update(file.size)
    return folder


def _inside(folder: Path, path: str) -> Path:
    parts = PurePosixPath(path).parts
    if PurePosixPath(path).is_absolute() or ".." in parts or "\\" in path or ":" in path:
        raise InputError(f"the path {path!r} leads out of the folder; this list of files cannot be trusted")
    return folder.joinpath(*parts)


def _is_whole(path: Path, file: RemoteFile) -> bool:
    try:
        return path.stat().st_size == file.size and file_hash(path) == file.sha256
    except OSError:
        return False


def _download(file: RemoteFile, config: FetchConfig) -> bytes:
    url = f"{config.base_url.rstrip('/')}/{urllib.parse.quote(file.path)}"
    for attempt in range(config.retries + 1):
        try:
            with urllib.request.urlopen(url, timeout=config.timeout) as response:
                data = response.read(file.size + 1)
            if len(data) < file.size:
                raise OSError("the connection broke off")
            break
        except urllib.error.HTTPError as error:
            if error.code < 500 or attempt == config.retries:
                raise InputError(f"{url} answers {error.code} {error.reason}; check --base-url") from error
        except (OSError, HTTPException) as error:
            if attempt == config.retries:
                reason = getattr(error, "reason", error)
                raise InputError(f"{url} cannot be downloaded ({reason}); run the same command again") from error
        time.sleep(min(2.0**attempt, 10.0) / 2)
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise InputError(f"{url} is not the published file (its SHA-256 differs); check --base-url")
    return data
