"""Preparing the images of the fixture `images`, for the tests of this folder."""

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bdkit.training.preparation.prepare import PrepareConfig, prepare_images

SIZE = 64
COLUMNS = ["path", "caption", "subject", "box", "mask"]


def write_list(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS + sorted({name for row in rows for name in row} - set(COLUMNS)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def prepare(root: Path, out: Path, captions: Path | None = None, **fields: Any) -> dict[str, Any]:
    config = PrepareConfig(**{"size": SIZE, "masks": str(root / "masks"), "matting": "guided"} | fields)
    source = captions or root / "captions.csv"
    with ThreadPoolExecutor(1) as pool:
        return prepare_images(str(root / "images"), str(source), str(out), config, executor=pool, progress=False)


def rejections(out: Path) -> dict[str, tuple[str, str]]:
    with (out / "rejected.csv").open(newline="") as file:
        return {row["source"]: (row["reason"], row["detail"]) for row in csv.DictReader(file)}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
