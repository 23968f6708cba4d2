"""Runs of a tiny method, some of which are slow enough to be killed, or fail; and what a child process runs."""

import atexit
import multiprocessing
import re
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from eval_helpers import METHODS, ROWS, TinyMethod, exact_evaluators
from PIL import Image

from bdkit.utils.errors import InputError
from eval.experiments import BenchConfig
from eval.generate.executors import one_thread
from eval.generate.run import generate
from eval.score.score import ScoreOptions, score_folder


class Slow(TinyMethod):
    """Takes its time, as real ones do; the images are the same."""

    def __init__(self, model: str) -> None:
        super().__init__(model, delay=0.01)


class VerySlow(TinyMethod):
    """Would take hours."""

    def __init__(self, model: str) -> None:
        super().__init__(model, delay=2.0)


class Held(TinyMethod):
    """Waits in `fit`, after it has said where it is, until `go` exists."""

    def __init__(self, model: str, folder: Path) -> None:
        super().__init__(model)
        self.folder = folder

    def fit(self, images: list[Image.Image], class_noun: str, seed: int) -> None:
        import ray

        (self.folder / f"{seed}-{ray.get_runtime_context().get_node_id()}").touch()
        wait_for(lambda: (self.folder / "go").exists())
        super().fit(images, class_noun, seed)


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def refuse(value: int) -> int:
    if value == 2:
        raise InputError("two is too many")
    return value * value


class OtherWeights(TinyMethod):
    def __init__(self, model: str) -> None:
        super().__init__(model, weights="b")


def config(out: Path, **named: Any) -> BenchConfig:
    """2 subjects, 2 prompts, 2 samples, 2 seed sets; 3 rows and the ground truth: 64 images of 12 tasks."""
    values = {"suite": "mini-quick", "subjects": 2, "prompts": 2, "seed_sets": (0, 2), "rows": ROWS, "model": "m"}
    return BenchConfig(**{**values, "out": out, **named})


SUITE = config(Path()).load_suite()


def run(out: Path, tiny: Any = TinyMethod, score: bool = False, cache: Path | None = None, **named: Any) -> bool:
    """Generates and, when asked, scores, as `bdkit bench` and `bdkit score` do."""
    with one_thread():
        complete = generate(config(out, **named), methods={**METHODS, "tiny": tiny}, show_progress=False)
        if score:
            score_folder(out, exact_evaluators("mini"), options=ScoreOptions(cache=cache), show_progress=False)
    return complete


# children are forked from a fresh process that has imported everything, so that a start takes no time
CHILDREN = multiprocessing.get_context("forkserver")
STARTED: list[BaseProcess] = []


@atexit.register
def leave_no_child() -> None:
    """A failed test may have left some at work."""
    for child in STARTED:
        child.kill()


def start(**named: Any) -> BaseProcess:
    """`run` in a child process."""
    CHILDREN.set_forkserver_preload(["generate_helpers"])
    child = CHILDREN.Process(target=run, kwargs=named)
    child.start()
    STARTED.append(child)
    return child


def files(out: Path, *, times: bool = False) -> dict[str, Any]:
    """Every file under OUT/images and OUT/references, none half written: its content, or when it was written."""
    paths = [path for name in ("images", "references") for path in (out / name).rglob("[!.]*.png")]
    return {str(path.relative_to(out)): path.stat().st_mtime_ns if times else path.read_bytes() for path in paths}


# Classes of your own as rows

DOCS = Path(__file__).parents[3] / "docs" / "own_method.md"
SMALL: dict[str, Any] = {"suite": "mini-quick", "prompts": 2, "ground_truth": False, "workers": 1}
MINE = '''
from PIL import Image

class Mine:
    """The mean colour of the images, brighter with each seed."""
    def __init__(self, gain=1):
        self.gain = gain
    def fit(self, images, class_noun, seed):
        self.colour = images[0].resize((1, 1)).getpixel((0, 0))
    def generate(self, prompt_template, class_noun, seeds):
        assert isinstance(prompt_template, str)
        return [Image.new("RGB", (64, 64), tuple((c * self.gain + s) % 256 for c in self.colour)) for s in seeds]

def factory(model, gain=2):
    return Mine(gain)

class NoFit:
    def generate(self, prompt_template, class_noun, seeds): ...

class OtherArguments(Mine):
    def fit(self, images): ...

class Single(Mine):
    def generate(self, prompt_template, class_noun, seeds):
        return super().generate(prompt_template, class_noun, seeds)[0]

class TooFew(Mine):
    def generate(self, prompt_template, class_noun, seeds):
        return super().generate(prompt_template, class_noun, seeds)[1:]

class BadSettings(Mine):
    settings = {"a": object()}

class Stepped(Mine):
    snapshots = (1, 2)
    def select(self, step):
        self.gain = 3 if step is None else step

constant = 3
'''


def blocks(language: str) -> str:
    """The one block of a language in the document."""
    (block,) = re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(), re.DOTALL)
    return block


def made(out: str, *methods: str, **named: Any) -> dict[str, bytes]:
    """The images of a run with classes of the working folder."""
    with one_thread():
        assert generate(BenchConfig(**{**SMALL, "out": Path(out), "methods": methods, **named}), show_progress=False)
    return files(Path(out))
