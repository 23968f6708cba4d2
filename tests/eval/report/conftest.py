"""A scored folder with images and its report, and a browser to look at it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_helpers import open_browser
from eval_helpers import add_images, make_folder, make_scores

from eval.report.html import make_report
from eval.report.tables import make_tables


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    add_images(folder, ("base", "bold"))
    make_folder(folder, make_scores(("base", "bold")))
    make_report(folder, make_tables(folder), show_progress=False)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    opened = open_browser(tmp_path_factory.mktemp("profile"), "1400,1100")
    yield opened
    opened.quit()
