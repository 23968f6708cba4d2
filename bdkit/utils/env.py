"""What a result was made with (versions, device, commit), and which of several processes this is."""

import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = ("bdkit", "torch", "diffusers", "transformers", "timm", "open_clip_torch", "numpy", "pillow", "skia-python")


def library_versions() -> dict[str, str]:
    """The versions of Python and of the installed libraries that a result depends on."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def pick_device() -> str:
    """ "cuda" where there is a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name(device: str | None = None) -> str:
    """The device in words; None: the one `pick_device` gives."""
    import torch

    device = device or pick_device()
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def process_gib() -> float:
    """The most memory that this process had so far, in GiB; macOS counts in bytes, Linux in KiB."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (used if sys.platform == "darwin" else used * 1024) / 2**30


@contextmanager
def measured_peak() -> Iterator[list[float]]:
    """A list that holds, after the block, the most memory in GiB that was in use within it: on a GPU where there is
    one, else this process's, all of it; of the process so far, where the system cannot tell (macOS).
    """
    import torch

    peak: list[float] = []
    cuda, clear = torch.cuda.is_available(), Path("/proc/self/clear_refs")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        clear.write_text("5")  # Linux: the high-water mark starts again at what is in use
    yield peak
    status = Path("/proc/self/status")
    if cuda:
        peak.append(torch.cuda.max_memory_allocated() / 2**30)
    elif status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        peak.append(int(line.split()[1]) / 2**20)
    else:
        peak.append(process_gib())


def commit() -> str | None:
    """The commit of the code, with "+" when files were changed since; None outside a git checkout."""
    try:
        changed = _git("status", "--porcelain", "--untracked-files=no")
        return _git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def rank() -> int:
    """The number of this process, from 0, among those that torchrun or accelerate started."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes torchrun or accelerate started, this one among them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def shared_draw(draw: Callable[[int], Any], count: int) -> Any:
    """This process's `count` rows of what `draw(rows)` draws for the whole batch.

    With the same generator everywhere, several processes so draw what one alone draws for all their items.
    """
    if world_size() == 1:
        return draw(count)
    return draw(count * world_size())[rank() * count : (rank() + 1) * count]


def is_main_process() -> bool:
    """Whether this is the only process or the first."""
    return rank() == 0


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],
        cwd=Path(__file__).parent,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=10,
    )
    return done.stdout.decode().strip()
