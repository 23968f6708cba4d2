"""The page in a real browser."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from app_helpers import Page, Server, choose, held_out, save_subject, set_number, shown

pytestmark = [pytest.mark.slow, pytest.mark.weights]


@pytest.fixture(scope="module")
def model() -> Any:
    from bdkit import BlipDiffusion

    return BlipDiffusion.from_pretrained("mini")


def test_draws_what_the_library_draws_and_asks_nothing_of_the_network(page: Page, server: Server, model: Any) -> None:
    page.type("#draw-prompt textarea", "a {} on the beach")
    page.type("#draw-seeds textarea", "3")
    page.click("#draw-go")
    assert page.says("draw-status", "1 image").startswith("1 image in ")
    (expected,) = model("a {} on the beach", *held_out(), seeds=[3])
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


def test_teaches_and_draws_what_it_learned(new_page: Callable[[], Page], model: Any) -> None:
    from bdkit.methods import build_method

    page = new_page()
    page.tab("Teach")
    set_number(page, "#teach-steps", 10)
    set_number(page, "#teach-every", 5)
    page.click("#teach-go")
    page.says("teach-status", "Learned in 10 steps")
    assert len(page.wait("document.querySelector('#teach-loss polyline').getAttribute('points')").split()) == 10
    page.wait("document.querySelectorAll('#teach-previews img').length === 2")
    page.tab("Draw")
    page.wait("document.querySelector('#subject input').value === 'taught here 1: dog, 10 steps'")
    page.type("#draw-seeds textarea", "5")
    page.click("#draw-go")
    page.says("draw-status", "1 image")
    method = build_method("blip-diffusion", model, steps=10)
    method.fit(*held_out(), 0)
    (expected,) = method.generate("a {} in the snow", "dog", [5])
    assert shown(page, "draw-images").tobytes() == expected.tobytes()


def test_edits_inside_a_painted_mask(page: Page) -> None:
    from selenium.webdriver import ActionChains

    page.tab("Edit")
    page.click("#edit-go")
    page.says("edit-status", "Edited")
    page.click("#edit-show")
    page.wait("document.querySelector('#edit-status .says') === null")
    choose(page, "#edit-mask", "painted")
    page.click("#edit-go")
    page.says("edit-status", "Nothing is painted")
    canvas = page.driver.find_element("css selector", "#edit-canvas canvas")
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    strokes = ActionChains(page.driver, duration=20).move_to_element(canvas).click_and_hold()
    strokes.move_by_offset(40, 0).move_by_offset(0, 40).release().perform()
    page.click("#edit-go")
    page.says("edit-status", "Edited")
    mask = np.asarray(shown(page, "edit-used").convert("L")) > 127
    assert 0.01 < mask.mean() < 0.6
    before, after = (np.asarray(shown(page, "edit-slider", number).convert("RGB"), int) for number in (0, 1))
    changed = abs(before - after).max(axis=-1) > 8
    assert changed[mask].mean() > 0.2
    assert changed[:6].sum() == 0  # far from what is painted the source stays


def test_stop_ends_a_run_and_another_can_start(page: Page, server: Server) -> None:
    page.tab("Draw")
    written = {path for folder in server.sessions() for path in folder.glob("image-*")}
    page.type("#draw-prompt textarea", "a {} in the snow")
    page.type("#draw-seeds textarea", "0-7")
    page.driver.execute_script("document.querySelectorAll('.label-wrap').forEach((b) => b.click())")
    set_number(page, "#draw-steps", 100)
    page.click("#draw-go")
    page.wait("document.querySelector('#draw-images').textContent.includes('drawing 8 images')")
    page.click("#draw-stop")
    page.says("draw-status", "Stopped.")
    set_number(page, "#draw-steps", 2)
    page.type("#draw-seeds textarea", "4")
    page.click("#draw-go")
    page.says("draw-status", "1 image")
    new = {path for folder in server.sessions() for path in folder.glob("image-*")} - written
    assert len(new) == 1


def test_controls_looks_and_compares(page: Page) -> None:
    page.tab("Control and style")
    page.click("#control-go")
    page.says("control-status", "3 images")
    page.wait("document.querySelectorAll('#control-images img').length === 5")  # shape and edges come first
    page.tab("Look inside")
    page.click("#look-go")
    page.says("look-status", "vectors and words")
    page.wait("document.querySelectorAll('#look-maps img').length >= 17")
    page.tab("Compare")
    set_number(page, "#compare-steps", 2)
    page.click("#compare-go")
    page.says("compare-status", "3 methods")
    text = page.wait("document.querySelector('#compare-rows').innerText")
    for words in ("base", "blip-diffusion-zero-shot", "blip-diffusion-finetuned", "DINO", "CLIP-T"):
        assert words in text
