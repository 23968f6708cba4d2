"""The app as its tests see it: the server and its page."""

import base64
import io
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ANSWERS_WITHIN = 900  # seconds; many times what a busy machine takes


@dataclass
class Server:
    """A running `bdkit app`: its page, its process and the folder that holds its files."""

    url: str
    process: subprocess.Popen[str]
    folder: Path

    def sessions(self) -> list[Path]:
        return sorted(self.folder.glob("bdkit-app-*/sessions/*"))


@dataclass
class Page:
    """A browser that shows the app."""

    driver: Any

    def open(self, url: str) -> None:
        """Loads the app again: a session of its own, with the first subject chosen."""
        self.driver.get("about:blank")
        self.driver.get(url)
        self.wait("document.querySelectorAll('.thumbs img').length")

    def wait(self, expression: str, *arguments: Any) -> Any:
        """The value of a JavaScript expression, once it is true."""
        end = time.monotonic() + ANSWERS_WITHIN
        while time.monotonic() < end:
            value = self.driver.execute_script(f"return {expression}", *arguments)
            if value:
                return value
            time.sleep(0.1)
        raise AssertionError(
            f"never true: {expression}\n{self.driver.execute_script('return document.body.innerText')}"
        )

    def click(self, selector: str) -> None:
        self.wait("document.querySelector(arguments[0])", selector)
        self.driver.execute_script("document.querySelector(arguments[0]).click()", selector)

    def tab(self, name: str) -> None:
        button = "[...document.querySelectorAll('button[role=tab]')].find((b) => b.textContent.trim() === arguments[0])"
        self.wait(button, name)
        self.driver.execute_script(f"{button}.click()", name)

    def type(self, selector: str, text: str) -> None:
        """Replaces the text of a field."""
        self.driver.execute_script(
            "const field = document.querySelector(arguments[0]); field.value = arguments[1];"
            "field.dispatchEvent(new Event('input', {bubbles: true})); field.dispatchEvent(new Event('change'));",
            selector, text,
        )  # fmt: skip

    def says(self, element: str, words: str = "") -> str:
        """What the line of that id says, once it holds the words."""
        return self.wait(
            "((e) => e && e.textContent.includes(arguments[1]) && e.textContent)"
            "(document.querySelector(`#${arguments[0]} .says`))",
            element, words,
        )  # fmt: skip

    def upload(self, selector: str, *paths: Path) -> None:
        self.driver.find_element("css selector", f"{selector} input[type=file]").send_keys("\n".join(map(str, paths)))


def shown(page: Page, gallery: str, number: int = 0) -> Image.Image:
    """An image of a gallery, as the browser got it."""
    sources = page.wait(
        "((s) => s.length > arguments[1] && s)"
        "([...document.querySelectorAll(`#${arguments[0]} img`)].map((i) => i.src))",
        gallery, number,
    )  # fmt: skip
    data = page.driver.execute_async_script(
        "const done = arguments[1]; fetch(arguments[0]).then((r) => r.blob()).then((b) => {"
        "const reader = new FileReader(); reader.onload = () => done(reader.result); reader.readAsDataURL(b); })",
        sources[number],
    )
    return Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2])))


def save_subject(folder: Path, count: int = 2, seed: int = 0) -> list[Path]:
    rng = np.random.default_rng(seed)
    paths = [folder / f"{seed}-{number}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (80, 70, 3), dtype=np.uint8)).save(path)
    return paths


def set_number(page: Page, selector: str, value: int) -> None:
    page.type(f"{selector} input[type=number]", str(value))


def choose(page: Page, selector: str, value: str) -> None:
    """Presses a radio button."""
    page.click(f'{selector} input[value="{value}"]')


def held_out(name: str = "dog") -> tuple[list[Image.Image], str]:
    """The images of a subject of the mini world, and its class word."""
    from dreambench.registry import load_suite
    from eval.generate.references import load_references

    suite = load_suite("mini")
    subject = next(subject for subject in suite.subjects if subject.name == name)
    return load_references(suite, subject), subject.class_noun
