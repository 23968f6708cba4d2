"""report.html in a browser that is offline: filters, keys, links, light and dark."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eval_helpers import QUICK_SUITE as SUITE
from eval_helpers import make_scores
from PIL import Image

from eval.report.html import make_report
from eval.report.summary import title
from eval.report.tables import make_tables
from eval.results_dir import ImageId
from eval.score.scores_file import IMAGE_COLUMNS, write_nearest

N = 2 * 2 * SUITE.n_images
CODES = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40}


def choose(browser: Any, **values: str) -> None:
    """Chooses by the words of an option."""
    for name, words in values.items():
        browser.execute_script(
            "const select = document.getElementById(arguments[0]);"
            "select.value = [...select.options].find((option) => option.text === arguments[1]).value;"
            "select.dispatchEvent(new Event('change'));", name, words,
        )  # fmt: skip


def wait_for_images(browser: Any) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 30).until(lambda b: b.execute_script("return document.documentElement.dataset.ready"))
    browser.execute_script("document.getElementById('images').scrollIntoView()")
    WebDriverWait(browser, 30).until(lambda b: b.execute_script("return document.querySelector('.card')"))


def link_of(one: ImageId) -> str:
    """The end of an image's path in a results folder."""
    return "#" + one.path(Path()).relative_to("images").with_suffix("").as_posix()


def texts(browser: Any, selector: str) -> list[str]:
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((element) => element.textContent)", selector
    )


@pytest.mark.slow
def test_works_in_chromium(out: Path, browser: Any, tmp_path: Path) -> None:
    browser.get_log("performance")  # what the browser did before
    browser.get((out / "report.html").as_uri())
    wait_for_images(browser)
    values = lambda: [float(text.split()[-1]) for text in texts(browser, ".card .value")]  # noqa: E731
    worst = values()
    assert len(worst) >= 12
    assert worst == sorted(worst)
    choose(browser, order="best first", metric="CLIP-T")
    best = values()
    assert best == sorted(best, reverse=True)
    clip_t = make_scores(("base", "bold")).query("metric == 'clip_t'")["value"]
    assert best[0] == pytest.approx(clip_t.max(), abs=6e-4)

    choose(browser, subject="vase", method="bold")
    assert texts(browser, "#count") == [f"{N // 6} images"]
    assert set(texts(browser, ".card b")) == {"bold"}
    assert set(texts(browser, ".card figure:first-child figcaption")) == {"vase"}
    prompt = texts(browser, "#prompt option")[-1]
    choose(browser, subject="all subjects", method="all methods", prompt="all: outfit")
    n_outfits = sum(prompt.kind == "outfit" for prompt in SUITE.prompts(SUITE.subjects[0]))
    assert texts(browser, "#count") == [f"{4 * n_outfits} images"]
    choose(browser, prompt=prompt, view="methods side by side")
    line = texts(browser, ".side .line:first-child .cell span:first-of-type")
    assert line == ["reference", "Base model, not personalised", "bold"]

    choose(browser, view="one by one", prompt="all prompts")
    browser.execute_script("document.querySelector('.card').click()")
    assert browser.execute_script("return document.getElementById('zoom').open")
    assert len(texts(browser, "dialog td")) == 2 * 3
    browser.execute_script("document.getElementById('zoom').close()")

    column = "table.sortable tbody tr > td:nth-child(2)"
    table = "document.querySelector('table.sortable')"
    for wanted in (True, False):
        browser.execute_script(f"{table}.querySelectorAll('th button')[1].click()")
        numbers = [float(text.split()[0]) for text in texts(browser, column)[:4]]
        assert numbers == sorted(numbers, reverse=wanted)

    browser.execute_script("document.getElementById('images').scrollIntoView()")
    loaded = browser.execute_async_script(
        "const done = arguments[0];"
        "const images = [...document.querySelectorAll('.grid img, .plots img, .card img')].slice(0, 30);"
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


def press(browser: Any, key: str) -> None:
    for kind in ("rawKeyDown", "keyUp"):
        browser.execute_cdp_cmd(
            "Input.dispatchKeyEvent", {"type": kind, "key": key, "windowsVirtualKeyCode": CODES[key]}
        )


@pytest.mark.slow
def test_keys_go_through_the_images_and_a_link_leads_back(out: Path, browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    folder = shutil.copytree(out, tmp_path / "out")
    scores = make_scores(("base", "bold"))
    dino = scores[(scores["metric"] == "dino") & (scores["prompt"] >= 0)]
    ids = [ImageId(*key) for key in zip(*(dino[name] for name in IMAGE_COLUMNS), strict=True)]
    subjects = [subject.name for subject in SUITE.subjects]
    # worst first, equal ones as in the suite; the page has four decimals
    places = [(subjects.index(one.subject), one.prompt, one.seed_set, one.sample, one.method) for one in ids]
    order = sorted(zip(dino["value"].round(4), places, ids, strict=True))
    ids = [one for _, _, one in order]
    write_nearest([(one, 1) for one in ids], folder)
    make_report(folder, make_tables(folder), show_progress=False)
    page = (folder / "report.html").as_uri()
    browser.get(page)
    wait_for_images(browser)
    browser.execute_script("document.querySelector('.card').focus()")
    press(browser, "Enter")
    link = lambda: browser.execute_script("return decodeURIComponent(location.hash)")  # noqa: E731
    assert link() == link_of(ids[0])
    captions = texts(browser, "dialog .large figcaption")
    assert captions == ["reference 1", title(ids[0].method), "nearest reference: 2"]
    nearest = "return [...document.querySelectorAll('.references .image')].map((e) => e.matches('.nearest'))"
    assert browser.execute_script(nearest)[:3] == [False, True, False]
    press(browser, "ArrowRight")
    press(browser, "ArrowRight")
    assert link() == link_of(ids[2])
    press(browser, "ArrowLeft")
    assert link() == link_of(ids[1])
    press(browser, "ArrowDown")
    other = next(name for name in ("base", "bold") if name != ids[1].method)
    assert link() == link_of(replace(ids[1], method=other))
    press(browser, "Escape")
    assert not browser.execute_script("return document.getElementById('zoom').open")
    WebDriverWait(browser, 30).until(lambda _: link() == "")  # a dialog tells that it closed in a later task
    browser.get("about:blank")
    browser.get(page + link_of(ids[-1]))
    wait_for_images(browser)
    assert browser.execute_script("return document.getElementById('zoom').open")
    assert texts(browser, "dialog .large figcaption")[1] == title(ids[-1].method)


@pytest.mark.slow
def test_light_and_dark(out: Path, browser: Any) -> None:
    browser.get((out / "report.html").as_uri())
    wait_for_images(browser)
    colours = set()
    for _ in range(2):
        browser.execute_script("document.getElementById('theme').click()")
        colours.add(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert colours == {"rgb(246, 247, 249)", "rgb(18, 22, 29)"}
    browser.execute_script("localStorage.clear()")


@pytest.mark.slow
def test_scrolling_shows_every_image_once(out: Path, browser: Any) -> None:
    browser.get((out / "report.html").as_uri())
    wait_for_images(browser)
    seen = browser.execute_async_script(SCROLL)
    assert len(seen) == len(set(seen)) == N


SCROLL = """
const done = arguments[0], seen = new Set(), step = () => {
  for (const image of document.querySelectorAll(".card figure:last-child img")) seen.add(image.src);
  if (scrollY + innerHeight >= document.documentElement.scrollHeight - 1) { done([...seen]); return; }
  scrollBy(0, innerHeight);
  requestAnimationFrame(() => requestAnimationFrame(step));
};
step();
"""
