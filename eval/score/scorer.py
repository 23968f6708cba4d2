"""Embedded images -> one value for each image and metric."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bdkit.utils.errors import InputError
from bdkit.utils.seeds import derive_seed
from dreambench.suites import Suite, SuiteSubject, class_nouns
from eval.results_dir import REAL, REAL_WITH_SELF, Job, Slot, slots
from eval.score.check import Audit
from eval.score.extras import Extras, Placed, image_place, reference_place
from eval.score.features import CLASSIFIER, Embeddings
from eval.score.images import Picture
from eval.score.metrics import Batch, Metric
from eval.score.metrics.base import FloatArray, nearest_of_references
from eval.score.protocols import Protocol

COLUMNS = ("method", "seed_set", "subject", "prompt", "sample", "metric", "value")
PROTOCOL_COLUMN = "protocol"
NO_PROMPT = -1
TEXT_ENCODERS = ("siglip2",)
Pairs = NDArray[np.bool_]


@dataclass
class Scorer:
    """Keeps every metric's value of every image.

    references: for each of the suite's subjects the files of its references
    extras: what optional metrics need beside the networks' rows
    """

    suite: Suite
    rules: Protocol
    metrics: Sequence[Metric]
    audit: Audit
    embeddings: Embeddings
    references: Sequence[Sequence[Path]]
    token: str
    extras: Extras | None = None
    rows: list[tuple[str, int, int, int, int, int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._texts_are_there = False
        self.networks = [name for name in self.embeddings.networks if name != CLASSIFIER]
        self._contents = [[self.audit.contents[path] for path in paths] for paths in self.references]
        self._embedded = [self._of(contents) for contents in self._contents]
        self._nearest = {
            name: np.concatenate([nearest_of_references(embedded[name]) for embedded in self._embedded])
            for name in self.networks
        }
        self._views = [self._views_of(number) for number in range(len(self.suite.subjects))]
        self._gallery: tuple[FloatArray, ...] = ()
        if "identity" in self.networks:
            self._gallery = tuple(embedded["identity"] for embedded in self._embedded)

    def score_job(self, job: Job, subjects: Collection[str] | None = None) -> None:
        """The images of one method and seed set, of all subjects or those named; those that are missing, and may be,
        are left out.
        """
        self._embed_texts()
        for number, subject in enumerate(self.suite.subjects):
            if subjects is not None and subject.name not in subjects:
                continue
            there: list[tuple[Slot, Picture]] = []
            for slot in slots(self.suite, subject):
                key = (job.method, job.seed_set, subject.name, slot.prompt.index, slot.sample)
                if key in self.audit.pictures:
                    there.append((slot, self.audit.pictures[key]))
            if not there:
                continue
            places = [(slot.prompt.index, slot.sample) for slot, _ in there]
            contents = [self.audit.contents[picture.path] for _, picture in there]
            texts = [self.rules.text(slot.prompt, subject.class_noun, self.token) for slot, _ in there]
            extra = self._extra(subject, job, there, contents)
            batch = self._batch(
                number,
                subject,
                contents,
                views=extra.pop("generated", {}),
                pairs=np.stack([self._pairs_of(number, picture) for _, picture in there]),
                texts=self.embeddings.texts(texts),
                more_texts={name: self.embeddings.texts(texts, name) for name in TEXT_ENCODERS if name in self.networks}
                | extra.pop("more_texts", {}),
                prompts=tuple(slot.prompt for slot, _ in there),
                **extra,
            )
            self._keep(job.method, job.seed_set, number, places, batch)

    def _embed_texts(self) -> None:
        """All texts of the suite together, so that they go through the network in full batches."""
        if not self._texts_are_there:
            every = [
                self.rules.text(prompt, subject.class_noun, self.token)
                for subject in self.suite.subjects
                for prompt in self.suite.prompts(subject)
            ]
            for name in ("clip", *(name for name in TEXT_ENCODERS if name in self.networks)):
                self.embeddings.texts(list(dict.fromkeys(every)), name)
            self._texts_are_there = True

    def score_oracle(self) -> None:
        """The references as if they were generated, without self-pairs and with them.

        With a protocol of one reference, an image that would be compared with itself alone is left out.
        """
        for number, subject in enumerate(self.suite.subjects):
            size = len(self.references[number])
            for row, with_self in ((REAL, False), (REAL_WITH_SELF, True)):
                pairs = self._oracle_pairs(number, size, with_self)
                kept = np.flatnonzero(pairs.any(axis=1))
                if not len(kept):
                    continue
                contents = [self._contents[number][index] for index in kept]
                views = {name: rows[kept] for name, rows in self._views[number].items()}
                batch = self._batch(number, subject, contents, views, pairs=pairs[kept])
                self._keep(row, 0, number, [(NO_PROMPT, int(index)) for index in kept], batch)

    def frame(self) -> pd.DataFrame:
        """All values, sorted by method, seed set, subject (suite order), prompt, sample and metric; 6 decimals."""
        values = pd.DataFrame(sorted(self.rows), columns=list(COLUMNS))
        values["subject"] = values["subject"].map(lambda number: self.suite.subjects[number].name)
        values["metric"] = values["metric"].map(lambda number: self.metrics[number].name)
        values["value"] = values["value"].astype(float).round(6) + 0.0
        values[PROTOCOL_COLUMN] = self.rules.name
        return values

    def _of(self, contents: Sequence[bytes]) -> dict[str, FloatArray]:
        return {name: self.embeddings.get(name, contents) for name in self.networks}

    def _views_of(self, number: int) -> dict[str, FloatArray]:
        """The references of a subject as the masked metrics see them."""
        if self.extras is None:
            return {}
        subject = self.suite.subjects[number]
        placed = [
            Placed(path=path, content=content, place=reference_place(subject.name, path))
            for path, content in zip(self.references[number], self._contents[number], strict=True)
        ]
        return self.extras.of_references(subject.class_noun, placed)

    def _extra(
        self, subject: SuiteSubject, job: Job, there: Sequence[tuple[Slot, Picture]], contents: Sequence[bytes]
    ) -> dict[str, Any]:
        if self.extras is None:
            return {}
        placed = [
            Placed(
                path=picture.path,
                content=content,
                place=image_place(job.method, job.seed_set, subject.name, slot.prompt.index, slot.sample),
            )
            for (slot, picture), content in zip(there, contents, strict=True)
        ]
        return self.extras.of_images(subject.class_noun, placed, [slot.prompt for slot, _ in there])

    def _batch(
        self,
        number: int,
        subject: SuiteSubject,
        contents: Sequence[bytes],
        views: Mapping[str, FloatArray],
        **named: Any,
    ) -> Batch:
        nouns = class_nouns()
        predictions = self.embeddings.predictions(contents) if CLASSIFIER in self.embeddings.networks else None
        return Batch(
            generated={**self._of(contents), **views},
            references={**self._embedded[number], **self._views[number]},
            predictions=predictions,
            subject_index=number,
            class_index=nouns.index(subject.class_noun) if subject.class_noun in nouns else -1,
            gallery=self._gallery,
            oracle_nearest=self._nearest,
            text_scale=self.rules.clip_t_scale,
            text_clamped=self.rules.clip_t_clamped,
            **named,
        )

    def _pairs_of(self, number: int, picture: Picture) -> Pairs:
        """(r,) the references that an image is compared with."""
        size = len(self.references[number])
        if self.rules.references == "all":
            return np.ones(size, dtype=bool)
        chosen = 0
        if self.rules.references == "random":
            chosen = derive_seed("reference", picture.subject, picture.prompt, picture.sample, picture.seed_set) % size
        elif picture.reference is not None:
            chosen = find_reference(picture, self.references[number])
        return np.arange(size) == chosen

    def _oracle_pairs(self, number: int, size: int, with_self: bool) -> Pairs:
        """(r, r) which real image (row) is compared with which reference."""
        itself = np.eye(size, dtype=bool)
        pairs = np.ones((size, size), dtype=bool)
        if self.rules.references == "conditioning":
            pairs = np.tile(np.arange(size) == 0, (size, 1))
        elif self.rules.references == "random":
            name = self.suite.subjects[number].name
            others = [[column for column in range(size) if with_self or column != row] for row in range(size)]
            for row, columns in enumerate(others):
                if columns:
                    chosen = columns[derive_seed("reference", name, NO_PROMPT, row, 0) % len(columns)]
                    pairs[row] = np.arange(size) == chosen
        return pairs if with_self else pairs & ~itself

    def _keep(self, method: str, seed_set: int, subject: int, places: Sequence[tuple[int, int]], batch: Batch) -> None:
        for number, metric in enumerate(self.metrics):
            if (metric.of_prompt and batch.prompts is None) or (metric.of_edits and batch.edits is None):
                continue
            values = metric.score(batch)
            defined = np.isfinite(values) | metric.partial
            if values.shape != (len(places),) or not defined.all():
                name = self.suite.subjects[subject].name
                raise InputError(f"{metric.name} has no value for some image of {method}, {name}; look at them")
            for (prompt, sample), value in zip(places, values.tolist(), strict=True):
                if np.isfinite(value):
                    self.rows.append((method, seed_set, subject, prompt, sample, number, value))


def find_reference(picture: Picture, references: Sequence[Path]) -> int:
    """The index of the reference that an image says it was made from: a file name, with or without its ending, or a
    number from 0. Raises InputError when there is no such reference.
    """
    names: Mapping[str, int] = {
        **{str(number): number for number in range(len(references))},
        **{path.stem: number for number, path in enumerate(references)},
        **{path.name: number for number, path in enumerate(references)},
    }
    if picture.reference is None or picture.reference not in names:
        known = ", ".join(path.name for path in references)
        raise InputError(f"{picture.path} names the reference {picture.reference!r}; {picture.subject} has {known}")
    return names[picture.reference]
