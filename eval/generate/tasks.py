"""The work of a run as a list of tasks, and how shards divide it."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bdkit.utils.errors import InputError
from dreambench.suites import Suite, SuiteSubject
from eval.experiments import BenchConfig, Row
from eval.results_dir import FITS, GROUND_TRUTH, ImageId, subject_ids

GROUND_TRUTH_ROW = Row(name=GROUND_TRUTH, method=GROUND_TRUTH)


@dataclass(frozen=True, kw_only=True)
class Task:
    """The images of one fit: of rows that share method and overrides, one subject and one seed set.

    The mini world's own images of a subject are a task without a fit.
    """

    rows: tuple[Row, ...]
    subject: str
    seed_set: int

    @property
    def is_ground_truth(self) -> bool:
        """Whether the mini world draws these images."""
        return self.rows == (GROUND_TRUTH_ROW,)

    def subject_and_templates(self, suite: Suite) -> tuple[SuiteSubject, dict[int, str]]:
        """Its subject, and the subject's prompts by their index."""
        subject = next(subject for subject in suite.subjects if subject.name == self.subject)
        return subject, {prompt.index: prompt.template for prompt in suite.prompts(subject)}

    def images(self, suite: Suite, row: Row | None = None) -> list[ImageId]:
        """The images of one of its rows, None: of all, in the order in which they are generated."""
        subject, _ = self.subject_and_templates(suite)
        rows = self.rows if row is None else [row]
        return [image for each in rows for image in subject_ids(suite, each.name, self.seed_set, subject)]

    def missing(self, suite: Suite, results_dir: Path) -> set[ImageId]:
        """The images that are not in the folder."""
        return {image for image in self.images(suite) if not image.path(results_dir).exists()}

    def fit_path(self, results_dir: Path, settings: Any) -> Path:
        """Where its fit is saved while images are missing. settings: JSON, what the method was built with."""
        text = json.dumps([self.rows[0].group, settings], sort_keys=True)
        folder = results_dir / FITS / hashlib.sha256(text.encode()).hexdigest()[:16]
        return folder / f"seed{self.seed_set}" / f"{self.subject}.safetensors"


def list_tasks(config: BenchConfig, suite: Suite) -> list[Task]:
    """All tasks of a run, of every shard, in a fixed order, whether or not their images exist."""
    groups: dict[str, list[Row]] = {}
    for row in config.chosen_rows:
        groups.setdefault(row.group, []).append(row)
    if config.ground_truth and suite.source == "procedural":
        groups[GROUND_TRUTH] = [GROUND_TRUTH_ROW]
    return [
        Task(rows=tuple(rows), subject=subject.name, seed_set=seed_set)
        for rows in groups.values()
        for seed_set in config.seed_sets
        for subject in suite.subjects
    ]


def parse_shard(text: str | None) -> tuple[int, int]:
    """ "2/3" is (2, 3), the second of three; None is the whole, (1, 1)."""
    match = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", "1/1" if text is None else text.strip(), re.ASCII)
    if match is None or int(match[1]) > int(match[2]):
        raise InputError(f"{text!r} is no shard; write 1/3, 2/3 and 3/3 for the three parts of a run")
    return int(match[1]), int(match[2])
