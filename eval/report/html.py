"""report.html: images, plots, tables and every scored image beside its reference, in one file that needs no network.

Up to EMBED_AT_MOST generated images are embedded, small, and the file can be sent on alone. More than that stay where
they are and are linked by relative path, so the file must stay in its results folder. The first grid, tables, plots and
references are embedded always.
"""

import base64
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined
from PIL import Image
from tqdm import tqdm

from bdkit.utils.images import encode, read_image
from bdkit.utils.io import write_text
from dreambench.suites import Suite
from eval.report.grid import draw_grid, spread, spread_prompts
from eval.report.plots import make_plots
from eval.report.statistics import IMAGE_KEYS, splits_of
from eval.report.summary import METRIC_TITLES, Results, title
from eval.report.tables import sections, split_sections
from eval.results_dir import IMAGES, ImageId, reference_paths
from eval.score.images import ImageTree, read_tree
from eval.score.metrics import METRICS
from eval.score.score import NO_PROMPT

REPORT_FILE = "report.html"
TEMPLATE = "template.html"
FIRST_COLUMNS = 6  # images of each row in the grid that the report begins with
EMBED_AT_MOST = 1500
# Embedded images are for looking at only; scores come from the files
TILE = 128  # longest side in pixels; smaller images keep their size
QUALITY = 75  # of WebP


def make_report(
    out: Path,
    results: Results,
    photos: Path | None = None,
    *,
    tree: ImageTree | None = None,
    published: bool = False,
    embed_at_most: int | None = None,
    show_progress: bool = True,
) -> Path:
    """Writes OUT/plots, OUT/report.html and, for images in OUT, OUT/grid.png, and returns the report's path.

    photos: folder of the references of a suite of photos
    tree: where the images are; None: in OUT/images. Those that are missing are left out, and counted.
    published: all published results beside ours, in place of the paper's table
    embed_at_most: so many generated images are embedded, of more all are linked; None: EMBED_AT_MOST
    """
    in_folder = tree is None and (out / IMAGES).is_dir()
    if in_folder:
        tree = read_tree(out, results.suite, out.name)
    paths = {} if tree is None else image_paths(tree)
    rows = _first_seed_sets(results, paths)
    if in_folder:
        columns = {pair: title(pair[0]) for pair in rows}
        draw_grid(out, results.suite, columns, photos, paths=paths)
    plots = [
        {"heading": plot.heading, "note": plot.note, "source": _data(plot.svg, "svg+xml"), "name": plot.name}
        for plot in make_plots(results, out, published=published)
    ]
    main, *others = sections(results, published=published)
    splits = [split for split in splits_of(results.suite) if split != "category"]
    template = files("eval.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(template).render(
        suite=results.suite,
        protocol=results.protocol,
        commit=results.run.get("commit"),
        grid=_first_grid(out, results, rows, paths, photos),
        published=published,
        main_plots=plots[:1],
        plots=plots[1:],
        main=main,
        sections=[*others, *(section for split in splits for section in split_sections(results, split))],
        data=gallery(out, results, paths, photos, embed_at_most, show_progress),
    )
    write_text(page, out / REPORT_FILE)
    return out / REPORT_FILE


def image_paths(tree: ImageTree) -> dict[ImageId, Path]:
    """The files of a tree's images, without those that are missing."""
    paths = {image.id: image.path for image in tree.images}
    return {image_id: path for image_id, path in paths.items() if path.is_file()}


def gallery(
    out: Path,
    results: Results,
    paths: Mapping[ImageId, Path],
    photos: Path | None,
    embed_at_most: int | None = None,
    show_progress: bool = False,
) -> dict[str, Any]:
    """What the report's script shows, as JSON values: metrics, rows, subjects with references, prompts, how many scored
    images are absent, and a line for each other one: [source, row, subject, seed set, prompt, sample, values].

    row, subject and prompt are numbers in the lists; values go by the list of metrics, None where there is none.
    """
    scores = results.scores[results.scores["prompt"] != NO_PROMPT]
    metrics = [metric for metric in METRIC_TITLES if metric in set(scores["metric"])]
    table = scores.pivot_table(index=IMAGE_KEYS, columns="metric", values="value", sort=True)[metrics].round(4)
    rows = [row for row in results.rows if row in set(scores["method"])]
    prompts, texts = _prompts(results.suite)
    embed = len(table) <= (EMBED_AT_MOST if embed_at_most is None else embed_at_most)
    subjects = {subject.name: number for number, subject in enumerate(results.suite.subjects)}
    bar = tqdm(table.iterrows(), total=len(table), desc="report", unit=" images", disable=not show_progress,
               dynamic_ncols=True)  # fmt: skip
    images = []
    for (method, seed_set, subject, prompt, sample), values in bar:
        path = paths.get(ImageId(method, int(seed_set), subject, int(prompt), int(sample)))
        if path is None:
            continue
        source = _embedded(path) if embed else quote(Path(os.path.relpath(path, out)).as_posix())
        numbers = [None if value != value else float(value) for value in values]
        place = (rows.index(method), subjects[subject], int(seed_set), prompts[subject, prompt], int(sample))
        images.append([source, *place, numbers])
    return {
        "embedded": embed,
        "absent": len(table) - len(images),
        "metrics": [[METRIC_TITLES[name], METRICS[name].higher_is_better] for name in metrics],
        "rows": [title(row) for row in rows],
        "subjects": [
            {
                "name": subject.name,
                "noun": subject.class_noun,
                "references": [_embedded(path) for path in reference_paths(out, results.suite, subject, photos)],
            }
            for subject in results.suite.subjects
        ],
        "prompts": texts,
        "images": images,
    }


def _first_seed_sets(results: Results, paths: Mapping[ImageId, Path]) -> list[tuple[str, int]]:
    """Every row that has images, with its first seed set."""
    seed_sets: dict[str, int] = {}
    for image_id in paths:
        seed_sets[image_id.method] = min(image_id.seed_set, seed_sets.get(image_id.method, image_id.seed_set))
    return [(row, seed_sets[row]) for row in results.rows if row in seed_sets]


def _first_grid(
    out: Path,
    results: Results,
    rows: list[tuple[str, int]],
    paths: Mapping[ImageId, Path],
    photos: Path | None,
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
        "lines": [(text, [path and _embedded(path) for path in line]) for text, line in lines] if rows else [],
    }


def _prompts(suite: Suite) -> tuple[dict[tuple[str, int], int], list[tuple[str, str]]]:
    """(subject, prompt index) -> number among the suite's different prompts, and their texts and kinds."""
    texts: dict[tuple[str, str], int] = {}
    numbers = {}
    for subject in suite.subjects:
        for prompt in suite.prompts(subject):
            text = prompt.text("…" if not prompt.published else subject.class_noun)
            numbers[subject.name, prompt.index] = texts.setdefault((text, prompt.kind), len(texts))
    return numbers, list(texts)


def _embedded(path: Path) -> str:
    image: Image.Image = read_image(path)
    if max(image.size) > TILE:
        image.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    return _data(encode(image, "WEBP", quality=QUALITY), "webp")


def _data(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()
