"""What a result was made with: library versions, the device and the commit."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

LIBRARIES = ("bdkit", "torch", "diffusers", "transformers", "timm", "open_clip_torch", "numpy", "pillow", "skia-python")


def library_versions() -> dict[str, str]:
    """The versions of Python and of the libraries that a result depends on; those that are not installed left out."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def pick_device() -> str:
    """ "cuda" where there is a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name() -> str:
    """The device in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def commit() -> str | None:
    """The commit of the code, "+" behind it when files were changed since; None outside a git checkout."""
    here = Path(__file__).parent
    try:
        found = _git(here, "rev-parse", "HEAD")
        return found + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10
    )
    return done.stdout.decode().strip()
