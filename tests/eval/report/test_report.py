"""report.html: what is in it, and that it works in a browser that is offline."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eval_helpers import QUICK_SUITE as SUITE
from eval_helpers import add_images, make_folder, make_scores
from PIL import Image

from bdkit.cli import main
from eval.report.html import make_report
from eval.report.tables import make_tables
from eval.score.images import ImageFile, ImageTree, read_tree

METHODS = ("base", "<b>bold & sharp</b>")
N = 2 * 2 * SUITE.n_images


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    add_images(folder, ("base", "bold"))
    make_folder(folder, make_scores(("base", "bold")))
    make_report(folder, make_tables(folder), show_progress=False)
    return folder


def data_of(path: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


def test_every_scored_image_is_there_with_its_scores(out: Path) -> None:
    data = data_of(out / "report.html")
    assert data["embedded"]
    assert len(data["images"]) == N
    assert [name for name, _ in data["metrics"]] == ["DINO", "CLIP-I", "CLIP-T"]
    scores = make_scores(("base", "bold"))
    for _, row, subject, seed_set, prompt, sample, values in data["images"][::5]:
        suite_subject = SUITE.subjects[subject]
        text, kind = data["prompts"][prompt]
        index = next(
            each.index for each in SUITE.prompts(suite_subject) if each.text("…") == text and each.kind == kind
        )
        there = scores[
            (scores["method"] == ("base", "bold")[row])
            & (scores["subject"] == suite_subject.name)
            & (scores["seed_set"] == seed_set)
            & (scores["prompt"] == index)
            & (scores["sample"] == sample)
        ].set_index("metric")["value"]
        assert values == pytest.approx([there["dino"], there["clip_i"], there["clip_t"]], abs=6e-5)
    assert [len(subject["references"]) for subject in data["subjects"]] == [s.n_references for s in SUITE.subjects]


def test_images_and_the_main_plot_come_first(out: Path) -> None:
    page = (out / "report.html").read_text()
    marks = [
        'class="grid"', 'id="plot-tradeoff"', "<h2>Results", "<h2>Made with", 'id="plot-subjects-dino"', 'id="images"',
    ]  # fmt: skip
    positions = [page.index(mark, page.index("<body>")) for mark in [*marks, 'id="images"']]
    assert positions == sorted(positions)
    first = page[positions[0] : positions[1]]
    assert re.findall(r"<th>(.*?)</th>", first) == ["Reference", "Base model, not personalised", "bold"]
    assert first.count('src="data:image/webp;base64,') == 3 * 6


def test_more_images_than_fit_are_linked(out: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(out, tmp_path / "results folder")
    make_report(folder, make_tables(folder), embed_at_most=N - 1, show_progress=False)
    data = data_of(folder / "report.html")
    assert not data["embedded"]
    assert all((folder / source[0]).is_file() for source in data["images"])
    assert len({source[0] for source in data["images"]}) == N
    assert "keep this file in its results folder" in (folder / "report.html").read_text()
    assert (folder / "report.html").stat().st_size < (out / "report.html").stat().st_size


def test_images_of_another_program_are_found(out: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "scores", make_scores(("base", "bold")))
    shutil.copytree(out / "references", folder / "references")
    own = read_tree(out, SUITE, "x")
    elsewhere = tuple(image for image in own.images if image.id.method == "base")
    make_report(folder, make_tables(folder), tree=ImageTree(out, elsewhere), show_progress=False)
    data = data_of(folder / "report.html")
    assert len(data["images"]) == data["absent"] == N // 2
    assert not (folder / "grid.png").exists()
    assert f"{N // 2} scored images are missing" in (folder / "report.html").read_text()


def test_command_makes_it_from_finished_scores(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(tmp_path / "scores", make_scores(("base", "bold")))
    shutil.copytree(out / "references", folder / "references")
    assert main(["report", str(folder), "--images", str(out), "--embed", "0", "--published"]) == 0
    assert "opens in any browser" in capsys.readouterr().out
    page = (folder / "report.html").read_text()
    assert "<h2>Published results</h2>" in page
    assert "copied, protocol unknown" in page
    sources = [image[0] for image in data_of(folder / "report.html")["images"]]
    assert len(sources) == N
    assert all((folder / source).resolve().is_relative_to(out.resolve()) for source in sources)


def test_missing_images_leave_a_gap_not_a_crash(tmp_path: Path) -> None:
    add_images(tmp_path, ("base",))
    first = next((tmp_path / "images" / "seed0" / "base" / "dog").iterdir())
    first.unlink()
    scores = make_scores(("base",))
    there = read_tree(tmp_path, SUITE, "x").images
    kept = {astuple(p.id) for p in there}
    keys = zip(*(scores[name] for name in ("method", "seed_set", "subject", "prompt", "sample")), strict=True)
    scores = scores[[key in kept or key[3] == -1 for key in keys]]
    make_folder(tmp_path, scores, allow_missing=True)
    make_report(tmp_path, make_tables(tmp_path), show_progress=False)
    assert len(data_of(tmp_path / "report.html")["images"]) == N // 2 - 1
    assert f"{N // 2 - 1}/{N // 2} images" in (tmp_path / "report.html").read_text()


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    """A manifest may name a method anything."""
    make_folder(tmp_path, make_scores(METHODS))
    add_images(tmp_path, ("base",))
    images = [
        ImageFile(image.path, replace(image.id, method=method))
        for method in METHODS
        for image in read_tree(tmp_path, SUITE, "x").images
    ]
    make_report(tmp_path, make_tables(tmp_path), tree=ImageTree(tmp_path, tuple(images)), show_progress=False)
    page = (tmp_path / "report.html").read_text()
    assert "<b>bold" not in page
    assert data_of(tmp_path / "report.html")["rows"] == [METHODS[1], "Base model, not personalised"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver here (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync",
                 "disable-background-networking", "disable-component-update", "window-size=1400,1100",
                 f"user-data-dir={tmp_path_factory.mktemp('profile')}"):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


def choose(browser: Any, **values: str) -> None:
    """Chooses by the words of an option."""
    for name, words in values.items():
        browser.execute_script(
            "const select = document.getElementById(arguments[0]);"
            "select.value = [...select.options].find((option) => option.text === arguments[1]).value;"
            "select.dispatchEvent(new Event('change'));", name, words,
        )  # fmt: skip


def texts(browser: Any, selector: str) -> list[str]:
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((element) => element.textContent)", selector
    )


@pytest.mark.slow
def test_works_in_chromium(out: Path, browser: Any, tmp_path: Path) -> None:
    browser.get_log("performance")  # what the browser did before
    browser.get((out / "report.html").as_uri())
    values = lambda: [float(text.split()[-1]) for text in texts(browser, ".card .value")]  # noqa: E731
    worst = values()
    assert len(worst) == min(48, N)
    assert worst == sorted(worst)
    choose(browser, order="best first", metric="CLIP-T")
    best = values()
    assert best == sorted(best, reverse=True)
    clip_t = make_scores(("base", "bold")).query("metric == 'clip_t'")["value"]
    assert best[0] == pytest.approx(clip_t.max(), abs=6e-4)

    choose(browser, subject="vase", method="bold")
    assert texts(browser, "#count") == [f"{N // 6} of {N // 6} images"]
    assert set(texts(browser, ".card b")) == {"bold"}
    assert set(texts(browser, ".card figure:first-child figcaption")) == {"vase"}
    prompt = texts(browser, "#prompt option")[-1]
    choose(browser, subject="all subjects", method="all methods", prompt="all: outfit")
    n_outfits = sum(prompt.kind == "outfit" for prompt in SUITE.prompts(SUITE.subjects[0]))
    assert texts(browser, "#count") == [f"{4 * n_outfits} of {4 * n_outfits} images"]
    choose(browser, prompt=prompt, view="methods side by side")
    assert texts(browser, ".side th")[1:] == ["reference", "Base model, not personalised", "bold"]
    assert len(texts(browser, ".side tbody tr")) > 0

    choose(browser, view="one by one", prompt="all prompts")
    browser.execute_script("document.querySelector('.card').click()")
    assert browser.execute_script("return document.getElementById('zoom').open")
    assert len(texts(browser, "dialog td")) == 2 * 3
    browser.execute_script("document.querySelector('dialog button').click()")

    column = "table.sortable tbody tr > td:nth-child(2)"
    table = "document.querySelector('table.sortable')"
    for wanted in (True, False):
        browser.execute_script(f"{table}.querySelectorAll('th button')[1].click()")
        numbers = [float(text.split()[0]) for text in texts(browser, column)[:4]]
        assert numbers == sorted(numbers, reverse=wanted)

    browser.execute_script("document.getElementById('images').scrollIntoView()")
    loaded = browser.execute_async_script(
        "const done = arguments[0];"
        "const images = [...document.querySelectorAll('.plots img, .card img')].slice(0, 12);"
        "images.forEach((image) => { image.loading = 'eager'; });"
        "Promise.all(images.map((image) => image.decode())).then("
        "() => done(images.every((image) => image.naturalWidth > 0)), (error) => done(String(error)))"
    )
    assert loaded is True
    browser.save_screenshot(str(tmp_path / "shot.png"))
    shot = np.asarray(Image.open(tmp_path / "shot.png").convert("RGB"))
    assert len(np.unique(shot.reshape(-1, 3), axis=0)) > 2000  # images are on the screen

    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    requests = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in requests if m["method"] == "Network.requestWillBeSent"]
    assert (out / "report.html").as_uri() in asked
    assert [url for url in asked if url.startswith(("http:", "https:", "ws:", "wss:"))] == []
