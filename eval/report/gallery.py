"""What the page's script shows: every scored image with its scores, as JSON values and thumbnails."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from PIL import Image

from bdkit.utils.images import encode, read_image
from bdkit.utils.progress import progress_bar
from dreambench.suites import Suite
from eval.report.grid import spread, spread_prompts
from eval.report.statistics import IMAGE_KEYS
from eval.report.summary import METRIC_TITLES, Results, title
from eval.results_dir import ImageId, reference_paths
from eval.score.images import ImageTree
from eval.score.metrics import METRICS
from eval.score.scores_file import NO_PROMPT

FIRST_COLUMNS = 6  # images of each row in the grid that the report begins with
EMBED_AT_MOST = 5000
# Embedded images are for looking at only; scores come from the files
TILE = 128  # longest side in pixels; smaller images keep their size
QUALITY = 75  # of WebP


class Thumbnails:
    """Small WebP images, each file once.

    contents: their bytes; an image's number is its place here
    """

    def __init__(self) -> None:
        self.contents: list[bytes] = []
        self._numbers: dict[Path, int] = {}

    def add(self, path: Path) -> int:
        """The number of a file's thumbnail, which is made at its first use."""
        if path not in self._numbers:
            self._numbers[path] = len(self.contents)
            self.contents.append(thumbnail(path))
        return self._numbers[path]


def thumbnail(path: Path) -> bytes:
    """An image file as WebP, its longest side at most TILE pixels."""
    image: Image.Image = read_image(path)
    if max(image.size) > TILE:
        image.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    return encode(image, "WEBP", quality=QUALITY)


def image_paths(tree: ImageTree) -> dict[ImageId, Path]:
    """The files of a tree's images, without those that are missing."""
    paths = {image.id: image.path for image in tree.images}
    return {image_id: path for image_id, path in paths.items() if path.is_file()}


def gallery(
    out: Path,
    results: Results,
    paths: Mapping[ImageId, Path],
    photos: Path | None,
    thumbnails: Thumbnails,
    embed_at_most: int | None = None,
    show_progress: bool = False,
) -> dict[str, Any]:
    """What the report's script shows, as JSON values: metrics, rows, subjects with references, prompts, how many scored
    images are absent, and the others as columns of one length.

    row, subject and text are places in the lists; prompt, sample and seed_set are those of the image's id; source is
    the number of its thumbnail, or a link; nearest is the place of its nearest reference; scores has a column for each
    metric. What is not known is None.
    """
    scores = results.scores[results.scores["prompt"] != NO_PROMPT]
    metrics = [metric for metric in METRIC_TITLES if metric in set(scores["metric"])]
    table = scores.pivot_table(index=IMAGE_KEYS, columns="metric", values="value", sort=True)[metrics].round(4)
    rows = [row for row in results.rows if row in set(scores["method"])]
    prompts, texts = _prompts(results.suite)
    embed = len(table) <= (EMBED_AT_MOST if embed_at_most is None else embed_at_most)
    subjects = {subject.name: number for number, subject in enumerate(results.suite.subjects)}
    columns: dict[str, list[Any]] = {
        name: [] for name in ("source", "row", "subject", "text", "prompt", "sample", "seed_set", "nearest")
    }
    kept = []
    bar = progress_bar(table.index, show=show_progress, desc="report", unit=" images")
    for position, (method, seed_set, subject, prompt, sample) in enumerate(bar):
        image_id = ImageId(method, int(seed_set), subject, int(prompt), int(sample))
        path = paths.get(image_id)
        if path is None:
            continue
        line = {
            "source": thumbnails.add(path) if embed else quote(Path(os.path.relpath(path, out)).as_posix()),
            "row": rows.index(method),
            "subject": subjects[subject],
            "text": prompts[subject, prompt],
            **{name: getattr(image_id, name) for name in ("prompt", "sample", "seed_set")},
            "nearest": results.nearest.get(image_id),
        }
        for name, value in line.items():
            columns[name].append(value)
        kept.append(position)
    return {
        "embedded": embed,
        "absent": len(table) - len(kept),
        "metrics": [[METRIC_TITLES[name], METRICS[name].higher_is_better] for name in metrics],
        "rows": [[row, title(row)] for row in rows],
        "subjects": [
            {
                "name": subject.name,
                "noun": subject.class_noun,
                "references": [thumbnails.add(path) for path in reference_paths(out, results.suite, subject, photos)],
            }
            for subject in results.suite.subjects
        ],
        "prompts": texts,
        "images": columns,
        "scores": [_values(table[name].iloc[kept]) for name in metrics],
    }


def first_grid(
    out: Path,
    results: Results,
    rows: Sequence[tuple[str, int]],
    paths: Mapping[ImageId, Path],
    photos: Path | None,
    thumbnails: Thumbnails,
) -> dict[str, Any]:
    """What the report begins with: a few prompts across, reference and rows down; a missing image is None."""
    shown = spread(spread_prompts(results.suite, FIRST_COLUMNS, 3), FIRST_COLUMNS)
    references = [reference_paths(out, results.suite, subject, photos)[0] for subject, _ in shown]
    lines: list[tuple[str, list[Path | None]]] = [("Reference", [*references])]
    for method, seed_set in rows:
        ids = [ImageId(method, seed_set, subject.name, prompt.index, 0) for subject, prompt in shown]
        lines.append((title(method), [paths.get(image_id) for image_id in ids]))
    return {
        "head": [prompt.text(subject.class_noun) for subject, prompt in shown],
        "lines": [(text, [None if path is None else thumbnails.add(path) for path in line]) for text, line in lines]
        if rows
        else [],
    }


def first_seed_sets(results: Results, paths: Mapping[ImageId, Path]) -> list[tuple[str, int]]:
    """Every row that has images, with its first seed set."""
    seed_sets: dict[str, int] = {}
    for image_id in paths:
        seed_sets[image_id.method] = min(image_id.seed_set, seed_sets.get(image_id.method, image_id.seed_set))
    return [(row, seed_sets[row]) for row in results.rows if row in seed_sets]


def _values(column: pd.Series) -> list[float | None]:
    return [None if value != value else float(value) for value in column]


def _prompts(suite: Suite) -> tuple[dict[tuple[str, int], int], list[tuple[str, str]]]:
    """(subject, prompt index) -> number among the suite's different prompts, and their texts and kinds."""
    texts: dict[tuple[str, str], int] = {}
    numbers = {}
    for subject in suite.subjects:
        for prompt in suite.prompts(subject):
            text = prompt.text("…" if not prompt.published else subject.class_noun)
            numbers[subject.name, prompt.index] = texts.setdefault((text, prompt.kind), len(texts))
    return numbers, list(texts)
