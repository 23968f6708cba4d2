"""What the README and docs/ promise: Python runs, command lines parse, links lead somewhere, recipes are scripts."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bdkit.cli import COMMANDS, build_parser, main
from bdkit.miniworld.render import render
from bdkit.miniworld.scenes import sample_scene
from bdkit.miniworld.subjects import sample_subject
from bdkit.utils.images import write_png

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SMALL_BENCH = "--methods blip-diffusion-zero-shot --subjects 1 --prompts 1 --samples 1 --workers 1"
# In this order, because later ones read what earlier ones wrote: the line as it is printed, and what makes it small
RUN = {
    "bdkit protocols": "",
    "bdkit world sheet --out sheet.png": "",
    'bdkit generate --model mini --images photos/ --subject dog --prompt "a {} in the snow" --seeds 0-3 --out out/': (
        "--num-inference-steps 2"
    ),
    "bdkit finetune --model mini --images photos/ --subject dog --steps 80 --out my-dog": "--steps 1",
    'bdkit generate --model my-dog --prompt "a {} in the snow" --seeds 0-3 --out out/': (
        "--num-inference-steps 2 --out drawn/"
    ),
    "bdkit push my-dog user/my-dog --license apache-2.0 --samples out/": "--dry-run sent",
    "bdkit bench mini-quick --out results/mini-quick": SMALL_BENCH,
    "bdkit score results/mini-quick": "",
    "bdkit table results/mini-quick": "",
    "bdkit report results/mini-quick": "",
    "bdkit report results/ours results/theirs --leaderboard": "",
    "bdkit interpolate mini/dog mini/dog6 --out out/": "--steps 2 --num-inference-steps 2 --out walk/",
    "bdkit attention mini/dog --out out/": "--out looks/",
    "bdkit prepare mini --scenes 1000 --out shards/": "--scenes 4",
}
# Commands that need a network, weights of others, a server or hours: where a test runs them on small stand-ins
TESTED_IN = {
    "app": "tests/eval/app",
    "convert": "tests/bdkit/commands/test_convert.py",
    "edit": "tests/bdkit/commands/test_edit.py",
    "fetch": "tests/dreambench/test_fetch.py",
    "pretrain": "tests/bdkit/training/pretraining/test_stages.py",
    "reproduce": "tests/eval/paper",
    "stylize": "tests/bdkit/commands/test_stylize.py",
    "train-evaluators": "tests/eval/mini/test_evaluators.py",
}


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
    arguments = [argument for argument in shlex.split(line)[1:] if argument != "--help"]
    assert build_parser(arguments[0], arguments).parse_args(arguments).command == arguments[0]


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


def test_every_shown_command_is_run_here_or_where_it_says() -> None:
    lines = {line for page in PAGES for line in command_lines(page.read_text(encoding="utf-8"))}
    assert set(RUN) <= lines
    ran = {line.split()[1] for line in RUN}
    assert ran | set(TESTED_IN) == set(COMMANDS)
    assert [path for path in TESTED_IN.values() if not (ROOT / path).exists()] == []


@pytest.mark.slow
@pytest.mark.weights
def test_they_run_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    dog = sample_subject("dog", key="docs", split="test")
    for number in range(2):
        image = Image.fromarray(render(sample_scene(dog, np.random.default_rng(number))).image)
        write_png(image, Path("photos") / f"{number}.png")
    for line, smaller in RUN.items():
        if "--leaderboard" in line:
            for name in ("ours", "theirs"):
                shutil.copytree("results/mini-quick", f"results/{name}")
        arguments = shlex.split(line)[1:] + shlex.split(smaller)
        assert main(arguments) == 0, (line, capsys.readouterr().err)
    written = [
        *("sheet.png", "out/00003.png", "my-dog/bdkit.json", "drawn/00000.png", "sent/README.md", "leaderboard.html"),
        *("results/mini-quick/report.html", "walk", "looks", "shards"),
    ]
    assert [name for name in written if not Path(name).exists()] == []
