"""Results folders and progress bars in a notebook, by running one."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from eval_helpers import make_folder, make_scores
from PIL import Image

from bdkit.utils.errors import InputError
from eval.report.notebook import load_results
from eval.report.tables import make_tables, sections


def test_table_and_grid_are_shown(out: Path) -> None:
    shown = load_results(out)
    html = shown._repr_html_()
    main = sections(make_tables(out))[0]
    cells = re.findall(r"<t[dh] [^>]*>(.*?)</t[dh]>", html)
    assert cells == [cell for line in (main.head, *main.lines) for cell in line]
    source = re.search(r'src="data:image/jpeg;base64,([^"]+)"', html)
    assert source
    image = Image.open(io.BytesIO(base64.b64decode(source[1])))
    grid = shown.grid()
    assert grid is not None
    assert image.size == grid.size
    assert np.abs(np.asarray(image, dtype=float) - np.asarray(grid, dtype=float)).mean() < 30
    assert shown.table.to_csv(index=False, float_format="%.6f") == (out / "table.csv").read_text()


def test_scores_without_images_and_of_several_folders(out: Path, tmp_path: Path) -> None:
    other = make_folder(tmp_path / "other", make_scores(("<b>mine</b>",)))
    html = load_results(out, other)._repr_html_()
    assert "&lt;b&gt;mine" in html
    assert "<b>mine" not in html
    assert "<img" not in html
    with pytest.raises(InputError, match=r"suite\.json is missing"):
        load_results(tmp_path / "nothing")


@pytest.mark.slow
def test_a_notebook_shows_both_and_its_own_bars(out: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    bar = "from bdkit.utils.progress import progress_bar\nfor _ in progress_bar(range(3), desc='drawing'): pass"
    sources = [f"from eval.report.notebook import load_results\nload_results({str(out)!r})", bar]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    results, bars = (cell.outputs for cell in notebook.cells)
    assert results[0].data["text/html"].startswith("<b>mini-quick, protocol mini</b>")
    assert "ResultsFolder(" in results[0].data["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in bars[0].data
