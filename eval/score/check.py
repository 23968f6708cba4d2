"""What is wrong with a set of images, all of it, before anything is scored."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal

from bdkit.utils.errors import InputError
from bdkit.utils.io import is_unicode, write_text
from dreambench.suites import Suite
from eval.results_dir import IMAGES, ONE_COLOUR, RUN_FILE, ImageId, subject_ids
from eval.score.features import ReadFile
from eval.score.images import ImageFile, ImageTree

PROBLEMS_FILE = "problems.csv"
N_NAMED = 5
Kind = Literal["missing", "surplus", "duplicate", "unreadable", "same content", "one colour", "stray"]
WORDS: dict[Kind, str] = {
    "missing": "images are missing",
    "surplus": "images have no place in the suite",
    "duplicate": "images have a place that another has too",
    "unreadable": "images cannot be read",
    "same content": "images have the same content as another",
    "one colour": "images are of one colour (as a safety checker leaves them)",
    "stray": "files have names that are not UTF-8",
}
# Kinds that are allowed, but always named
NAMED: tuple[Kind, ...] = ("one colour", "stray")


@dataclass(frozen=True)
class Problem:
    """One image with which something is wrong. id: None for a reference, or a file that is no image of the suite"""

    kind: Kind
    path: str
    detail: str
    id: ImageId | None = None


@dataclass(frozen=True)
class Checker:
    """Finds problems, and says which of them end a scoring.

    root: the folder of the images
    allow_missing: images may be missing or unreadable (a reference may not)
    ignore_surplus: images may be there that the suite has no place for
    """

    root: Path
    allow_missing: bool = False
    ignore_surplus: bool = False

    def assign(
        self, tree: ImageTree, suite: Suite, rows: Sequence[tuple[str, int]]
    ) -> tuple[dict[ImageId, ImageFile], list[Problem]]:
        """The images of these methods and seed sets, and those that are missing, surplus or doubled; reads no file."""
        wanted = [one for row in rows for one in expected_ids(suite, row)]
        files: dict[ImageId, list[ImageFile]] = {one: [] for one in wanted}
        problems = []
        for image in tree.images:
            if (image.id.method, image.id.seed_set) in rows and image.id not in files:
                detail = "no such subject, prompt or sample in the suite"
                problems.append(Problem("surplus", self._name(image.path), detail, image.id))
            elif image.id in files:
                files[image.id].append(image)
        for image_id, several in files.items():
            for other in several[1:]:
                detail = f"the same place as {self._name(several[0].path)}"
                problems.append(Problem("duplicate", self._name(other.path), detail, image_id))
        others = {one.id: f"{self._name(one.path)} is no image that can be read here" for one in tree.others}
        missing = [
            Problem("missing", self._expected_path(one), others.get(one, ""), one)
            for one in sorted(files)
            if not files[one]
        ]
        unknown = [
            Problem("surplus" if is_unicode(str(path)) else "stray", self._name(path), reason)
            for path, reason in tree.unknown
        ]
        images = {image_id: several[0] for image_id, several in files.items() if several}
        return images, missing + problems + unknown

    def check_contents(
        self, images: Mapping[ImageId, ImageFile], references: Sequence[Path], read: Mapping[Path, ReadFile]
    ) -> list[Problem]:
        """Files that were read and are no good images, and images with the bytes of another of their method, or of a
        reference.
        """
        bad = {path: file.problem for path, file in read.items() if file.problem is not None}
        problems = [Problem("unreadable", str(path), bad[path]) for path in references if path in bad]
        problems += [
            Problem("one colour", str(path), "") for path in references if path in read and read[path].one_colour
        ]
        first = {("", read[path].content): path for path in references if path in read}
        same = []
        for image_id, image in images.items():
            if image.path in bad:
                problems.append(Problem("unreadable", self._name(image.path), bad[image.path], image_id))
            elif image.path in read:
                if read[image.path].one_colour:
                    problems.append(Problem("one colour", self._name(image.path), "", image_id))
                content = read[image.path].content
                other = first.get(("", content)) or first.setdefault((image_id.method, content), image.path)
                if other != image.path:
                    same.append(Problem("same content", self._name(image.path), f"as {self._name(other)}", image_id))
        return problems + same

    @staticmethod
    def count(
        suite: Suite, rows: Sequence[tuple[str, int]], good: Mapping[ImageId, ReadFile]
    ) -> dict[str, dict[str, int]]:
        """method -> how many images are good, of how many expected; and how many are of one colour, where any is."""
        counts: dict[str, dict[str, int]] = {}
        for row in rows:
            count = counts.setdefault(row[0], {"scored": 0, "expected": 0})
            ids = expected_ids(suite, row)
            count["scored"] += sum(image_id in good for image_id in ids)
            count["expected"] += len(ids)
            if blank := sum(image_id in good and good[image_id].one_colour for image_id in ids):
                count[ONE_COLOUR] = count.get(ONE_COLOUR, 0) + blank
        return counts

    def is_fatal(self, problem: Problem) -> bool:
        """Whether nothing is scored because of it."""
        if problem.kind == "unreadable":
            return not (self.allow_missing and problem.id)
        allowed = {"missing": self.allow_missing, "surplus": self.ignore_surplus}
        return not allowed.get(problem.kind, problem.kind in ("same content", *NAMED))

    def report(self, problems: Sequence[Problem], out: Path) -> str | None:
        """Writes OUT/problems.csv where there are any; returns a warning about those that are allowed.

        Raises InputError, one line, for those that are not.
        """
        path = out / PROBLEMS_FILE
        if not problems:
            path.unlink(missing_ok=True)
            return None
        write_text(_table(problems), path)
        fatal = [problem for problem in problems if self.is_fatal(problem)]
        if fatal:
            raise InputError(f"{self._summary(fatal)}; {path} lists all; {self._advice(fatal)}")
        counts = Counter(problem.kind for problem in problems)
        counted = ", ".join(f"{counts[kind]} {WORDS[kind]}" for kind in WORDS if counts[kind] and kind not in NAMED)
        named = self._summary([problem for problem in problems if problem.kind in NAMED])
        return "; ".join([*filter(None, (counted, named)), f"see {path}"])

    def _summary(self, problems: Sequence[Problem]) -> str:
        by_kind = defaultdict(list)
        for problem in problems:
            note = f" ({problem.detail})" if problem.kind == "missing" and problem.detail else ""
            by_kind[problem.kind].append(problem.detail if problem.kind == "unreadable" else problem.path + note)
        parts = []
        for kind in (kind for kind in WORDS if kind in by_kind):
            names = by_kind[kind]
            more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
            parts.append(f"{len(names)} {WORDS[kind]} in {self.root}: {', '.join(names[:N_NAMED])}{more}")
        return "; ".join(parts)

    def _advice(self, problems: Sequence[Problem]) -> str:
        kinds = {problem.kind for problem in problems}
        if "unreadable" in kinds and (self.root / RUN_FILE).exists():
            return "delete the unreadable images and run the same bench again, or make all again with bench --remake"
        if "duplicate" in kinds or "unreadable" in kinds:
            return "replace or remove these files, then score"
        if kinds == {"surplus"}:
            return "remove them, or leave them out by bdkit score --ignore-surplus"
        return "generate them, then score; bdkit score --allow-missing gives means over fewer images"

    def _expected_path(self, image_id: ImageId) -> str:
        """Where bdkit would put the image."""
        path = image_id.path(Path())
        return (path if (self.root / IMAGES).is_dir() else path.relative_to(IMAGES)).as_posix()

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)


def expected_ids(suite: Suite, row: tuple[str, int]) -> list[ImageId]:
    """The images of a method and seed set in the order of subjects, prompts and samples."""
    return [one for subject in suite.subjects for one in subject_ids(suite, *row, subject)]


def _table(problems: Sequence[Problem]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["kind", "path", "method", "seed_set", "subject", "prompt", "sample", "detail"])
    for problem in problems:
        identity = ("",) * 5 if problem.id is None else astuple(problem.id)
        writer.writerow([problem.kind, problem.path, *identity, problem.detail])
    return buffer.getvalue()
