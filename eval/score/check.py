"""What is wrong with a set of images, all of it, before anything is scored."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from bdkit.utils.errors import InputError
from bdkit.utils.io import write_text
from dreambench.suites import Suite
from eval.results_dir import IMAGES, Job, slots
from eval.score.decoding import Checked, Workers, check_cut_out, check_file, hash_file
from eval.score.images import Found, Picture

PROBLEMS_FILE = "problems.csv"
N_NAMED = 5
Kind = Literal["missing", "surplus", "duplicate", "unreadable", "same content"]
PLURALS: dict[Kind, str] = {
    "missing": "images are missing",
    "surplus": "images have no place in the suite",
    "duplicate": "images have a place that another has too",
    "unreadable": "images cannot be read",
    "same content": "images have the same content as another",
}
# What was found, but is no reason not to score
WARNINGS: tuple[Kind, ...] = ("same content",)
Key = tuple[str, int, str, int, int]


@dataclass(frozen=True)
class Problem:
    """One image with which something is wrong. place: method, seed set, subject, prompt, sample; None: it has none"""

    kind: Kind
    path: str
    detail: str
    place: Key | None = None


@dataclass(frozen=True)
class Audit:
    """The good images by their places, the content hash of every good file, and all problems.

    all_contents: the content hash of the file at every place, also where that is no image; with None for references
    """

    pictures: Mapping[Key, Picture]
    contents: Mapping[Path, bytes]
    problems: Sequence[Problem]
    root: Path
    all_contents: Sequence[tuple[Key | None, bytes]] = ()

    def of(self, *kinds: Kind) -> list[Problem]:
        """The problems of some kinds."""
        return [problem for problem in self.problems if problem.kind in kinds]


def key_of(picture: Picture) -> Key:
    """An image's place, as `Audit.pictures` has it."""
    return (picture.method, picture.seed_set, picture.subject, picture.prompt, picture.sample)


def find_jobs(found: Found) -> list[Job]:
    """The methods and seed sets that have images, sorted."""
    jobs = {Job(picture.method, picture.seed_set) for picture in found.pictures}
    return sorted(jobs, key=lambda job: (job.method, job.seed_set))


def audit(
    found: Found,
    suite: Suite,
    jobs: Sequence[Job],
    references: Iterable[Path],
    workers: Workers,
    *,
    cut_out: bool = False,
    decoded: Callable[[Key], bool] = lambda _: True,
    show_progress: bool = True,
) -> Audit:
    """Looks at every file of `jobs` and every reference: each is read, hashed and decoded once.

    cut_out: the backgrounds must be transparent
    decoded: which places' images are looked at; the others are only hashed, and pass for good ones
    """
    wanted = {key for job in jobs for key in expected_keys(suite, job)}
    of_jobs = {(job.method, job.seed_set) for job in jobs}
    pictures, problems = _places([p for p in found.pictures if (p.method, p.seed_set) in of_jobs], wanted, found.root)
    problems += [Problem("surplus", _name(path, found.root), reason) for path, reason in found.unknown]
    reference_paths = list(dict.fromkeys(references))
    looked_at = [*reference_paths, *(picture.path for key, picture in pictures.items() if decoded(key))]
    paths = list(dict.fromkeys(looked_at))
    others = sorted({picture.path for picture in pictures.values()} - set(paths))
    bar = tqdm(
        total=len(paths) + len(others), desc="checking", unit=" images", disable=not show_progress, dynamic_ncols=True
    )
    files: dict[Path, Checked] = {}
    with bar:
        for check, some in ((check_cut_out if cut_out else check_file, paths), (hash_file, others)):
            for path, checked in zip(some, workers.map(check, some), strict=True):
                bar.update()
                files[path] = checked
    contents = {path: checked.content for path, checked in files.items() if checked.problem is None}
    unreadable = {path: checked.problem for path, checked in files.items() if checked.problem is not None}
    missing = [Problem("missing", _expected_path(key, found.root), "", key) for key in sorted(wanted - set(pictures))]
    problems = missing + problems
    problems += [Problem("unreadable", str(path), unreadable[path]) for path in reference_paths if path in unreadable]
    for key, picture in pictures.items():
        if picture.path in unreadable:
            problems.append(Problem("unreadable", _name(picture.path, found.root), unreadable[picture.path], key))
    good = {key: picture for key, picture in pictures.items() if picture.path not in unreadable}
    problems += _same_content(good, contents, reference_paths, found.root)
    everything: list[tuple[Key | None, bytes]] = [(None, files[path].content) for path in reference_paths]
    everything += [(key, files[picture.path].content) for key, picture in sorted(pictures.items())]
    return Audit(good, contents, problems, found.root, everything)


def expected_keys(suite: Suite, job: Job) -> list[Key]:
    """The places of a job's images in the order of subjects, prompts and samples."""
    return [
        (job.method, job.seed_set, subject.name, slot.prompt.index, slot.sample)
        for subject in suite.subjects
        for slot in slots(suite, subject)
    ]


def report(found: Audit, out: Path, *, allow_missing: bool = False, ignore_surplus: bool = False) -> str | None:
    """Writes OUT/problems.csv where there are any; returns a warning about those that are allowed.

    Raises InputError, one line, for those that are not.
    """
    path = write_problems(found.problems, out)
    if path is None:
        return None
    allowed: set[str] = set(WARNINGS)
    allowed |= {"missing"} if allow_missing else set()
    allowed |= {"surplus"} if ignore_surplus else set()
    fatal = [
        problem
        for problem in found.problems
        # an image that cannot be read is as good as missing, a reference is not
        if problem.kind not in allowed and not (allow_missing and problem.kind == "unreadable" and problem.place)
    ]
    if not fatal:
        counts = Counter(problem.kind for problem in found.problems)
        return f"{', '.join(f'{counts[kind]} {PLURALS[kind]}' for kind in PLURALS if counts[kind])}; see {path}"
    raise InputError(f"{_summary(fatal, found.root)}; {path} lists all; {_advice(fatal)}")


def write_problems(problems: Sequence[Problem], out: Path) -> Path | None:
    """Writes OUT/problems.csv and returns its path, or removes it where there are none."""
    path = out / PROBLEMS_FILE
    if not problems:
        path.unlink(missing_ok=True)
        return None
    write_text(_table(problems), path)
    return path


def _places(pictures: Sequence[Picture], wanted: set[Key], root: Path) -> tuple[dict[Key, Picture], list[Problem]]:
    """The images by their places, and those that have none or share one."""
    places: dict[Key, list[Picture]] = defaultdict(list)
    problems = []
    for picture in pictures:
        key = key_of(picture)
        if key in wanted:
            places[key].append(picture)
        else:
            detail = "no such subject, prompt or sample in the suite"
            problems.append(Problem("surplus", _name(picture.path, root), detail, key))
    for key, several in places.items():
        for other in several[1:]:
            detail = f"the same place as {_name(several[0].path, root)}"
            problems.append(Problem("duplicate", _name(other.path, root), detail, key))
    return {key: several[0] for key, several in places.items()}, problems


def _same_content(
    pictures: Mapping[Key, Picture], contents: Mapping[Path, bytes], references: Sequence[Path], root: Path
) -> list[Problem]:
    """Images of one method that are byte for byte another of it, or a reference."""
    first = {("", contents[path]): path for path in references if path in contents}
    problems = []
    for key, picture in pictures.items():
        content = contents[picture.path]
        other = first.get(("", content)) or first.setdefault((picture.method, content), picture.path)
        if other != picture.path:
            problems.append(Problem("same content", _name(picture.path, root), f"as {_name(other, root)}", key))
    return problems


def _summary(problems: Sequence[Problem], root: Path) -> str:
    parts = []
    for kind, words in PLURALS.items():
        some = [problem for problem in problems if problem.kind == kind]
        if some:
            named = ", ".join(problem.detail if kind == "unreadable" else problem.path for problem in some[:N_NAMED])
            more = f" and {len(some) - N_NAMED} more" if len(some) > N_NAMED else ""
            parts.append(f"{len(some)} {words} in {root}: {named}{more}")
    return "; ".join(parts)


def _advice(problems: Sequence[Problem]) -> str:
    kinds = {problem.kind for problem in problems}
    if "duplicate" in kinds or "unreadable" in kinds:
        return "mend or take out these files, then score"
    if kinds == {"surplus"}:
        return "take them out, or --ignore-surplus"
    return "generate them, then score, or --allow-missing for means over fewer images"


def _table(problems: Sequence[Problem]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["kind", "path", "method", "seed_set", "subject", "prompt", "sample", "detail"])
    for problem in problems:
        writer.writerow([problem.kind, problem.path, *(problem.place or ("",) * 5), problem.detail])
    return buffer.getvalue()


def _expected_path(key: Key, root: Path) -> str:
    """Where bdkit would put the image."""
    method, seed_set, subject, prompt, sample = key
    folder = f"{IMAGES}/" if (root / IMAGES).is_dir() else ""
    return f"{folder}seed{seed_set}/{method}/{subject}/{prompt:02d}-{sample}.png"


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
