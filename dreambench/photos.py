"""Where the DreamBench photos are."""

import os
from pathlib import Path

from bdkit.utils.errors import InputError
from bdkit.utils.images import list_images
from dreambench.suites import Suite, SuiteSubject

FOLDER_VARIABLE = "BDKIT_DREAMBENCH_DIR"


def default_folder() -> Path:
    """Where `bdkit fetch dreambench` puts the photos when no folder is named."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "bdkit" / "dreambench"


def photos_folder(flag: str | Path | None = None) -> Path:
    """The folder with one folder of photos a subject: the flag's, else BDKIT_DREAMBENCH_DIR's, else the fetched one."""
    folder = flag or os.environ.get(FOLDER_VARIABLE)
    if folder is None:
        folder = default_folder()
        if not folder.is_dir():
            raise InputError(
                "no DreamBench photos; run `bdkit fetch dreambench`, or name their folder with --photos "
                f"or {FOLDER_VARIABLE}"
            )
    if not Path(folder).is_dir():
        raise InputError(f"the photos folder {folder} is not a folder; run `bdkit fetch dreambench --out {folder}`")
    return Path(folder)


def photo_paths(folder: Path, subject: SuiteSubject) -> list[Path]:
    """The paths of one subject's photos in name order; InputError when their number is not DreamBench's."""
    if subject.photo:
        path = folder / subject.photo
        if not path.is_file():
            raise InputError(f"{path} is missing; name the suite's published folder with --photos")
        return [path]
    paths = list_images(folder / subject.name)
    if len(paths) != subject.n_references:
        raise InputError(
            f"{folder / subject.name} holds {len(paths)} images, DreamBench has {subject.n_references}; "
            f"run `bdkit fetch dreambench --out {folder}` to repair it"
        )
    return paths


def check_photos(folder: Path, suite: Suite) -> None:
    """Raises InputError unless every subject of the suite has its photos in `folder`."""
    for subject in suite.subjects:
        photo_paths(folder, subject)
