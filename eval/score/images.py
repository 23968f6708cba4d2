"""Which file is which picture: readers of the layouts in which programs leave their images.

    tree           [images/][seed<k>/][<method>/]<subject>/<prompt index>-<sample>.png, bdkit's own
    prompt-folders [seed<k>/][<method>/]<subject>/<prompt text>/<anything>.png, in many public repositories
    dreambench++   [<method>/]tgt_image/<subject>/<prompt index>_<sample>.jpg, what DreamBench++'s code writes

and any other through a CSV manifest. Every image format that Pillow reads will do, not only PNG.
"""

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bdkit.utils.errors import InputError
from bdkit.utils.images import FOREIGN_SUFFIXES, SUFFIXES
from dreambench.suites import Suite, SuiteSubject
from eval.results_dir import IMAGES, REFERENCES, SUITE_FILE
from eval.score.protocols import rewritten

COLUMNS = ("path", "method", "subject", "prompt_index", "sample")
TREE_NAME = re.compile(r"(\d+)-(\d+)")
PLUS_NAME = re.compile(r"(\d+)_(\d+)")
PLOTS = "plots"
SEED_FOLDER = re.compile(r"seed(\d+)")
SUBJECT = "thesubjectoftheimage"
PLUS_FOLDER, PLUS_TEXTS = "tgt_image", "text"


@dataclass(frozen=True)
class Picture:
    """One file and its place: prompt is the index in the subject's list.

    reference: the reference image that it was made from, by file name or number; None: not said
    """

    path: Path
    method: str
    seed_set: int
    subject: str
    prompt: int
    sample: int
    reference: str | None = None


@dataclass(frozen=True)
class Found:
    """What a reader found: the images, and image files that have no place with the reason."""

    root: Path
    pictures: tuple[Picture, ...]
    unknown: tuple[tuple[Path, str], ...] = ()


Reader = Callable[[Path, Suite, str], Found]


def read_images(
    root: Path, suite: Suite, *, layout: str = "auto", manifest: Path | None = None, method: str | None = None
) -> Found:
    """The images below `root` by a manifest, else by the layout of a name, else by the layout that fits most files.

    method: the name of images that lie directly in `root`; None: the folder's own

    Raises InputError when there is no such folder, layout or image, and for a manifest that cannot be used.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; give the folder of the images to score")
    if manifest is not None:
        return read_manifest(manifest, root)
    if layout != "auto" and layout not in LAYOUTS:
        raise InputError(f"unknown layout {layout!r}; known: auto, {', '.join(LAYOUTS)}, or any other by --manifest")
    readers = LAYOUTS.values() if layout == "auto" else [LAYOUTS[layout]]
    found = max((reader(root, suite, method or root.resolve().name) for reader in readers), key=_n_images)
    if (root / SUITE_FILE).exists():
        found = Found(root, found.pictures, tuple(one for one in found.unknown if not _is_ours(one[0], root)))
    if not found.pictures:
        reasons = f" ({found.unknown[0][0]}: {found.unknown[0][1]})" if found.unknown else ""
        raise InputError(
            f"no images under {root} answer suite {suite.name}{reasons}; "
            "they belong in METHOD/SUBJECT/00-0.png, or name another --layout or a --manifest"
        )
    return found


def read_manifest(path: Path, root: Path) -> Found:
    """The images of a CSV file with the columns path (absolute, or from `root`), method, subject, prompt_index (or
    prompt), sample, and at will seed_set and reference.

    Raises InputError for a missing file or column, and for lines that are not an image's.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns, lines = reader.fieldnames or [], list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"the manifest {path} cannot be read ({error}); save it as CSV in UTF-8") from error
    prompt = "prompt_index" if "prompt_index" in columns else "prompt"
    if missing := [name for name in COLUMNS if name not in columns and (name, prompt) != ("prompt_index", "prompt")]:
        raise InputError(f"the manifest {path} has no column {missing[0]!r}; it needs {', '.join(COLUMNS)}")
    if prompt not in columns:
        raise InputError(f"the manifest {path} has no column 'prompt_index'; it needs {', '.join(COLUMNS)}")
    pictures, bad = [], []
    for number, line in enumerate(lines, start=2):
        try:
            pictures.append(
                Picture(
                    root / _text(line, "path"),
                    _text(line, "method"),
                    int(line.get("seed_set") or 0),
                    _text(line, "subject"),
                    int(line[prompt]),
                    int(line["sample"]),
                    line.get("reference") or None,
                )
            )
        except (TypeError, ValueError) as error:
            bad.append(f"line {number} ({error})")
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise InputError(f"the manifest {path} has bad lines: {', '.join(bad[:3])}{more}; mend them")
    if not pictures:
        raise InputError(f"the manifest {path} names no image; it needs a line for each")
    return Found(root, tuple(pictures))


def read_tree(root: Path, suite: Suite, method: str) -> Found:
    """[images/][seed<k>/][<method>/]<subject>/<prompt index>-<sample>.png"""
    inner = root / IMAGES if (root / IMAGES).is_dir() else root
    found = _read(inner, suite, method, depth=1, place=_tree_place)
    return Found(root, found.pictures, found.unknown)


def read_prompt_folders(root: Path, suite: Suite, method: str) -> Found:
    """[seed<k>/][<method>/]<subject>/<prompt text>/<anything>.png

    The text may have the method's token before the class noun, any case, and _ or - for spaces. The samples are the
    files of a folder in natural order (2.png before 10.png).
    """
    ranks = {
        path: number
        for folder in {path.parent for path in _image_files(root)}
        for number, path in enumerate(sorted(_image_files(folder, deep=False), key=_natural))
    }
    texts = {subject.name: _prompt_patterns(suite, subject) for subject in suite.subjects}

    def place(folders: list[str], path: Path, subject: SuiteSubject) -> tuple[int, int] | str:
        text = _plain(folders[-1])
        for pattern, index in texts[subject.name]:
            if pattern.fullmatch(text):
                return index, ranks[path]
        return f"{folders[-1]!r} is no prompt of {subject.name}"

    return _read(root, suite, method, depth=2, place=place)


def read_dreambench_plus(root: Path, suite: Suite, method: str) -> Found:
    """[<method>/]tgt_image/<subject>/<prompt index>_<sample>.jpg

    DreamBench++'s code names subjects <category>_<number>_<noun> and writes the prompt beside each image, in
    text/<subject>/<prompt index>_<sample>.txt: where it is there, it must be the suite's.
    """
    pictures: list[Picture] = []
    unknown: list[tuple[Path, str]] = []
    for folder in sorted({path.parents[1] for path in _image_files(root) if path.parents[1].name == PLUS_FOLDER}):
        name = method if folder.parent == root else folder.parent.name
        found = _read(folder, suite, name, depth=1, place=_plus_place)
        unknown += found.unknown
        for picture in found.pictures:
            reason = _other_text(suite, picture)
            if reason:
                unknown.append((picture.path, reason))
            else:
                pictures.append(picture)
    return Found(root, tuple(pictures), tuple(unknown))


LAYOUTS: dict[str, Reader] = {
    "tree": read_tree,
    "prompt-folders": read_prompt_folders,
    "dreambench++": read_dreambench_plus,
}
Place = Callable[[list[str], Path, SuiteSubject], tuple[int, int] | str]


def _read(root: Path, suite: Suite, method: str, *, depth: int, place: Place) -> Found:
    """Files `depth` folders below a [seed<k>/][<method>/], each put where `place` says."""
    subjects = {subject.name: subject for subject in suite.subjects}
    pictures: list[Picture] = []
    unknown: list[tuple[Path, str]] = []
    for path in _image_files(root):
        folders = list(path.relative_to(root).parts[:-1])
        seed = SEED_FOLDER.fullmatch(folders[0]) if folders and folders[0] not in subjects else None
        folders = folders[1:] if seed else folders
        own = folders[0] if len(folders) == depth + 1 else method
        if len(folders) not in (depth, depth + 1):
            unknown.append((path, "not in a subject's folder"))
        elif (subject := subjects.get(folders[-depth])) is None:
            unknown.append((path, f"{folders[-depth]!r} is no subject of the suite"))
        elif path.suffix.lower() in FOREIGN_SUFFIXES:
            unknown.append((path, "in a camera's own format"))
        elif isinstance(found := place(folders, path, subject), str):
            unknown.append((path, found))
        else:
            pictures.append(Picture(path, own, int(seed[1]) if seed else 0, subject.name, *found))
    return Found(root, tuple(pictures), tuple(unknown))


def _tree_place(folders: list[str], path: Path, subject: SuiteSubject) -> tuple[int, int] | str:
    match = TREE_NAME.fullmatch(path.stem)
    return (int(match[1]), int(match[2])) if match else "its name is not <prompt index>-<sample>"


def _plus_place(folders: list[str], path: Path, subject: SuiteSubject) -> tuple[int, int] | str:
    match = PLUS_NAME.fullmatch(path.stem)
    return (int(match[1]), int(match[2])) if match else "its name is not <prompt index>_<sample>"


def _other_text(suite: Suite, picture: Picture) -> str | None:
    folder, name = picture.path.parent, f"{picture.path.stem}.txt"
    path = folder.parent.parent / PLUS_TEXTS / folder.name / name
    subject = next(subject for subject in suite.subjects if subject.name == picture.subject)
    prompt = next((prompt for prompt in suite.prompts(subject) if prompt.index == picture.prompt), None)
    if prompt is None or not path.is_file():
        return None
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    same = _plain(text) == _plain(prompt.text(subject.class_noun))
    return None if same else f"made for {text!r}, not for the suite's prompt {prompt.index}"


def _prompt_patterns(suite: Suite, subject: SuiteSubject) -> list[tuple[re.Pattern[str], int]]:
    """For each prompt the texts it may stand as: with or without a token of one word before the class noun."""
    patterns = []
    for prompt in suite.prompts(subject):
        for template in dict.fromkeys((prompt.template, rewritten(prompt.template))):
            parts = _plain(template.replace("{} {}", SUBJECT)).split(SUBJECT)
            noun = rf"(\S+ )?{re.escape(_plain(subject.class_noun))}"
            text = noun.join(re.escape(part) for part in parts) if len(parts) == 2 else re.escape("".join(parts))
            patterns.append((re.compile(text), prompt.index))
    return patterns


def _plain(text: str) -> str:
    words = re.sub(r"[_\W]+", " ", text.lower(), flags=re.UNICODE).split()
    return " ".join(words)


def _image_files(root: Path, deep: bool = True) -> Iterator[Path]:
    paths = root.rglob("*") if deep else root.glob("*")
    for path in sorted(paths):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if not hidden and path.suffix.lower() in (*SUFFIXES, *FOREIGN_SUFFIXES) and not path.is_dir():
            yield path


def _is_ours(path: Path, root: Path) -> bool:
    """Whether an image in a folder that was scored before is one of the references, plots and grids put there."""
    return path.parent == root or path.relative_to(root).parts[0] in (REFERENCES, PLOTS)


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _n_images(found: Found) -> int:
    return len(found.pictures)


def _text(line: dict[str, str], column: str) -> str:
    value = (line[column] or "").strip()
    if not value:
        raise ValueError(f"no {column}")
    return value
