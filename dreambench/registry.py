"""The suites by name. A new one is a function and a line in `load_suite`.

`subjects.csv` and `prompts.csv` hold DreamBench's own lists (DreamBooth paper, arXiv 2208.12242), parsed once from the
published `prompts_and_classes.txt`.
"""

import csv
import re
from pathlib import Path
from typing import Literal

from bdkit.utils.errors import InputError
from dreambench.dreambench_plus import read_suite
from dreambench.suites import Prompt, Suite, SuiteSubject, prompt_from_row

DATA = Path(__file__).parent / "data"
KNOWN_SUITES = ("dreambench", "dreambench-plus", "mini", "mini@SEED", "mini-dev", "mini-quick")
SAMPLES_PER_PROMPT = 4

# What `make bench` measures: chosen to take minutes on two cores
QUICK_SUBJECTS = ("dog", "vase", "colorful_sneaker")
QUICK_LIVE_PROMPTS = (0, 2, 11, 20)
QUICK_OBJECT_PROMPTS = (0, 2, 12, 20)
QUICK_SAMPLES = 2


def load_suite(name: str, photos: Path | None = None) -> Suite:
    """The suite of that name: dreambench, dreambench-plus, mini (or mini@0), mini@SEED, mini-dev or mini-quick.

    mini@SEED: 30 procedural subjects with DreamBench's names and classes, held out from all training.
    mini-dev: other held-out subjects, to tune on. mini-quick: a handful of mini@0's subjects and prompts.
    dreambench-plus is also known as dreambench++.
    photos: DreamBench++'s published folder, which that suite is read from
    """
    if name in ("dreambench-plus", "dreambench++"):
        return read_suite(photos)
    subjects = load_subjects()
    live, objects = load_prompts("live"), load_prompts("object")
    if name == "dreambench":
        return Suite(name, subjects, live, objects, SAMPLES_PER_PROMPT, "photos")
    if name == "mini-dev":
        return Suite(name, subjects, live, objects, SAMPLES_PER_PROMPT, "procedural", 0, "dev")
    if name == "mini-quick":
        return Suite(
            name,
            tuple(subject for wanted in QUICK_SUBJECTS for subject in subjects if subject.name == wanted),
            tuple(live[index] for index in QUICK_LIVE_PROMPTS),
            tuple(objects[index] for index in QUICK_OBJECT_PROMPTS),
            QUICK_SAMPLES,
            "procedural",
            0,
            "test",
        )
    numbered = re.fullmatch(r"mini(?:@(0|[1-9][0-9]{0,8}))?", name)
    if numbered is None:
        raise InputError(f"unknown suite {name!r}; known are {', '.join(KNOWN_SUITES)}")
    seed = int(numbered[1] or 0)
    return Suite(f"mini@{seed}", subjects, live, objects, SAMPLES_PER_PROMPT, "procedural", seed, "test")


def load_subjects() -> tuple[SuiteSubject, ...]:
    """DreamBench's 30 subjects in the published order."""
    return tuple(
        SuiteSubject(row["name"], row["class_noun"], row["live"] == "1", int(row["n_references"]))
        for row in read_rows("subjects.csv")
    )


def load_prompts(name: Literal["live", "object"]) -> tuple[Prompt, ...]:
    """DreamBench's 25 prompts for live subjects or for objects, in the published order."""
    return tuple(prompt_from_row(row) for row in read_rows("prompts.csv") if row["list"] == name)


def class_nouns() -> tuple[str, ...]:
    """DreamBench's 15 class nouns in the order of their first subjects; a classifier's class index counts in it."""
    return tuple(dict.fromkeys(subject.class_noun for subject in load_subjects()))


def read_rows(name: str) -> list[dict[str, str]]:
    """The rows of one of this package's CSV files."""
    with open(DATA / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
