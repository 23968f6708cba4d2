"""Pictures on disk -> OUT/scores.csv and scores.parquet, one row for each picture and metric.

The pictures may come from any program: what counts is where they lie (`eval.layout`).
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from dreambench.errors import InputError
from dreambench.files import write_bytes, write_json, write_text
from dreambench.pictures import read_picture
from dreambench.suites import Suite, SuiteSubject, class_nouns
from eval.encoders import find_protocol, load_classifier, load_encoder
from eval.layout import (
    REAL,
    REAL_WITH_SELF,
    RUN_FILE,
    SCORES_FILE,
    Job,
    check_complete,
    find_jobs,
    load_saved_suite,
    picture_path,
    read_run,
    reference_paths,
    slots,
)
from eval.metrics import METRICS, Batch, Metric
from eval.metrics.base import EncoderName, FloatArray
from eval.system import device_name, library_versions

PARQUET_FILE = "scores.parquet"
COLUMNS = ("method", "seed_set", "subject", "prompt", "sample", "metric", "value")
NO_PROMPT = -1
ORACLE_ROWS = (REAL, REAL_WITH_SELF)


class Embedder(Protocol):
    """An encoder of pictures; CLIP's has `embed_texts(texts) -> (n, d)` too."""

    checkpoint: dict[str, str]

    def embed_images(self, images: list[Image.Image]) -> NDArray[np.float32]:
        """(n, d) unit-norm embeddings."""


class Predictor(Protocol):
    """A classifier of pictures of the mini world."""

    checkpoint: dict[str, str]

    def predict(self, images: list[Image.Image]) -> dict[str, NDArray[np.float32]]:
        """Log-probabilities: class (n, 15), context (n, 21), outfit (n, 11), change (n, 6)."""


@dataclass(frozen=True, kw_only=True)
class Evaluators:
    """The networks of one protocol. encoders: "dino" and "clip", "identity" where there is one."""

    protocol: str
    encoders: Mapping[str, Any]
    classifier: Predictor | None = None

    @property
    def checkpoints(self) -> dict[str, Any]:
        """What a run record says of the weights."""
        networks: dict[str, Any] = {**self.encoders}
        if self.classifier is not None:
            networks["classifier"] = self.classifier
        return {name: network.checkpoint for name, network in networks.items()}

    def has(self, encoder: EncoderName) -> bool:
        """Whether a metric that needs `encoder` can be scored."""
        return self.classifier is not None if encoder == "classifier" else encoder in self.encoders


def load_evaluators(protocol: str, device: str = "cpu") -> Evaluators:
    """All networks of a protocol.

    Raises InputError for an unknown protocol and for weights that are not there.
    """
    names = ["dino", "clip"]
    classifier = None
    if find_protocol(protocol).weights == "shipped":
        names.append("identity")
        classifier = load_classifier(protocol, device)
    encoders = {name: load_encoder(name, protocol, device) for name in names}
    return Evaluators(protocol=protocol, encoders=encoders, classifier=classifier)


def score_folder(
    out: Path,
    evaluators: Evaluators,
    *,
    photos: Path | None = None,
    jobs: Sequence[Job] | None = None,
    show_progress: bool = True,
) -> pd.DataFrame:
    """Scores OUT's pictures and the oracle (its references), writes the scores, and returns them.

    out: a folder with suite.json, references (or photos, for a suite of photos) and pictures
    jobs: what to score; None for every method and seed set that has pictures

    The frame has the columns of COLUMNS, sorted by method, seed set, subject (suite order), prompt, sample and metric;
    values are rounded to 6 decimals, as in the file. The oracle's prompt is -1, its sample the reference's number.

    Raises InputError when a picture is missing or cannot be read: a mean is never taken over fewer pictures.
    """
    suite = load_saved_suite(out)
    jobs = find_jobs(out) if jobs is None else list(jobs)
    if taken := sorted({job.method for job in jobs} & set(ORACLE_ROWS)):
        raise InputError(f"{taken[0]!r} is the name of the oracle's row; rename that folder of pictures")
    check_complete(out, suite, jobs)
    metrics = [
        metric
        for metric in METRICS.values()
        if evaluators.has(metric.encoder) and not (metric.of_mini_world and suite.source == "photos")
    ]
    n_references = sum(subject.n_references for subject in suite.subjects)
    total = n_references + len(jobs) * suite.n_pictures
    with tqdm(total=total, desc="scoring", unit=" pictures", disable=not show_progress, dynamic_ncols=True) as bar:
        scorer = _Scorer(out, suite, evaluators, metrics, photos, bar)
        for job in jobs:
            scorer.score_job(job)
        frame = scorer.frame()
    write_scores(frame, out)
    run = read_run(out)
    run["scoring"] = {
        "protocol": evaluators.protocol,
        "suite": suite.name,
        "suite_hash": suite.hash,
        "metrics": [metric.name for metric in metrics],
        "evaluators": evaluators.checkpoints,
        "device": device_name(),
        "versions": library_versions(),
    }
    write_json(run, out / RUN_FILE)
    return frame


def write_scores(frame: pd.DataFrame, out: Path) -> None:
    """Writes OUT/scores.csv (6 decimals; the same scores give the same bytes) and scores.parquet."""
    write_text(frame.to_csv(index=False, float_format="%.6f", lineterminator="\n"), out / SCORES_FILE)
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    write_bytes(buffer.getvalue(), out / PARQUET_FILE)


def read_scores(out: Path) -> pd.DataFrame:
    """The frame of OUT/scores.csv. Raises InputError when it is missing or damaged."""
    path = out / SCORES_FILE
    try:
        frame = pd.read_csv(path, keep_default_na=False)
        return frame[list(COLUMNS)].astype({"seed_set": int, "prompt": int, "sample": int, "value": float})
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; run `bdkit score {out}` first") from error
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}); run `bdkit score {out}` again") from error


@dataclass(frozen=True)
class _Embedded:
    """One subject's references as the networks see them."""

    embeddings: dict[str, FloatArray]
    predictions: dict[str, FloatArray] | None


@dataclass
class _Scorer:
    out: Path
    suite: Suite
    evaluators: Evaluators
    metrics: list[Metric]
    photos: Path | None
    bar: tqdm
    rows: list[tuple[str, int, int, int, int, int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.references = [self._embed_references(subject) for subject in self.suite.subjects]
        self.gallery: tuple[FloatArray, ...] = ()
        if "identity" in self.evaluators.encoders:
            self.gallery = tuple(reference.embeddings["identity"] for reference in self.references)
        for number, subject in enumerate(self.suite.subjects):
            self._score_oracle(number, subject)

    def score_job(self, job: Job) -> None:
        """Embeds each picture of a job once per network and keeps every metric's value."""
        for number, subject in enumerate(self.suite.subjects):
            places = slots(self.suite, subject)
            embedded = self._embed([picture_path(self.out, job, slot) for slot in places])
            texts = [slot.prompt.text(subject.class_noun) for slot in places]
            n_references = len(self.references[number].embeddings["dino"])
            batch = self._batch(
                number,
                subject,
                embedded,
                pairs=np.ones((len(places), n_references), dtype=bool),
                texts=self.evaluators.encoders["clip"].embed_texts(texts),
                prompts=tuple(slot.prompt for slot in places),
            )
            self._keep(job.method, job.seed_set, number, [(slot.prompt.index, slot.sample) for slot in places], batch)

    def frame(self) -> pd.DataFrame:
        """All values, sorted."""
        values = pd.DataFrame(sorted(self.rows), columns=list(COLUMNS))
        values["subject"] = values["subject"].map(lambda number: self.suite.subjects[number].name)
        values["metric"] = values["metric"].map(lambda number: self.metrics[number].name)
        values["value"] = values["value"].round(6) + 0.0
        return values

    def _embed_references(self, subject: SuiteSubject) -> _Embedded:
        return self._embed(reference_paths(self.out, self.suite, subject, self.photos))

    def _embed(self, paths: list[Path]) -> _Embedded:
        images = [read_picture(path) for path in paths]
        embeddings = {name: encoder.embed_images(images) for name, encoder in self.evaluators.encoders.items()}
        classifier = self.evaluators.classifier
        predictions = None if classifier is None else classifier.predict(images)
        self.bar.update(len(paths))
        return _Embedded(embeddings, predictions)

    def _batch(self, number: int, subject: SuiteSubject, embedded: _Embedded, **named: Any) -> Batch:
        return Batch(
            generated=embedded.embeddings,
            references=self.references[number].embeddings,
            predictions=embedded.predictions,
            subject_index=number,
            class_index=class_nouns().index(subject.class_noun),
            gallery=self.gallery,
            **named,
        )

    def _score_oracle(self, number: int, subject: SuiteSubject) -> None:
        """The references as if they were generated, without self-pairs and with them."""
        size = subject.n_references
        places = [(NO_PROMPT, sample) for sample in range(size)]
        for row, pairs in ((REAL, ~np.eye(size, dtype=bool)), (REAL_WITH_SELF, np.ones((size, size), dtype=bool))):
            self._keep(row, 0, number, places, self._batch(number, subject, self.references[number], pairs=pairs))

    def _keep(self, method: str, seed_set: int, subject: int, places: list[tuple[int, int]], batch: Batch) -> None:
        for number, metric in enumerate(self.metrics):
            if metric.of_prompt and batch.prompts is None:
                continue
            values = metric.score(batch)
            if values.shape != (len(places),) or not np.isfinite(values).all():
                name = self.suite.subjects[subject].name
                raise InputError(f"{metric.name} has no value for some picture of {method}, {name}; look at them")
            for (prompt, sample), value in zip(places, values.tolist(), strict=True):
                self.rows.append((method, seed_set, subject, prompt, sample, number, value))
