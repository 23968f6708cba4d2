"""One server for the whole folder, and a browser."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

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
        assert process.wait(300) == 0
        assert not list(folder.glob("bdkit-app-*")), "the server leaves files behind"
        assert "eval/app" not in (folder / "log").read_text(), "an error that is no user's"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def browsers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Page]]:
    """The browser that all tests share, once one of them has asked for it; a test that kills it empties the list."""
    opened: list[Page] = []
    yield opened
    for page in opened:
        page.driver.quit()


@pytest.fixture
def page(browsers: list[Page], server: Server, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The app as one finds it."""
    if not browsers:
        browsers.append(Page(open_browser(tmp_path_factory.mktemp("profile"), "1280,1000")))
    browsers[0].open(server.url)
    return browsers[0]
