"""Where the edited images of every method are, and what is wrong with them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from bdkit.utils.errors import InputError
from bdkit.utils.image_formats import readable_suffixes
from eval.score.check import Problem
from eval.score.editing.benchmark import EditBenchmark, EditCase
from eval.score.editing.pie_bench import IMAGES

# The published code names its folder of images so within a method's, too
INNER = IMAGES


@dataclass(frozen=True, kw_only=True)
class EditedImages:
    """What was found. files: method -> case's name -> file; expected: method -> how many; problems: of all methods"""

    files: Mapping[str, Mapping[str, Path]]
    expected: Mapping[str, int]
    problems: Sequence[Problem]


def find_edited(root: Path, benchmark: EditBenchmark, method: str | None = None) -> EditedImages:
    """The edited images below ROOT/METHOD/, ROOT/METHOD/annotation_images/, or of one method below ROOT itself.

    An image lies where the benchmark has its source, with any suffix that can be read; of a part of the benchmark that
    a method has no folder for, nothing is expected.

    method: the name where ROOT is of one method (default: ROOT's name)
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; give the folder of the edited images")
    parts = {case.name.split("/")[0] for case in benchmark.cases}
    folders = {method or root.resolve().name: root} if _inner(root, parts) else {}
    if not folders:
        folders = {path.name: path for path in sorted(root.iterdir()) if path.is_dir() and _inner(path, parts)}
        if method is not None and folders:
            raise InputError(f"--method names the images of one method, and {root} holds {', '.join(folders)}")
    if not folders:
        raise InputError(
            f"{root} has no edited images of {benchmark.name}; they lie in METHOD/{benchmark.cases[0].name}.png, ..."
        )
    files: dict[str, dict[str, Path]] = {}
    expected: dict[str, int] = {}
    problems: list[Problem] = []
    for name, outer in folders.items():
        folder = _inner(outer, parts) or outer
        cases = [case for case in benchmark.cases if (folder / case.name.split("/")[0]).is_dir()]
        files[name], wrong = _of_method(root, folder, benchmark, cases)
        expected[name] = len(cases)
        problems += wrong
    return EditedImages(files=files, expected=expected, problems=problems)


def _inner(folder: Path, parts: set[str]) -> Path | None:
    """The folder that holds the parts of the benchmark; None where neither it nor the published inner one does."""
    for candidate in (folder / INNER, folder):
        if any((candidate / part).is_dir() for part in parts):
            return candidate
    return None


def _of_method(
    root: Path, folder: Path, benchmark: EditBenchmark, cases: Sequence[EditCase]
) -> tuple[dict[str, Path], list[Problem]]:
    there: dict[str, list[Path]] = {}
    for path in _images_below(folder):
        there.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    files, problems = {}, []
    for case in cases:
        several = there.pop(case.name, [])
        if not several:
            expected = (folder / case.name).with_suffix(case.source.suffix)
            problems.append(Problem("missing", expected.relative_to(root).as_posix(), ""))
            continue
        files[case.name] = several[0]
        for other in several[1:]:
            detail = f"the same place as {several[0].relative_to(root)}"
            problems.append(Problem("duplicate", other.relative_to(root).as_posix(), detail))
        if wrong := _wrong(several[0], case, benchmark):
            problems.append(Problem("unreadable", several[0].relative_to(root).as_posix(), wrong))
    known = [
        Problem("surplus", path.relative_to(root).as_posix(), "no such image in the benchmark")
        for paths in there.values()
        for path in paths
    ]
    return files, problems + known


def _wrong(path: Path, case: EditCase, benchmark: EditBenchmark) -> str | None:
    """What is wrong with an edited image, by its head alone."""
    sizes = []
    for one in (path, case.source):
        try:
            with Image.open(one) as image:
                sizes.append(image.size)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return f"{one} cannot be read ({type(error).__name__})"
    wrong = benchmark.fit(sizes[0], sizes[1])
    return wrong and f"{path}: {wrong}"


def _images_below(folder: Path) -> Iterator[Path]:
    suffixes = readable_suffixes()
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and path.suffix.lower() in suffixes and not hidden:
            yield path
