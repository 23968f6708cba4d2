"""Images on disk -> OUT/scores.csv and scores.parquet, one row for each image and metric.

The images may come from any program: what counts is where they lie (`eval.results_dir`, `eval.score.images`).
"""

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bdkit.utils.env import device_name, library_versions
from bdkit.utils.errors import InputError
from dreambench.registry import class_nouns
from dreambench.suites import Prompt, Suite, SuiteSubject
from eval.results_dir import (
    REAL,
    REAL_WITH_SELF,
    ImageId,
    load_saved_suite,
    reference_paths,
    subject_ids,
    update_run,
)
from eval.score.check import Checker
from eval.score.edit_metrics import FloatArray
from eval.score.encoders import WITHOUT_NETWORK, Evaluators, split_outputs
from eval.score.features import Features, default_workers
from eval.score.images import ImageFile, ImageTree, read_images, read_tree
from eval.score.masks import MaskedImages
from eval.score.metrics import Batch, Metric, nearest_of_references, nearest_reference
from eval.score.protocols import DEFAULT_TOKEN, ScoringProtocol, find_protocol, oracle_pairs, reference_pairs
from eval.score.scores_file import (
    COLUMNS,
    NO_PROMPT,
    ORACLE_ROWS,
    PROTOCOL_COLUMN,
    write_nearest,
    write_scores,
)
from eval.score.weights import load_evaluators as load_evaluators

TEXT_ENCODERS = ("siglip2",)


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """How to score.

    allow_missing: score fewer images than the suite has; the table then says how many
    ignore_surplus: pass over images that have no place in the suite
    workers: processes that read images, 0 for none; None: as many as suit the machine and the number of images
    cache: folder in which embeddings are kept for other runs; None: they are kept for this run alone
    token: the method's token, for a protocol whose texts have it
    shard: (i, n): only embed every n-th file from the i-th on, for a later run that scores from the cache
    masks: folder of the subjects' masks, or "clipseg" to find them; sources: folder of what edits were made from
    """

    allow_missing: bool = False
    ignore_surplus: bool = False
    workers: int | None = None
    cache: Path | None = None
    token: str = DEFAULT_TOKEN
    shard: tuple[int, int] = (1, 1)
    masks: str | None = None
    sources: Path | None = None

    def __post_init__(self) -> None:
        if self.shard[1] > 1 and self.cache is None:
            raise InputError("a shard only fills the cache of embeddings; name a folder for it with --cache")


def score_folder(
    results_dir: Path,
    evaluators: Evaluators,
    *,
    photos: Path | None = None,
    rows: Sequence[tuple[str, int]] | None = None,
    options: ScoreOptions | None = None,
    show_progress: bool = True,
) -> pd.DataFrame:
    """Scores the images of a results folder and the oracle (its references): see `score_images`.

    results_dir: a folder with suite.json, references (or photos, for a suite of photos) and images
    rows: the methods and seed sets to score; None for all that have images
    """
    suite = load_saved_suite(results_dir)
    if rows is None:
        tree = read_images(results_dir, suite, tree="tree")
    else:
        tree = read_tree(results_dir, suite, results_dir.name).of_rows(rows)
    return score_images(
        tree, suite, evaluators, results_dir, photos=photos, rows=rows, options=options, show_progress=show_progress
    )


def score_images(
    tree: ImageTree,
    suite: Suite,
    evaluators: Evaluators,
    out: Path,
    *,
    photos: Path | None = None,
    rows: Sequence[tuple[str, int]] | None = None,
    options: ScoreOptions | None = None,
    show_progress: bool = True,
) -> pd.DataFrame:
    """Scores images and the oracle, writes the scores into OUT, and returns them.

    tree: what `eval.score.images.read_images` read
    photos: folder of the references of a suite of photos; None: BDKIT_DREAMBENCH_DIR's, else the fetched ones
    rows: the methods and seed sets to score; None for all that have images

    The frame has the columns of COLUMNS and `protocol`, sorted by method, seed set, subject (suite order), prompt,
    sample and metric; values are rounded to 6 decimals, as in the file. The oracle's prompt is -1, its sample the
    reference's number. Of a shard the frame is empty, and nothing but the cache is written.

    Raises InputError, and OUT/problems.csv has all of them, when images are missing, surplus, doubled or unreadable:
    a mean is never taken over fewer images unless `options` allow it.
    """
    options = options or ScoreOptions()
    protocol = find_protocol(evaluators.protocol)
    suite = protocol.apply_to(suite)
    rows = tree.rows if rows is None else rows
    if taken := sorted({method for method, _ in rows} & set(ORACLE_ROWS)):
        raise InputError(f"{taken[0]!r} is the name of the oracle's row; rename that folder of images")
    number, count = options.shard
    checker = Checker(tree.root, options.allow_missing, options.ignore_surplus)
    images, problems = checker.assign(tree, suite, rows)
    try:
        references = [reference_paths(out, suite, subject, photos) for subject in suite.subjects]
    except InputError:
        checker.report(problems, out)  # what is wrong with the images comes first
        raise
    metrics = evaluators.metrics_of(suite)
    with ExitStack() as stack:
        folder = options.cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bdkit-embeddings-")))
        masked = None
        if count == 1 and any(metric.encoder in WITHOUT_NETWORK for metric in metrics.values()):
            masked = MaskedImages(metrics, evaluators.encoders, options.masks, options.sources, folder)
        features = Features(evaluators.networks, folder)
        photo_files = list(dict.fromkeys(path for paths in references for path in paths))
        files = list(dict.fromkeys([*photo_files, *(images[image_id].path for image_id in sorted(images))]))
        files = files[number - 1 :: count]
        read = features.add(
            files,
            may_fail=set(files) - set(photo_files) if options.allow_missing else (),
            cut_out=protocol.background == "removed",
            workers=default_workers(len(files)) if options.workers is None else options.workers,
            embed=not any(map(checker.is_fatal, problems)),
            show_progress=show_progress,
        )
        problems += checker.check_contents(images, photo_files, read)
        if warning := checker.report(problems, out):
            warnings.warn(warning, stacklevel=2)
        if count > 1:
            return pd.DataFrame(columns=[*COLUMNS, PROTOCOL_COLUMN])
        good = {one: image for one, image in images.items() if read[image.path].problem is None}
        if images and not good:
            raise InputError(f"none of the images in {tree.root} can be read; see problems.csv, and replace them")
        contents = {path: file.content for path, file in read.items()}
        scorer = Scorer(suite, protocol, metrics, good, contents, features, references, options.token, masked)
        for method, seed_set in rows:
            scorer.score_row(method, seed_set)
        scorer.score_oracle()
        frame = scorer.frame()
    record = {
        "protocol": protocol.name,
        "protocol_settings": asdict(protocol),
        "suite": suite.name,
        "suite_hash": suite.hash,
        "metrics": list(metrics),
        "evaluators": evaluators.checkpoints,
        "token": options.token if protocol.clip_t_text == "token" else None,
        "allow_missing": options.allow_missing,
        "images": checker.count(suite, rows, {one: read[image.path] for one, image in good.items()}),
        "device": device_name(),
        "versions": library_versions(),
    }
    write_scores(frame, out)
    write_nearest(scorer.nearest, out)
    update_run(out, scoring=record)
    return frame


@dataclass
class Scorer:
    """Keeps every metric's value of every image.

    images: the good ones; contents: file -> its content hash
    references: for each of the suite's subjects the files of its references
    masked: what optional metrics need beside the networks' rows
    """

    suite: Suite
    protocol: ScoringProtocol
    metrics: Mapping[str, Metric]
    images: Mapping[ImageId, ImageFile]
    contents: Mapping[Path, bytes]
    features: Features
    references: Sequence[Sequence[Path]]
    token: str
    masked: MaskedImages | None = None
    values: list[tuple[str, int, int, int, int, int, float]] = field(default_factory=list)
    nearest: list[tuple[ImageId, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.encoders = [name for name in self.features.networks if name != "classifier"]
        self.text_encoders = [name for name in ("clip", *TEXT_ENCODERS) if name in self.encoders]
        self._embedded = [self._rows(paths) for paths in self.references]
        self._views: list[dict[str, FloatArray]] = [
            {} if self.masked is None else self.masked.of_references(subject, paths, self.contents)
            for subject, paths in zip(self.suite.subjects, self.references, strict=True)
        ]
        self._nearest = {
            name: np.concatenate([nearest_of_references(embedded[name]) for embedded in self._embedded])
            for name in self.encoders
        }
        self._gallery = tuple(embedded["identity"] for embedded in self._embedded if "identity" in embedded)
        # all texts of the suite together, so that they go through the network in full batches
        texts = [
            self._text(subject, prompt) for subject in self.suite.subjects for prompt in self.suite.prompts(subject)
        ]
        for name in self.text_encoders if self.images else ():
            self.features.texts(list(dict.fromkeys(texts)), name)

    def score_row(self, method: str, seed_set: int) -> None:
        """The images of one method and seed set; those that are missing, and may be, are left out."""
        for number, subject in enumerate(self.suite.subjects):
            ids = [one for one in subject_ids(self.suite, method, seed_set, subject) if one in self.images]
            if not ids:
                continue
            prompts = {prompt.index: prompt for prompt in self.suite.prompts(subject)}
            chosen = tuple(prompts[one.prompt] for one in ids)
            paths = [self.images[one].path for one in ids]
            texts = [self._text(subject, prompt) for prompt in chosen]
            embedded_texts = {name: self.features.texts(texts, name) for name in self.text_encoders}
            more: dict[str, Any] = {}
            if self.masked is not None:
                more = self.masked.of_images(subject, [self.images[one] for one in ids], chosen, self.contents)
            batch = self._batch(
                number,
                paths,
                views=more.pop("generated", {}),
                pairs=self._pairs(number, [self.images[one] for one in ids]),
                texts=embedded_texts.pop("clip"),
                more_texts={**embedded_texts, **more.pop("more_texts", {})},
                prompts=chosen,
                **more,
            )
            self._keep(method, seed_set, number, [(one.prompt, one.sample) for one in ids], batch)
            if "dino" in batch.generated:
                self.nearest += zip(ids, nearest_reference(batch).tolist(), strict=True)

    def score_oracle(self) -> None:
        """The references as if they were generated, without self-pairs and with them.

        With a protocol of one reference, an image that would be compared with itself alone is left out.
        """
        for number, paths in enumerate(self.references):
            for row, with_self in ((REAL, False), (REAL_WITH_SELF, True)):
                name = self.suite.subjects[number].name
                pairs = oracle_pairs(self.protocol.references, name, len(paths), with_self)
                kept = np.flatnonzero(pairs.any(axis=1))
                if not len(kept):
                    continue
                views = {view: rows[kept] for view, rows in self._views[number].items()}
                batch = self._batch(number, [paths[int(index)] for index in kept], views, pairs=pairs[kept])
                self._keep(row, 0, number, [(NO_PROMPT, int(index)) for index in kept], batch)

    def frame(self) -> pd.DataFrame:
        """All values, sorted by method, seed set, subject (suite order), prompt, sample and metric; 6 decimals."""
        frame = pd.DataFrame(sorted(self.values), columns=list(COLUMNS))
        frame["subject"] = frame["subject"].map(lambda number: self.suite.subjects[number].name)
        frame["metric"] = frame["metric"].map(dict(enumerate(self.metrics)))
        frame["value"] = frame["value"].astype(float).round(6) + 0.0
        frame[PROTOCOL_COLUMN] = self.protocol.name
        return frame

    def _batch(self, number: int, paths: Sequence[Path], views: Mapping[str, FloatArray], **named: Any) -> Batch:
        nouns, noun = class_nouns(), self.suite.subjects[number].class_noun
        predictions = None
        if "classifier" in self.features.networks:
            predictions = split_outputs(self.features.get("classifier", [self.contents[path] for path in paths]))
        return Batch(
            generated={**self._rows(paths), **views},
            predictions=predictions,
            references={**self._embedded[number], **self._views[number]},
            subject_index=number,
            class_index=nouns.index(noun) if noun in nouns else -1,
            gallery=self._gallery,
            oracle_nearest=self._nearest,
            text_scale=self.protocol.clip_t_scale,
            text_clamped=self.protocol.clip_t_clamped,
            **named,
        )

    def _text(self, subject: SuiteSubject, prompt: Prompt) -> str:
        return self.protocol.text(prompt, subject.class_noun, self.token)

    def _rows(self, paths: Sequence[Path]) -> dict[str, FloatArray]:
        contents = [self.contents[path] for path in paths]
        return {name: self.features.get(name, contents) for name in self.encoders}

    def _pairs(self, number: int, images: Sequence[ImageFile]) -> NDArray[np.bool_]:
        """(n, r) the references that each image is compared with."""
        paths, which = self.references[number], self.protocol.references
        return np.stack(
            [reference_pairs(which, image.id, image.reference_index(paths), len(paths)) for image in images]
        )

    def _keep(self, method: str, seed_set: int, subject: int, images: Sequence[tuple[int, int]], batch: Batch) -> None:
        for number, (metric_name, metric) in enumerate(self.metrics.items()):
            if (metric.of_prompt and batch.prompts is None) or (metric.of_edits and batch.edits is None):
                continue
            values = metric.score(batch)
            defined = np.isfinite(values) | metric.partial
            if values.shape != (len(images),) or not defined.all():
                name = self.suite.subjects[subject].name
                raise InputError(f"{metric_name} has no value for some image of {method}, {name}; look at them")
            for (prompt, sample), value in zip(images, values.tolist(), strict=True):
                if np.isfinite(value):
                    self.values.append((method, seed_set, subject, prompt, sample, number, value))
