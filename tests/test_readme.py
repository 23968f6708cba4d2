"""What the README and docs/ promise: Python runs, command lines parse, links lead somewhere, recipes are scripts."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bdkit.cli import COMMANDS, build_parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def command_lines(text: str) -> list[str]:
    """The `bdkit ...` lines of a page, without those that only show the shape of one."""
    lines = re.findall(r"`(bdkit [^`]+)`", text) + re.findall(r"^(bdkit .+)$", text, re.MULTILINE)
    return [line for line in lines if not re.search(r"\b[A-Z]{3,}\b", line)]


def all_lines() -> list[str]:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    recipes = "\n".join(path.read_text(encoding="utf-8").replace("\\\n", "") for path in (ROOT / "runs").glob("*.sh"))
    return sorted({*command_lines(pages), *command_lines(recipes)})


def test_every_command_is_shown() -> None:
    shown = {line.split()[1] for line in command_lines((ROOT / "docs" / "cli.md").read_text(encoding="utf-8"))}
    assert shown == set(COMMANDS)


@pytest.mark.parametrize("line", all_lines())
def test_command_lines_parse(line: str) -> None:
    arguments = shlex.split(line)[1:]
    assert build_parser(arguments[0]).parse_args(arguments).command == arguments[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    assert [t for t in targets if "://" not in t and not (page.parent / t).exists()] == []


@pytest.mark.parametrize("script", sorted((ROOT / "runs").glob("*.sh")), ids=lambda path: path.name)
def test_recipes_are_scripts(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    assert script.stat().st_mode & 0o100


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
