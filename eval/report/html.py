"""report.html: tables, plots and every scored image beside its reference, in one file that needs no network.

Up to `ReportConfig.embed_at_most` generated images are embedded, small, and the file can be sent on alone. More than
that stay where they are and are linked by relative path, so the file must stay in its results folder. Tables, plots and
references are embedded always.
"""

import base64
import os
from dataclasses import dataclass
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
from eval.report.grid import draw_grid
from eval.report.plots import make_plots
from eval.report.sections import sections
from eval.report.statistics import SPLITS
from eval.report.summary import METRIC_TITLES, Results, title
from eval.results_dir import IMAGES, Job, find_jobs, reference_paths
from eval.score.check import Key, key_of
from eval.score.images import Found, read_tree
from eval.score.metrics import METRICS
from eval.score.score import NO_PROMPT

REPORT_FILE = "report.html"
TEMPLATE = "template.html"
SPLITS_SHOWN = tuple(split for split in SPLITS if split != "category")


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What the report shows of the images.

    embed_at_most: so many generated images are embedded; where there are more, all are linked
    tile: longest side of an embedded image in pixels; smaller ones keep their size
    published: all published results beside ours, in place of the paper's table
    quality: of the embedded WebP images, which are for looking at only; scores come from the PNGs
    """

    embed_at_most: int = 1500
    tile: int = 128
    quality: int = 75
    published: bool = False


def make_report(
    out: Path,
    results: Results,
    photos: Path | None = None,
    config: ReportConfig | None = None,
    found: Found | None = None,
    show_progress: bool = True,
) -> Path:
    """Writes OUT/plots, OUT/report.html and, for images in OUT, OUT/grid.png, and returns the report's path.

    found: where the images are; None: in OUT/pictures. Those that are there no longer are left out, and counted.

    Raises InputError when an image cannot be read.
    """
    config = config or ReportConfig()
    if found is None and (out / IMAGES).is_dir():
        _draw_contact_sheet(out, results, photos)
        found = read_tree(out, results.suite, out.name)
    plots = make_plots(results, out, published=config.published)
    splits = [split for split in SPLITS_SHOWN if split in set(results.splits["split"])]
    shown = sections(results, published=config.published)
    for split in splits:
        known = {section.heading for section in shown}
        shown += [section for section in sections(results, split=split) if section.heading not in known]
    template = files("eval.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(template).render(
        suite=results.suite,
        protocol=results.protocol,
        commit=results.run.get("commit"),
        sections=shown,
        plots=[
            {"heading": plot.heading, "note": plot.note, "source": _data(plot.svg, "svg+xml"), "name": plot.name}
            for plot in plots
        ],
        data=gallery(out, results, found, photos, config, show_progress),
    )
    write_text(page, out / REPORT_FILE)
    return out / REPORT_FILE


def gallery(
    out: Path,
    results: Results,
    found: Found | None,
    photos: Path | None,
    config: ReportConfig,
    show_progress: bool = False,
) -> dict[str, Any]:
    """What the report's script shows, as JSON values: metrics, rows, subjects with references, prompts, how many scored
    images are absent, and a line for each that is there: [source, row, subject, seed set, prompt, sample, values].

    row, subject and prompt are places in the lists; values go by the list of metrics, None where there is none.
    """
    made = results.scores[results.scores["prompt"] != NO_PROMPT]
    metrics = [metric for metric in METRIC_TITLES if metric in set(made["metric"])]
    keys = ["method", "seed_set", "subject", "prompt", "sample"]
    table = made.pivot_table(index=keys, columns="metric", values="value", sort=True)[metrics].round(4)
    rows = [row for row in results.rows if row in set(made["method"])]
    prompts = _prompts(results.suite)
    paths = {} if found is None else {key_of(picture): picture.path for picture in found.pictures}
    embed = len(table) <= config.embed_at_most
    subjects = {subject.name: number for number, subject in enumerate(results.suite.subjects)}
    bar = tqdm(table.iterrows(), total=len(table), desc="report", unit=" images", disable=not show_progress,
               dynamic_ncols=True)  # fmt: skip
    pictures = []
    for key, values in bar:
        method, seed_set, name, index, sample = key
        place: Key = (method, int(seed_set), name, int(index), int(sample))
        path = paths.get(place)
        if path is None or not path.is_file():
            continue
        source = _embedded(path, config) if embed else quote(Path(os.path.relpath(path, out)).as_posix())
        numbers = [None if value != value else float(value) for value in values]
        prompt = prompts[name, index][0]
        pictures.append([source, rows.index(method), subjects[name], int(seed_set), prompt, int(sample), numbers])
    return {
        "embedded": embed,
        "absent": len(table) - len(pictures),
        "metrics": [[METRIC_TITLES[name], METRICS[name].higher_is_better] for name in metrics],
        "rows": [title(row) for row in rows],
        "subjects": [
            {
                "name": subject.name,
                "noun": subject.class_noun,
                "references": [
                    _embedded(path, config) for path in reference_paths(out, results.suite, subject, photos)
                ],
            }
            for subject in results.suite.subjects
        ],
        "prompts": [[text, kind] for _, (_, text, kind) in _by_place(prompts)],
        "images": pictures,
    }


def _prompts(suite: Suite) -> dict[tuple[str, int], tuple[int, str, str]]:
    """(subject, index) -> place among the suite's different prompts, its template's words, its kind."""
    places: dict[tuple[str, str], int] = {}
    found: dict[tuple[str, int], tuple[int, str, str]] = {}
    for subject in suite.subjects:
        for prompt in suite.prompts(subject):
            text = prompt.text("…" if not prompt.published else subject.class_noun)
            place = places.setdefault((text, prompt.kind), len(places))
            found[subject.name, prompt.index] = (place, text, prompt.kind)
    return found


def _by_place(prompts: dict[tuple[str, int], tuple[int, str, str]]) -> list[tuple[int, tuple[int, str, str]]]:
    return sorted({value[0]: value for value in prompts.values()}.items())


def _draw_contact_sheet(out: Path, results: Results, photos: Path | None) -> None:
    first_seed_set = {job.method: job.seed_set for job in reversed(find_jobs(out))}
    jobs = [Job(row, first_seed_set[row]) for row in results.rows if row in first_seed_set]
    draw_grid(out, results.suite, [(job, title(job.method)) for job in jobs], photos)


def _embedded(path: Path, config: ReportConfig) -> str:
    image: Image.Image = read_image(path)
    if max(image.size) > config.tile:
        image.thumbnail((config.tile, config.tile), Image.Resampling.LANCZOS)
    return _data(encode(image, "WEBP", quality=config.quality), "webp")


def _data(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()
