"""The page in a real browser."""

import json
from pathlib import Path

import pytest
from app_helpers import Page, Server, save_subject, shown

pytestmark = [pytest.mark.slow, pytest.mark.weights]


def test_draws_what_the_library_draws_and_asks_nothing_of_the_network(page: Page, server: Server) -> None:
    from bdkit import BlipDiffusion
    from dreambench.registry import load_suite
    from eval.generate.references import load_references

    page.type("#draw-prompt textarea", "a {} on the beach")
    page.type("#draw-seeds textarea", "3")
    page.click("#draw-go")
    assert page.says("draw-status", "1 image").startswith("1 image in ")
    suite = load_suite("mini")
    dog = next(subject for subject in suite.subjects if subject.name == "dog")
    model = BlipDiffusion.from_pretrained("mini")
    (expected,) = model("a {} on the beach", load_references(suite, dog), "dog", seeds=[3])
    assert shown(page, "draw-images").tobytes() == expected.tobytes()
    requests = [json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in requests if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if url.startswith("http") and not url.startswith(server.url)] == []


def test_draws_uploaded_images_and_says_what_is_wrong(page: Page, tmp_path: Path) -> None:
    page.upload("#upload", *save_subject(tmp_path))
    page.says("subject-status", "2 images of yours")
    page.wait("document.querySelectorAll('.thumbs img').length === 2")
    page.type("#draw-seeds textarea", "1-2")
    page.click("#draw-go")
    page.says("draw-status", "2 images")
    page.type("#draw-prompt textarea", "a {} with a {}")
    page.click("#draw-go")
    page.says("draw-status", "{}")
    page.type("#draw-prompt textarea", "a {} in the snow")
    page.type("#draw-seeds textarea", "0-99")
    page.click("#draw-go")
    page.says("draw-status", "at most 8 at once")
