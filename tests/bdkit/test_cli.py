"""The command line's frame: one clear line and exit code 2 for a user error; help that loads no heavy library."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from bdkit import __version__, cli
from bdkit.cli import one_line
from bdkit.utils.errors import InputError

HEAVY = ("torch", "transformers", "diffusers", "pandas", "matplotlib", "accelerate", "timm", "open_clip")
SHOW_HELP = f"""
import sys
from bdkit import cli
try:
    cli.main(sys.argv[1:])
except SystemExit as done:
    print("exit", done.code)
print("loaded", [name for name in {HEAVY!r} if name in sys.modules])
"""


@pytest.mark.parametrize("command", [None, *cli.COMMANDS])
def test_help_loads_no_heavy_library_and_shows_an_example(command: str | None) -> None:
    arguments = [*([] if command is None else [command]), "--help"]
    done = subprocess.run([sys.executable, "-c", SHOW_HELP, *arguments], capture_output=True, text=True, timeout=120)
    *text, code, loaded = done.stdout.splitlines()
    assert (code, loaded, done.stderr) == ("exit 0", "loaded []", "")
    if command is None:
        assert all(any(line.split()[:1] == [name] for line in text) for name in cli.COMMANDS)
    else:
        example = next(number for number, line in enumerate(text) if line in ("example:", "examples:"))
        assert text[example + 1].startswith(f"  bdkit {command}")


def test_settings_and_version_load_no_heavy_library() -> None:
    code = f"import sys, bdkit.training.config, eval.experiments; print([n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "[]\n"
    done = subprocess.run([sys.executable, "-m", "bdkit.cli", "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"bdkit {__version__}\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_told_in_one_line() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        Path("/dev/full").write_text("x")
    assert one_line(caught.value) == "the disk is full; free some space and run the same command again"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/1.png"),
            "the disk is full while writing out/1.png;",
        ),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "the disk is full;"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), "out: permission denied; choose"),
        (InputError("my-dog: no such folder;\n give one"), "my-dog: no such folder; give one"),
    ],
)
def test_a_user_error_is_one_line(error: Exception, line: str) -> None:
    assert (one_line(error) or "").startswith(line)


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(errno.EIO, "Input/output error", "x")])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    assert one_line(error) is None
