"""What the README promises: its Python runs, its command lines parse, its links lead somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bdkit.cli import COMMANDS, build_parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def command_lines() -> list[str]:
    """The README's `bdkit ...` lines, without those that only show the shape of one."""
    lines = re.findall(r"`(bdkit [^`]+)`", README)
    return [line for line in lines if not re.search(r"\b[A-Z]{3,}\b", line)]


def test_every_command_is_shown() -> None:
    assert {line.split()[1] for line in command_lines()} == set(COMMANDS)


@pytest.mark.parametrize("line", command_lines())
def test_command_lines_parse(line: str) -> None:
    arguments = shlex.split(line)[1:]
    assert build_parser(arguments[0]).parse_args(arguments).command == arguments[0]


def test_links_lead_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", README) if "://" not in target]
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_tree_is_the_tree() -> None:
    tree = README.split("## Where things are")[1].split("```")[1]
    top = ""
    for line in tree.strip().splitlines():
        depth = len(line) - len(line.lstrip())
        for name in re.split(r",\s+", re.split(r"\s{2,}", line.strip())[0]):
            if depth == 0:
                top = name
            assert (ROOT / (top if depth == 0 else top + name)).exists(), name


@pytest.mark.slow
@pytest.mark.weights
def test_the_python_runs(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    done = subprocess.run([sys.executable, "-c", code[1]], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("jungle-*.png"))) == 4
