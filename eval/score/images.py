"""Which file is which image: readers of the trees in which programs leave their images.

    tree           [images/][seed<k>/][<method>/]<subject>/<prompt index>-<sample>.png, bdkit's own
    prompt-folders [seed<k>/][<method>/]<subject>/<prompt text>/<anything>.png, in many public repositories
    dreambench++   [<method>/]tgt_image/<subject>/<prompt index>_<sample>.jpg, what DreamBench++'s code writes

and any other through a CSV manifest. Every image format that Pillow reads will do, not only PNG.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bdkit.utils.errors import InputError
from bdkit.utils.image_formats import FOREIGN_SUFFIXES, SUFFIXES
from bdkit.utils.io import printable
from dreambench.suites import Suite, SuiteSubject
from eval.results_dir import IMAGES, REFERENCES, SUITE_FILE, ImageId
from eval.score.protocols import rewritten

COLUMNS = ("path", "method", "subject", "prompt_index", "sample")
SEPARATORS = ",;\t"
PLOTS = "plots"
SEED_FOLDER = re.compile(r"seed(\d{1,9})", re.ASCII)
SUBJECT = "thesubjectoftheimage"
PLUS_FOLDER, PLUS_TEXTS = "tgt_image", "text"


@dataclass(frozen=True)
class ImageFile:
    """One file and the image that it is.

    reference: the reference image that it was made from, by file name or number; None: not said
    """

    path: Path
    id: ImageId
    reference: str | None = None

    def reference_index(self, references: Sequence[Path]) -> int | None:
        """The index of that reference: by its file's name, with or without its ending, or by its number from 0."""
        if self.reference is None:
            return None
        names: dict[str, int] = {str(number): number for number in range(len(references))}
        names |= {path.stem: number for number, path in enumerate(references)}
        names |= {path.name: number for number, path in enumerate(references)}
        if self.reference not in names:
            known = ", ".join(path.name for path in references)
            raise InputError(f"{self.path} names the reference {self.reference!r}; {self.id.subject} has {known}")
        return names[self.reference]


@dataclass(frozen=True)
class ImageTree:
    """The images below a folder, and image files that are none of the suite's with the reason.

    others: files that lie where images of the suite belong, but have no image's suffix
    """

    root: Path
    images: tuple[ImageFile, ...]
    unknown: tuple[tuple[Path, str], ...] = ()
    others: tuple[ImageFile, ...] = ()

    @property
    def rows(self) -> list[tuple[str, int]]:
        """The methods and seed sets that have images, sorted."""
        return sorted({(image.id.method, image.id.seed_set) for image in self.images})

    def of_rows(self, rows: Sequence[tuple[str, int]]) -> "ImageTree":
        """A results folder's tree without what lies in the folders of other methods and seed sets."""
        folders = [self.root / IMAGES / f"seed{seed_set}" / method for method, seed_set in rows]
        unknown = [one for one in self.unknown if any(one[0].is_relative_to(folder) for folder in folders)]
        images = [image for image in self.images if (image.id.method, image.id.seed_set) in rows]
        return ImageTree(self.root, tuple(images), tuple(unknown))


Reader = Callable[[Path, Suite, str], ImageTree]
# (folders below the method's, file, subject) -> prompt and sample, or why it has none
Finder = Callable[[list[str], Path, SuiteSubject], tuple[int, int] | str]


def read_images(
    root: Path, suite: Suite, *, tree: str = "auto", manifest: Path | None = None, method: str | None = None
) -> ImageTree:
    """The images below `root` by a manifest, else by the tree of a name, else by the tree that fits most files.

    method: the name of images that lie directly in `root`; None: the folder's own
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; give the folder of the images to score")
    if manifest is not None:
        return read_manifest(manifest, root)
    if tree != "auto" and tree not in TREES:
        raise InputError(f"unknown tree {tree!r}; known: auto, {', '.join(TREES)}, or any other by --manifest")
    readers = TREES.values() if tree == "auto" else [TREES[tree]]
    candidates = [reader(root, suite, method or root.resolve().name) for reader in readers]
    found = max(candidates, key=lambda candidate: len(candidate.images))
    if (root / SUITE_FILE).exists():
        found = replace(found, unknown=tuple(one for one in found.unknown if not _is_result(one[0], root)))
    if not found.images:
        reasons = f" ({found.unknown[0][0]}: {found.unknown[0][1]})" if found.unknown else ""
        raise InputError(
            f"no images under {root} answer suite {suite.name}{reasons}; "
            "they belong in METHOD/SUBJECT/00-0.png, or name another --tree or a --manifest"
        )
    return found


def read_manifest(path: Path, root: Path) -> ImageTree:
    """The images of a CSV file with the columns path (absolute, or from `root`), method, subject, prompt_index (or
    prompt), sample, and optionally seed_set and reference. Commas, semicolons or tabs separate them, as its first line
    does.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            above = int(first.startswith("sep="))  # Excel's own line above the header
            if not above:
                file.seek(0)
            separator = max(SEPARATORS, key=first.count)
            reader = csv.DictReader(file, delimiter=separator, skipinitialspace=True)
            columns = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            lines = [(reader.line_num + above, line) for line in reader]
    except UnicodeDecodeError as error:
        raise InputError(f"the manifest {path} is not UTF-8; save it as CSV in UTF-8") from error
    except (OSError, csv.Error) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise InputError(f"the manifest {path} cannot be read ({reason}); save it as CSV in UTF-8") from error
    prompt = "prompt" if "prompt" in columns and "prompt_index" not in columns else "prompt_index"
    needed = [prompt if name == "prompt_index" else name for name in COLUMNS]
    if missing := [name for name in needed if name not in columns]:
        raise InputError(f"the manifest {path} has no column {missing[0]!r}; it needs {', '.join(COLUMNS)}")
    images, bad = [], []
    for number, line in lines:
        try:
            if None in line or None in line.values():
                raise InputError(f"not {len(columns)} fields, as the first line has")
            name, method, subject = (_text(line, column) for column in ("path", "method", "subject"))
            seed_set = _number(line, "seed_set") if line.get("seed_set") else 0
            image_id = ImageId(method, seed_set, subject, _number(line, prompt), _number(line, "sample"))
            if "\0" in name or ((root / name).exists() and not (root / name).is_file()):
                raise InputError(f"{printable(name)} is no file")
            images.append(ImageFile(root / name, image_id, line.get("reference") or None))
        except InputError as error:
            bad.append(f"line {number} ({error})")
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise InputError(f"the manifest {path} has bad lines: {', '.join(bad[:3])}{more}; correct them")
    if not images:
        raise InputError(f"the manifest {path} names no image; it needs a line for each")
    return ImageTree(root, tuple(images))


def read_tree(root: Path, suite: Suite, method: str) -> ImageTree:
    """[images/][seed<k>/][<method>/]<subject>/<prompt index>-<sample>.png"""
    inner = root / IMAGES if (root / IMAGES).is_dir() else root
    return replace(_read(inner, suite, method, depth=1, finder=_by_name("-")), root=root)


def read_prompt_folders(root: Path, suite: Suite, method: str) -> ImageTree:
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

    def find(folders: list[str], path: Path, subject: SuiteSubject) -> tuple[int, int] | str:
        text = _plain(folders[-1])
        for pattern, index in texts[subject.name]:
            if path in ranks and pattern.fullmatch(text):
                return index, ranks[path]
        return f"{folders[-1]!r} is no prompt of {subject.name}"

    return _read(root, suite, method, depth=2, finder=find)


def read_dreambench_plus(root: Path, suite: Suite, method: str) -> ImageTree:
    """[<method>/]tgt_image/<subject>/<prompt index>_<sample>.jpg

    DreamBench++'s code names subjects <category>_<number>_<noun> and writes the prompt beside each image, in
    text/<subject>/<prompt index>_<sample>.txt: where that file exists, it must hold the suite's prompt.
    """
    images: list[ImageFile] = []
    unknown: list[tuple[Path, str]] = []
    others: list[ImageFile] = []
    for folder in sorted({path.parents[1] for path in _image_files(root) if path.parents[1].name == PLUS_FOLDER}):
        name = method if folder.parent == root else folder.parent.name
        part = _read(folder, suite, name, depth=1, finder=_by_name("_"))
        unknown += part.unknown
        others += part.others
        for image in part.images:
            if reason := _other_text(suite, image):
                unknown.append((image.path, reason))
            else:
                images.append(image)
    return ImageTree(root, tuple(images), tuple(unknown), tuple(others))


TREES: dict[str, Reader] = {
    "tree": read_tree,
    "prompt-folders": read_prompt_folders,
    "dreambench++": read_dreambench_plus,
}


def _read(root: Path, suite: Suite, method: str, *, depth: int, finder: Finder) -> ImageTree:
    """Files `depth` folders below a [seed<k>/][<method>/], each with the prompt and sample that `finder` gives."""
    subjects = {subject.name: subject for subject in suite.subjects}
    images: list[ImageFile] = []
    unknown: list[tuple[Path, str]] = []
    others: list[ImageFile] = []
    for path in _files(root.rglob("*"), root):
        folders = list(path.relative_to(root).parts[:-1])
        seed = SEED_FOLDER.fullmatch(folders[0]) if folders and folders[0] not in subjects else None
        folders = folders[1:] if seed else folders
        name = printable(folders[0] if len(folders) == depth + 1 else method)
        reason = ""
        if len(folders) not in (depth, depth + 1):
            reason = "not in a subject's folder"
        elif (subject := subjects.get(folders[-depth])) is None:
            reason = f"{folders[-depth]!r} is no subject of the suite"
        elif isinstance(found := finder(folders, path, subject), str):
            reason = found
        else:
            image = ImageFile(path, ImageId(name, int(seed[1]) if seed else 0, subject.name, *found))
            (images if _is_image(path) else others).append(image)
        if reason and _is_image(path):
            unknown.append((path, reason))
    return ImageTree(root, tuple(images), tuple(unknown), tuple(others))


def _by_name(separator: str) -> Finder:
    """Finds prompt and sample in the file's name."""

    def find(folders: list[str], path: Path, subject: SuiteSubject) -> tuple[int, int] | str:
        match = re.fullmatch(rf"(\d+){separator}(\d+)", path.stem)
        return (int(match[1]), int(match[2])) if match else f"its name is not <prompt index>{separator}<sample>"

    return find


def _other_text(suite: Suite, image: ImageFile) -> str | None:
    folder, name = image.path.parent, f"{image.path.stem}.txt"
    path = folder.parent.parent / PLUS_TEXTS / folder.name / name
    subject = next(subject for subject in suite.subjects if subject.name == image.id.subject)
    prompt = next((prompt for prompt in suite.prompts(subject) if prompt.index == image.id.prompt), None)
    if prompt is None or not path.is_file():
        return None
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    same = _plain(text) == _plain(prompt.text(subject.class_noun))
    return None if same else f"made for {text!r}, not for the suite's prompt {prompt.index}"


def _prompt_patterns(suite: Suite, subject: SuiteSubject) -> list[tuple[re.Pattern[str], int]]:
    """For each prompt the texts that name it: with or without a token of one word before the class noun."""
    patterns = []
    for prompt in suite.prompts(subject):
        for template in dict.fromkeys((prompt.template, rewritten(prompt.template))):
            parts = _plain(template.replace("{} {}", SUBJECT)).split(SUBJECT)
            noun = rf"(\S+ )?{re.escape(_plain(subject.class_noun))}"
            text = noun.join(re.escape(part) for part in parts) if len(parts) == 2 else re.escape("".join(parts))
            patterns.append((re.compile(text), prompt.index))
    return patterns


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[_\W]+", " ", text.lower(), flags=re.UNICODE).split())


def _image_files(root: Path, deep: bool = True) -> Iterator[Path]:
    return filter(_is_image, _files(root.rglob("*") if deep else root.glob("*"), root))


def _files(paths: Iterable[Path], root: Path) -> Iterator[Path]:
    for path in sorted(paths):
        if not any(part.startswith(".") for part in path.relative_to(root).parts) and not path.is_dir():
            yield path


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in (*SUFFIXES, *FOREIGN_SUFFIXES)


def _is_result(path: Path, root: Path) -> bool:
    """Whether an image in a results folder is one of the references, plots and grids put there."""
    return path.parent == root or path.relative_to(root).parts[0] in (REFERENCES, PLOTS)


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _text(line: dict[str, str], column: str) -> str:
    value = (line[column] or "").strip()
    if not value:
        raise InputError(f"no {column}")
    return value


def _number(line: dict[str, str], column: str) -> int:
    """A whole number from 0, perhaps with the ".0" that pandas writes."""
    match = re.fullmatch(r"(\d{1,9})(\.0*)?", value := _text(line, column), re.ASCII)
    if match is None:
        raise InputError(f"{column} is {value[:40]!r}; use a whole number from 0 to 999,999,999")
    return int(match[1])
