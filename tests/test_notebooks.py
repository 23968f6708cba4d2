"""The notebooks: thin, committed executed, free of machine paths, and running from top to bottom."""

import base64
import io
import re
import shlex
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from bdkit.cli import build_parser

FOLDER = Path(__file__).parent.parent / "notebooks"
NAMES = (
    *("00_quickstart", "01_pretraining", "02_zero_shot", "03_few_step_finetuning", "04_dreambench"),
    "05_full_size",
    "06_score_your_own",
    "07_do_the_metrics_mean_it",
    "08_editing_a_generated_image",
    "09_editing_a_real_image",
    "10_try_on",
    "11_control_and_style",
    "12_interpolation_and_attention",
    "13_pretraining_on_your_images",
    "14_main_table",
    "15_fine_tuning_steps",
    "16_ablations",
    "17_what_holds",
)
IMAGES = ("image/jpeg", "image/png")
MACHINE_PATH = re.compile(
    r"(?<![\w.:/<-])(?:/(?:bin|builds?|data|home|mnt|opt|private|root|srv|tmp|usr|var|work)/|[A-Z]:\\)"
)


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def shown_images(notebook: Any) -> list[Image.Image]:
    found = [output["data"] for output in outputs(notebook) if "data" in output]
    encoded = [data[kind] for data in found for kind in IMAGES if kind in data]
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in encoded]


def printed(notebook: Any) -> str:
    """Every word that the outputs show."""
    texts = []
    for output in outputs(notebook):
        texts.append(output.get("text", ""))
        texts += [value for kind, value in output.get("data", {}).items() if kind not in IMAGES]
    return "\n".join(map(str, texts))


def test_all_are_here() -> None:
    assert tuple(sorted(path.stem for path in FOLDER.glob("*.ipynb"))) == NAMES


def test_machine_paths_are_found() -> None:
    for text in ("/home/me/x.py", "in '/tmp/abc/x'", "C:\\Users\\me", "(/root/.cache/x)"):
        assert MACHINE_PATH.search(text), text
    for text in ("0.5/tmp/x", "CLIP-T/work", "</tmp/>", "https://example.org/home/x"):
        assert not MACHINE_PATH.search(text), text


@pytest.mark.parametrize("name", NAMES)
def test_is_thin(name: str) -> None:
    notebook = read(name)
    source = "\n".join(cell.source for cell in code_cells(notebook))
    assert len([line for line in source.splitlines() if line.strip()]) <= 80
    assert not re.search(r"^\s*(class |[!%])", source, re.MULTILINE)
    assert not MACHINE_PATH.search("\n".join(cell.source for cell in notebook.cells))
    assert notebook.cells[0].source.startswith("# ")
    for word in ("**Claim.**", "**Paper.**", "Sec. ", "**Hardware.**", "**Minutes.**"):
        assert word in notebook.cells[0].source, word
    assert code_cells(notebook)[1].source.startswith("MODEL = "), "the second code cell is the config"


@pytest.mark.parametrize("name", NAMES)
def test_ends_with_command_lines_that_parse(name: str) -> None:
    last = read(name).cells[-1]
    assert last.cell_type == "markdown"
    assert re.search(r"`(bdkit|python -m studies\.\w+) [^`]+`", last.source)
    for line in re.findall(r"`(bdkit [^`]+)`", last.source):
        arguments = shlex.split(line)[1:]
        assert build_parser(arguments[0], arguments).parse_args(arguments).command == arguments[0]


@pytest.mark.parametrize("name", NAMES)
def test_is_committed_executed(name: str) -> None:
    notebook = read(name)
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1)), "run `make notebooks`"
    assert shown_images(notebook)
    wrong = [o for o in outputs(notebook) if o.output_type == "error" or o.get("name") == "stderr"]
    assert wrong == []
    assert not MACHINE_PATH.search(printed(notebook))
    assert "://" not in printed(notebook)
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 400_000


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("name", NAMES)
def test_runs_at_smoke_settings(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BDKIT_SMOKE", "1")
    monkeypatch.delenv("BDKIT_MODEL", raising=False)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = read(name)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    where = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, timeout=600, startup_timeout=300, kernel_name="python3", resources=where).execute()
    images = shown_images(notebook)
    assert images
    assert all(image.width >= 128 and image.height >= 128 for image in images)
    assert all(cell.execution_count for cell in code_cells(notebook))
    assert not MACHINE_PATH.search(printed(notebook))
