"""The suites as data: subjects, prompts and how many images of each.

`subjects.csv` and `prompts.csv` hold DreamBench's own lists (DreamBooth paper, arXiv 2208.12242), parsed once from the
published `prompts_and_classes.txt`.
"""

import csv
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from bdkit.utils.errors import InputError

HERE = Path(__file__).parent / "data"
KNOWN_SUITES = ("dreambench", "dreambench-plus", "mini", "mini@SEED", "mini-dev", "mini-quick")
SAMPLES_PER_PROMPT = 4
LIST_NAMES = ("object", "live")

# What `make bench` measures: chosen to take minutes on two cores
QUICK_SUBJECTS = ("dog", "vase", "colorful_sneaker")
QUICK_LIVE_PROMPTS = (0, 2, 11, 20)
QUICK_OBJECT_PROMPTS = (0, 2, 12, 20)
QUICK_SAMPLES = 2

PromptKind = Literal["context", "outfit", "property", "photorealistic", "style_transfer", "imaginative"]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Prompt:
    """One prompt of a subject's list.

    index: from 0 in the subject's list (DreamBench: its live or object list of 25)
    template: for example "a {} {} in the jungle"; the first {} is the method's own token, the second the class noun
    kind: what it asks for. DreamBench: a place ("context"), clothes ("outfit") or a changed property ("property");
        DreamBench++: "photorealistic", "style_transfer" or "imaginative"
    published: the published words where the filled template differs from them; empty: it doesn't
    """

    index: int
    template: str
    kind: PromptKind
    published: str = ""

    def text(self, class_noun: str) -> str:
        """The prompt in plain words with the class noun and no token, as CLIP-T reads it."""
        return self.published or " ".join(self.template.format("", class_noun).split())


@dataclass(frozen=True)
class SuiteSubject:
    """One subject: its published name and class noun, whether it is a live one, how many references.

    category: DreamBench++'s "animal", "human", "object" or "style"; empty in suites that have none
    photo: path of its only reference below the photos' folder; empty: the images of the folder of its name
    prompts: its own prompts; empty: the suite's list for live subjects or for objects
    """

    name: str
    class_noun: str
    live: bool
    n_references: int
    category: str = ""
    photo: str = ""
    prompts: tuple[Prompt, ...] = ()


@dataclass(frozen=True)
class Suite:
    """Everything that is to be generated, as data.

    source: "photos" (a folder with one folder a subject) or "procedural" (drawn by the mini world)
    seed, split: of the procedural subjects; None for photos
    """

    name: str
    subjects: tuple[SuiteSubject, ...]
    live_prompts: tuple[Prompt, ...]
    object_prompts: tuple[Prompt, ...]
    samples_per_prompt: int
    source: Literal["photos", "procedural"]
    seed: int | None = None
    split: str | None = None

    def prompts(self, subject: SuiteSubject) -> tuple[Prompt, ...]:
        """The prompts that `subject` is measured with."""
        return subject.prompts or (self.live_prompts if subject.live else self.object_prompts)

    @property
    def hash(self) -> str:
        """16 hex digits that change with any subject, prompt or number of the suite."""
        text = json.dumps(_plain(self), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def n_images(self) -> int:
        """Images a method makes for one seed set."""
        return sum(len(self.prompts(subject)) for subject in self.subjects) * self.samples_per_prompt

    def limited(self, subjects: int | None = None, prompts: int | None = None, samples: int | None = None) -> "Suite":
        """The suite with n subjects and prompts of each list, spread evenly over them, and n samples; None keeps all.

        Raises InputError for a limit below 1.
        """
        for name, limit in (("subjects", subjects), ("prompts", prompts), ("samples", samples)):
            if limit is not None and limit < 1:
                raise InputError(f"a limit of {limit} {name} leaves nothing to measure; give at least 1")
        return replace(
            self,
            subjects=tuple(
                replace(subject, prompts=_spread(subject.prompts, prompts))
                for subject in _spread(self.subjects, subjects)
            ),
            live_prompts=_spread(self.live_prompts, prompts),
            object_prompts=_spread(self.object_prompts, prompts),
            samples_per_prompt=min(self.samples_per_prompt, samples or self.samples_per_prompt),
        )


def _plain(suite: Suite) -> dict[str, Any]:
    """The suite as plain values; fields that few suites fill are left out where they are empty."""
    values = asdict(suite)
    rows = [*values["subjects"], *values["live_prompts"], *values["object_prompts"]]
    rows += [prompt for subject in values["subjects"] for prompt in subject["prompts"]]
    for row in rows:
        for name in ("category", "photo", "prompts", "published"):
            if not row.get(name, True):
                del row[name]
    return values


def _spread(items: tuple[Item, ...], count: int | None) -> tuple[Item, ...]:
    """`count` of the items at even distances, the first among them; all when there are no more."""
    if count is None or count >= len(items):
        return items
    return tuple(items[index * len(items) // count] for index in range(count))


def load_suite(name: str, photos: Path | None = None) -> Suite:
    """The suite of that name: dreambench, dreambench-plus, mini (or mini@0), mini@SEED, mini-dev or mini-quick.

    mini@SEED: 30 procedural subjects with DreamBench's names and classes, held out from all training.
    mini-dev: other held-out subjects, to tune on. mini-quick: a handful of mini@0's subjects and prompts.
    dreambench-plus is also known as dreambench++.
    photos: DreamBench++'s published folder, which that suite is read from

    Raises InputError for an unknown name, and where DreamBench++'s folder is not what was published.
    """
    if name in ("dreambench-plus", "dreambench++"):
        from dreambench.dreambench_plus import read_suite

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


def load_prompts(list_name: Literal["live", "object"]) -> tuple[Prompt, ...]:
    """DreamBench's 25 prompts for live subjects or for objects, in the published order."""
    rows = (row for row in read_rows("prompts.csv") if row["list"] == list_name)
    return tuple(_prompt(row) for row in rows)


def class_nouns() -> tuple[str, ...]:
    """DreamBench's 15 class nouns in the order of their first subjects; a classifier's class index counts in it."""
    return tuple(dict.fromkeys(subject.class_noun for subject in load_subjects()))


def read_rows(name: str) -> list[dict[str, str]]:
    """The rows of one of this package's CSV files."""
    with open(HERE / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def suite_to_json(suite: Suite) -> dict[str, Any]:
    """The suite as plain JSON values, its hash among them; `suite_from_json` reads them."""
    return {"hash": suite.hash, **_plain(suite)}


def suite_from_json(values: Mapping[str, Any]) -> Suite:
    """The suite that `suite_to_json` wrote. Raises InputError when values are missing or were changed."""
    try:
        fields = {key: value for key, value in values.items() if key != "hash"}
        for key, make in (("subjects", _subject), ("live_prompts", _prompt), ("object_prompts", _prompt)):
            fields[key] = tuple(make(row) for row in fields[key])
        suite = Suite(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"suite.json does not describe a suite ({error}); generate the images again") from error
    if suite.hash != values.get("hash"):
        raise InputError("suite.json was changed after it was written; generate the images again")
    return suite


def _subject(row: Mapping[str, Any]) -> SuiteSubject:
    return SuiteSubject(
        row["name"],
        row["class_noun"],
        bool(row["live"]),
        int(row["n_references"]),
        row.get("category", ""),
        row.get("photo", ""),
        tuple(_prompt(prompt) for prompt in row.get("prompts", ())),
    )


def _prompt(row: Mapping[str, Any]) -> Prompt:
    return Prompt(int(row["index"]), row["template"], row["kind"], row.get("published", ""))
