"""Benches that are slow enough to be killed, that fail, and what a child process of the tests runs."""

import atexit
import multiprocessing
import os
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from exact_evaluators import evaluators
from PIL import Image
from tiny_bench import METHODS, ROWS, TinyMethod

from bdkit.utils.errors import InputError
from dreambench.suites import load_suite
from eval.generate.maker import one_thread
from eval.generate.rows import Generation
from eval.generate.runner import generate
from eval.score.score import ScoreOptions, score_folder

SUITE = load_suite("mini-quick").limited(subjects=2, prompts=2)
DELAY = 0.01


class Slow(TinyMethod):
    """Takes its time, as real ones do; the images are the same."""

    def __init__(self, model: str) -> None:
        super().__init__(model, delay=DELAY)


class VerySlow(TinyMethod):
    """Would take hours."""

    def __init__(self, model: str) -> None:
        super().__init__(model, delay=2.0)


class Refusing(TinyMethod):
    """Tells of a mistake of the user's."""

    def fit(self, images: list[Image.Image], class_noun: str, seed: int) -> None:
        raise InputError(f"no {class_noun} can be fitted here; try another")


class Broken(TinyMethod):
    """Has a fault of its own."""

    def fit(self, images: list[Image.Image], class_noun: str, seed: int) -> None:
        raise ZeroDivisionError("a fault in a method")


class Dying(TinyMethod):
    """Is killed, as by the system when memory runs out."""

    def fit(self, images: list[Image.Image], class_noun: str, seed: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def job(out: Path, tiny: Any = TinyMethod, **named: Any) -> Generation:
    values = {
        "suite": SUITE,
        "rows": ROWS,
        "model": "m",
        "out": out,
        "methods": {**METHODS, "tiny": tiny},
        "seed_sets": (0, 2),
        "show_progress": False,
    }
    return Generation(**{**values, **named})


def run(
    out: Path,
    tiny: Any = TinyMethod,
    score: bool = False,
    cache: Path | None = None,
    score_shard: tuple[int, int] = (1, 1),
    **named: Any,
) -> None:
    """Generates and, when asked, scores, as `bdkit bench` and `bdkit score` do."""
    with one_thread():
        generate(job(out, tiny, **named))
        if score:
            options = ScoreOptions(cache=cache, shard=score_shard)
            score_folder(out, evaluators("mini"), options=options, show_progress=False)


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
    CHILDREN.set_forkserver_preload(["fault_bench", "eval.generate.runner", "eval.score.score"])
    child = CHILDREN.Process(target=run, kwargs=named)
    child.start()
    STARTED.append(child)
    return child


def pictures(out: Path) -> dict[str, bytes]:
    """Every file under OUT/pictures."""
    return {str(path.relative_to(out)): path.read_bytes() for path in (out / "images").rglob("*") if path.is_file()}
