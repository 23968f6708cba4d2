"""The page in a real browser, and what a program or a browser that dies can do to the server: nothing."""

import io
import json
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import psutil
import pytest
from app_helpers import ANSWERS_WITHIN, Page, Server, choose, held_out, save_subject, set_number, shown
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.weights]  # one file, so that one server serves all
PATH = "../../../../../../etc/passwd"
UPLOADED = "your own images"
DRAW = {"prompt": "a {} in the snow", "seeds": "1", "steps": 2, "guidance": 4, "sampler": "the model's own"}


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


def test_teaches_and_draws_what_it_learned_and_downloads_it(page: Page, tmp_path: Path) -> None:
    from bdkit.checkpoints.adapters import load_drawable

    page.tab("Teach")
    page.click("#teach-save")
    page.says("teach-status", "can be downloaded")
    set_number(page, "#teach-steps", 10)
    set_number(page, "#teach-every", 5)
    page.click("#teach-go")
    page.says("teach-status", "Learned in 10 steps")
    assert len(page.wait("document.querySelector('#teach-loss polyline').getAttribute('points')").split()) == 10
    page.wait("document.querySelectorAll('#teach-previews img').length === 2")
    page.wait("document.querySelector('#subject input').value === 'taught here 1: dog, 10 steps'")
    page.click("#teach-save")
    page.says("teach-status", "taught-1.zip is below")
    link = page.wait("document.querySelector('#teach-saved a[download]')?.href")
    with urlopen(link) as answer, zipfile.ZipFile(io.BytesIO(answer.read())) as archive:
        archive.extractall(tmp_path)
    page.tab("Draw")
    page.type("#draw-seeds textarea", "5")
    page.click("#draw-go")
    page.says("draw-status", "1 image")
    model = load_drawable(tmp_path / "taught-1")
    (expected,) = model("a {} in the snow", seeds=[5])
    assert shown(page, "draw-images").tobytes() == expected.tobytes()


def test_edits_inside_a_painted_mask(page: Page) -> None:
    from selenium.webdriver import ActionChains

    page.tab("Edit")
    choose(page, "#edit-mask", "painted")
    page.click("#edit-go")
    page.says("edit-status", "Nothing is painted")
    page.click("#edit-show")
    page.wait("document.querySelector('#edit-status .says') === null")
    page.wait("document.querySelector('#edit-canvas canvas')")
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
    page.type("#draw-seeds textarea", "0-1")
    page.driver.execute_script("document.querySelectorAll('.label-wrap').forEach((b) => b.click())")
    set_number(page, "#draw-steps", 100)
    page.click("#draw-go")
    page.wait("document.querySelector('#draw-images').textContent.includes('drawing 2 images')")
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
    page.type("#control-seeds textarea", "1")
    page.click("#control-go")
    page.says("control-status", "1 image")
    page.wait("document.querySelectorAll('#control-images img').length === 3")  # shape and edges come first
    page.tab("Look inside")
    set_number(page, "#look-steps", 2)
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


@pytest.fixture
def client(server: Server) -> Callable[[], Any]:
    """Makes programs that use the page's interface; each has a session of its own."""
    gradio_client = pytest.importorskip("gradio_client")
    return lambda: gradio_client.Client(server.url, verbose=False, download_files=False)


def sent(*paths: Path) -> list[Any]:
    from gradio_client import handle_file

    return [handle_file(str(path)) for path in paths]


def upload(program: Any, *paths: Path) -> str:
    """The sentence that the page says of uploaded files."""
    return program.predict(sent(*paths), "dog", api_name="/upload")[-1]


def draw(program: Any, name: str = "dog", **changes: Any) -> tuple[Any, str]:
    values = {"name": name, "noun": "dog", "negative": "", **DRAW, **changes}
    return program.predict(**values, api_name="/draw")


def test_files_that_are_no_images_are_named_in_a_sentence(client: Callable[[], Any], tmp_path: Path) -> None:
    program = client()
    huge, text, large = tmp_path / "huge.png", tmp_path / "text.png", tmp_path / "large.png"
    Image.new("1", (10_000, 7_000)).save(huge)
    text.write_text("no image at all")
    large.write_bytes(bytes(4 * 2**20))
    assert "more than 64 million pixels" in upload(program, huge)
    assert "text.png is not a readable image" in upload(program, text)
    with pytest.raises(Exception, match="exceeds the maximum file size"):
        upload(program, large)
    assert "at most 6" in upload(program, *save_subject(tmp_path, count=7))
    assert "1 image of yours" in upload(program, *save_subject(tmp_path, count=1))


def test_a_path_in_any_field_is_never_opened(client: Callable[[], Any], server: Server) -> None:
    program = client()
    endpoints = program.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert {"/draw", "/teach", "/edit", "/control", "/look", "/compare", "/upload"} <= endpoints.keys()
    small = {"steps": 1, "every": 1, "samples": 1, "chosen": ["base"], "seeds": "0"}
    for endpoint, described in endpoints.items():
        parameters = {entry["parameter_name"]: entry for entry in described["parameters"]}
        values = {name: small.get(name, entry["parameter_default"]) for name, entry in parameters.items()}
        for name, entry in parameters.items():
            if "str" not in entry["python_type"]["type"] and "filepath" not in entry["python_type"]["type"]:
                continue
            wrong: Any = PATH
            if "filepath" in entry["python_type"]["type"]:
                wrong = {"path": PATH, "meta": {"_type": "gradio.FileData"}}
                wrong = [wrong] if "list" in entry["python_type"]["type"] else wrong
            try:
                answer = program.predict(**{**values, name: wrong}, api_name=endpoint)
            except Exception as error:
                answer = error
            assert "root:" not in str(answer), (endpoint, name)
    images, status = draw(program)
    assert len(images) == 1, status
    assert server.process.poll() is None


def test_two_pages_at_once_do_not_mix(client: Callable[[], Any], model: Any, tmp_path: Path) -> None:
    programs = [client(), client()]
    subjects = [save_subject(tmp_path, seed=seed) for seed in (1, 2)]
    with pytest.raises(Exception, match=UPLOADED):
        draw(programs[0], UPLOADED)
    for program, paths in zip(programs, subjects, strict=True):
        upload(program, *paths)
    answers: dict[int, Any] = {}

    def work(number: int) -> None:
        answers[number] = [draw(programs[number], UPLOADED, seeds=str(seed))[0][0] for seed in (7, 8)]

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, paths in enumerate(subjects):
        images = [Image.open(path) for path in paths]
        expected = [model(DRAW["prompt"], images, "dog", seeds=[seed], num_inference_steps=2)[0] for seed in (7, 8)]
        drawn = [Image.open(one["image"]["path"]).convert("RGB") for one in answers[number]]
        assert [image.tobytes() for image in drawn] == [image.tobytes() for image in expected]
        assert len({Path(one["image"]["path"]).parent for one in answers[number]}) == 1
    assert answers[0][0]["image"]["path"] != answers[1][0]["image"]["path"]


def test_a_browser_that_is_killed_frees_the_models_and_its_folder(
    page: Page, browsers: list[Page], client: Callable[[], Any], server: Server
) -> None:
    before = set(server.sessions())
    page.open(server.url)
    page.tab("Teach")
    page.type("#teach-steps input[type=number]", "500")
    page.type("#teach-every input[type=number]", "100")
    page.click("#teach-go")
    page.says("teach-status", "loss")
    (folder,) = set(server.sessions()) - before
    browser = psutil.Process(page.driver.service.process.pid)
    for process in [*browser.children(recursive=True), browser]:
        process.kill()
    browsers.clear()
    images, _ = draw(client())
    assert len(images) == 1
    assert not (folder / "taught-1").exists(), "the lesson of 500 steps came first"
    end = time.monotonic() + ANSWERS_WITHIN
    while folder.exists():
        assert time.monotonic() < end, f"{folder} is still there"
        time.sleep(0.1)
