"""What a page, a program or a browser that dies can do to the server: nothing."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from app_helpers import Page, Server, save_subject
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.weights]
PATH = "../../../../../../etc/passwd"
UPLOADED = "your own images"
DRAW = {"prompt": "a {} in the snow", "seeds": "1", "steps": 2, "guidance": 4, "sampler": "the model's own"}


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


def test_two_pages_at_once_do_not_mix(client: Callable[[], Any], server: Server, tmp_path: Path) -> None:
    from bdkit import BlipDiffusion

    model = BlipDiffusion.from_pretrained("mini")
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
    new_page: Callable[[], Page], client: Callable[[], Any], server: Server
) -> None:
    before = set(server.sessions())
    page = new_page()
    page.tab("Teach")
    page.type("#teach-steps input[type=number]", "500")
    page.type("#teach-every input[type=number]", "100")
    page.click("#teach-go")
    page.says("teach-status", "loss")
    (folder,) = set(server.sessions()) - before
    browser = psutil.Process(page.driver.service.process.pid)
    for process in [*browser.children(recursive=True), browser]:
        process.kill()
    images, _ = draw(client())  # it would wait for 500 steps otherwise
    assert len(images) == 1
    for _ in range(600):
        if not folder.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"{folder} is still there")
