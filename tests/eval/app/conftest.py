"""One server for the whole folder, and a browser."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from app_helpers import Page, Server
from browser_helpers import open_browser


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("gradio")
    folder = tmp_path_factory.mktemp("app")
    environment = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bdkit.cli", "app", "--keep-minutes", "0", "--max-megabytes", "3"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, f"{line}{(folder / 'log').read_text()}"
        yield Server(found[0], process, folder)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert not list(folder.glob("bdkit-app-*")), "the server leaves files behind"
        assert "eval/app" not in (folder / "log").read_text(), "an error that is no user's"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def new_page(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Page]]:
    """Opens the app in a browser of its own."""
    opened = []

    def open_page() -> Page:
        page = Page(open_browser(tmp_path_factory.mktemp("profile"), "1280,1000"))
        opened.append(page.driver)
        page.driver.get(server.url)
        page.wait("document.querySelectorAll('.thumbs img').length")
        return page

    yield open_page
    for driver in opened:
        driver.quit()


@pytest.fixture(scope="session")
def page(new_page: Callable[[], Page]) -> Page:
    """The first page, shared by tests that leave it usable."""
    return new_page()
