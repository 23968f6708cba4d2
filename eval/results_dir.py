"""Where everything is in a results folder, which is where generation and scoring meet."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bdkit.utils.env import commit, device_name, library_versions
from bdkit.utils.errors import InputError
from bdkit.utils.images import list_images
from bdkit.utils.io import RUN_FILE, as_json, read_json, write_json
from bdkit.utils.parallel import locked
from bdkit.utils.seeds import derive_seed
from dreambench.photos import photo_paths, photos_folder
from dreambench.suites import Suite, SuiteSubject, suite_from_json, suite_to_json

SUITE_FILE = "suite.json"
SCORES_FILE = "scores.csv"
REFERENCES = "references"
IMAGES = "images"
FITS = "fits"
GROUND_TRUTH = "ground-truth"
ONE_COLOUR = "one_colour"  # in the record of a scoring: how many images of a method are
REAL = "real-images"
REAL_WITH_SELF = "real-images-with-self-pairs"


@dataclass(frozen=True, order=True)
class ImageId:
    """The identity of one generated image: a row of the table, its seed set, and what it shows."""

    method: str
    seed_set: int
    subject: str
    prompt: int
    sample: int

    def path(self, results_dir: Path) -> Path:
        """RESULTS/images/seed<k>/<method>/<subject>/<prompt>-<sample>.png"""
        name = f"{self.prompt:02d}-{self.sample}.png"
        return results_dir / IMAGES / f"seed{self.seed_set}" / self.method / self.subject / name

    def seed(self, suite_name: str) -> int:
        """The seed of its noise: a function of the identity alone."""
        return derive_seed(suite_name, self.method, self.subject, self.prompt, self.sample, self.seed_set)


def subject_ids(suite: Suite, method: str, seed_set: int, subject: SuiteSubject) -> list[ImageId]:
    """One subject's images of a method and seed set, in the order of prompts, then samples."""
    samples = range(suite.samples_per_prompt)
    return [
        ImageId(method, seed_set, subject.name, prompt.index, sample)
        for prompt in suite.prompts(subject)
        for sample in samples
    ]


def reference_paths(out: Path, suite: Suite, subject: SuiteSubject, photos: Path | None) -> list[Path]:
    """The files of a subject's references: those in OUT, else the photos of `photos` (for a suite of photos)."""
    folder = out / REFERENCES / subject.name
    if suite.source == "photos" and not folder.is_dir():
        return photo_paths(photos_folder(photos), subject)
    paths = list_images(folder)
    if len(paths) != subject.n_references:
        raise InputError(f"{folder} has {len(paths)} images, the suite {subject.n_references}; run the bench again")
    return paths


def save_suite(suite: Suite, out: Path) -> None:
    """Writes OUT/suite.json, unless OUT holds another suite: then InputError."""
    path = out / SUITE_FILE
    if path.exists():
        saved = load_saved_suite(out)
        if saved != suite:
            raise InputError(
                f"{out} holds suite {saved.name} ({saved.hash}), not {suite.name} ({suite.hash}); choose another folder"
            )
        return
    write_json(suite_to_json(suite), path)


def load_saved_suite(out: Path) -> Suite:
    """The suite of OUT/suite.json."""
    return suite_from_json(read_json(out / SUITE_FILE))


def read_run(out: Path) -> dict[str, Any]:
    """OUT/run.json, empty when there is none."""
    path = out / RUN_FILE
    return read_json(path) if path.exists() else {}


def record_maker(out: Path, device: str | None = None) -> None:
    """Says in OUT/run.json who makes the missing images; a run that makes none leaves what is said of them.

    device: where, in words; None: this machine
    """
    update_run(out, commit=commit(), device=device or device_name(), versions=library_versions())


def update_run(out: Path, **values: Any) -> None:
    """Sets entries of OUT/run.json; of those that are dicts on both sides, only the given keys change."""
    record = read_run(out)
    for name, value in values.items():
        before = record.get(name)
        record[name] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
    write_json(record, out / RUN_FILE)


@contextmanager
def claimed(out: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Holds a folder for images of these settings, which OUT/run.json says, and for this process alone; of settings
    that are dicts, only those under the same key must agree.

    Raises InputError when it is of other settings, holds images without run.json, or another process has it.
    """
    saved = read_run(out)
    if not saved and (out / IMAGES).exists():
        raise InputError(f"{out} holds images without {RUN_FILE}, which says what they are; choose another --out")
    given = as_json(dict(settings))
    different = [name for name, value in given.items() if saved and not _agree(saved.get(name), value)]
    if different:
        raise InputError(f"{out} holds images of other settings ({', '.join(different)}); choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / ".lock", f"another process is making the images of {out}; wait for it or choose another --out"):
        update_run(out, **settings)
        yield


def _agree(before: Any, now: Any) -> bool:
    if isinstance(now, dict) and isinstance(before, dict | None):
        return all((before or {}).get(key, value) == value for key, value in now.items())
    return bool(before == now)
