"""The command line's frame: one clear line and exit code 2 for a user's mistake, a quick answer to --help."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import SafetensorError

from bdkit import cli
from bdkit.cli import one_line
from bdkit.utils.errors import InputError
from bdkit.utils.errors import InputError as DreambenchInputError


def run(*arguments: str) -> tuple[int, float, str, str]:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "bdkit.cli", *arguments], capture_output=True, text=True, timeout=60)
    return done.returncode, time.perf_counter() - start, done.stdout, done.stderr


def test_help_names_every_command_without_importing_torch() -> None:
    code, _, out, _ = run("--help")
    assert code == 0
    assert all(name in out for name in cli.COMMANDS)
    imported = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "bdkit.cli", "--help"], capture_output=True, text=True, timeout=60
    ).stderr
    loaded = {line.rpartition("|")[2].strip() for line in imported.splitlines()}
    assert "argparse" in loaded
    assert not loaded & {"torch", "transformers", "diffusers", "pandas", "numpy", "matplotlib"}


@pytest.mark.slow
def test_help_answers_within_a_second() -> None:
    assert min(run("--help")[1] for _ in range(3)) < 1.0


def test_version() -> None:
    code, _, out, _ = run("--version")
    assert code == 0
    assert out.startswith("bdkit ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["generat"], "invalid choice: 'generat'"),
        (["generate"], "--prompt is missing"),
        (["bench", "mini", "--no-such-flag"], "--no-such-flag"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("bdkit: error: ")
    assert err.count("\n") == 1
    assert words in err


def full_disk() -> Exception:
    with pytest.raises(OSError, match="No space left") as caught:
        Path("/dev/full").write_text("x")
    return caught.value


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_told_in_one_line() -> None:
    assert one_line(full_disk()) == "the disk is full; free some space and run the same command again"


def test_a_full_disk_is_told_with_its_file_where_the_system_names_it() -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/1.png")
    assert one_line(error) == "the disk is full while writing out/1.png; free some space and run the same command again"


def test_safetensors_words_for_a_full_disk_are_understood() -> None:
    error = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert (one_line(error) or "").startswith("the disk is full")


def test_both_packages_input_errors_are_told_in_one_line() -> None:
    assert one_line(InputError("my-dog: no such folder;\n give one")) == "my-dog: no such folder; give one"
    assert one_line(DreambenchInputError("unknown suite 'x'")) == "unknown suite 'x'"


@pytest.mark.parametrize("error", [ValueError("a fault of ours"), OSError(errno.EIO, "Input/output error", "x")])
def test_a_fault_of_ours_keeps_its_traceback(error: Exception) -> None:
    assert one_line(error) is None
