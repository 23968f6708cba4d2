"""The documentation's pages: they build without a warning, need no network, and say shapes and units."""

import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
from browser_helpers import open_browser

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material")
    out = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_every_page_is_in_the_menu_and_needs_no_network(site: Path) -> None:
    pages = sorted(path for path in site.rglob("*.html") if path.name != "404.html")
    names = {path.stem for path in (ROOT / "docs").rglob("*.md")} | {"index"}
    assert {path.stem for path in pages} == names
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?([^\" >]+)", text)
        loaded += re.findall(r"<link\b[^>]*rel=\"?stylesheet\"?[^>]*href=\"?([^\" >]+)", text)
        assert loaded
        for target in loaded:
            assert "://" not in target, target
            assert (page.parent / target.partition("?")[0]).exists(), target
    menu = unescape((site / "index.html").read_text(encoding="utf-8"))
    assert {f'href="{page.relative_to(site).as_posix()}' in menu or page.name == "index.html" for page in pages} == {
        True
    }


@pytest.mark.slow
def test_api_pages_have_shapes_and_lists(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", unescape((site / "api" / "7_scoring.html").read_text(encoding="utf-8")))
    flat = " ".join(text.split())
    assert "(n, d) unit-norm embeddings" in flat
    assert re.search(r"allow_missing \(\s*bool\s*\) – score fewer images than the suite has", flat)


@pytest.mark.slow
def test_search_works_in_a_page_opened_as_a_file(site: Path, tmp_path: Path) -> None:
    browser = open_browser(tmp_path, "1280,900")
    from selenium.webdriver.support.ui import WebDriverWait

    try:
        browser.get((site / "index.html").as_uri() + "?q=leaderboard")
        found = "return [...document.querySelectorAll('.md-search-result__link')].map((link) => link.href)"
        links = WebDriverWait(browser, 60).until(lambda b: b.execute_script(found))
        assert any("cli.html" in link for link in links)
    finally:
        browser.quit()
