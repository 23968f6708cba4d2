"""report.html: the tables, and references beside generated pictures, in one file that needs nothing else."""

import base64
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image
from tqdm import tqdm

from dreambench.files import write_text
from dreambench.pictures import encode, read_picture
from dreambench.suites import SuiteSubject
from eval.grid import draw_grid, fit_tile, spread
from eval.layout import Job, Slot, find_jobs, picture_path, reference_paths
from eval.tables import Results, sections, title

REPORT_FILE = "report.html"
TEMPLATE = "report_template.html"


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What the report shows of the pictures.

    prompts: at most so many prompts a subject, spread over the suite's
    tile: side of a picture in pixels
    quality: of the WebP pictures, which are for looking at only; scores come from the PNGs
    """

    prompts: int = 5
    tile: int = 96
    quality: int = 80


def make_report(
    out: Path,
    results: Results,
    photos: Path | None = None,
    config: ReportConfig | None = None,
    show_progress: bool = True,
) -> Path:
    """Writes OUT/grid.png and OUT/report.html and returns the report's path.

    Raises InputError when a picture cannot be read.
    """
    config = config or ReportConfig()
    first_seed_set = {job.method: job.seed_set for job in reversed(find_jobs(out))}
    methods = [row for row in results.rows if row in first_seed_set]
    jobs = [Job(row, first_seed_set[row]) for row in methods]
    bar = tqdm(results.suite.subjects, desc="report", unit=" subjects", disable=not show_progress, dynamic_ncols=True)
    subjects = [_subject(out, results, subject, jobs, photos, config) for subject in bar]
    draw_grid(out, results.suite, [(job, title(job.method)) for job in jobs], photos)
    template = files("eval").joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(template).render(
        suite=results.suite,
        protocol=results.run.get("scoring", {}).get("protocol", "not stated"),
        commit=results.run.get("commit"),
        sections=sections(results),
        method_titles=[title(method) for method in methods],
        subjects=subjects,
        tile=config.tile,
    )
    write_text(page, out / REPORT_FILE)
    return out / REPORT_FILE


def _subject(
    out: Path, results: Results, subject: SuiteSubject, jobs: list[Job], photos: Path | None, config: ReportConfig
) -> dict[str, Any]:
    lines = []
    for prompt in spread(results.suite.prompts(subject), config.prompts):
        paths = [picture_path(out, job, Slot(subject, prompt, 0)) for job in jobs]
        lines.append({"text": prompt.text(subject.class_noun), "pictures": [_picture(path, config) for path in paths]})
    paths = reference_paths(out, results.suite, subject, photos)
    return {"name": subject.name, "references": [_picture(path, config) for path in paths], "lines": lines}


def _picture(path: Path, config: ReportConfig) -> str:
    tile: Image.Image = fit_tile(read_picture(path), config.tile)
    data = encode(tile, "WEBP", quality=config.quality)
    return "data:image/webp;base64," + base64.b64encode(data).decode()
