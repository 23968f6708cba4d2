"""A suite as data: subjects, prompts and how many images of each; and as JSON. `dreambench.registry` loads them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

from bdkit.utils.errors import InputError
from bdkit.utils.io import check_name

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
        """The suite with n subjects and n prompts of each list, spread evenly, and n samples; None keeps all."""
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


def suite_to_json(suite: Suite) -> dict[str, Any]:
    """The suite as plain JSON values, its hash among them; `suite_from_json` reads them."""
    return {"hash": suite.hash, **_plain(suite)}


def suite_from_json(values: Mapping[str, Any]) -> Suite:
    """The suite that `suite_to_json` wrote; InputError when values are missing or were changed."""
    try:
        fields = {key: value for key, value in values.items() if key != "hash"}
        fields["subjects"] = tuple(_subject(row) for row in fields["subjects"])
        for key in ("live_prompts", "object_prompts"):
            fields[key] = tuple(prompt_from_row(row) for row in fields[key])
        suite = Suite(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"suite.json does not describe a suite ({error}); generate the images again") from error
    if suite.hash != values.get("hash"):
        raise InputError("suite.json was changed after it was written; generate the images again")
    return suite


def _subject(row: Mapping[str, Any]) -> SuiteSubject:
    return SuiteSubject(
        check_name(row["name"], "the subject"),
        row["class_noun"],
        bool(row["live"]),
        int(row["n_references"]),
        row.get("category", ""),
        row.get("photo", ""),
        tuple(prompt_from_row(prompt) for prompt in row.get("prompts", ())),
    )


def prompt_from_row(row: Mapping[str, Any]) -> Prompt:
    """The prompt of a JSON object, or of a row of `data/prompts.csv`."""
    return Prompt(int(row["index"]), row["template"], row["kind"], row.get("published", ""))
