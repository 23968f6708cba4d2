"""report.html: images, plots, tables and every scored image beside its reference, in one file that needs no network.

Up to EMBED_AT_MOST generated images are embedded, small, and the file can be sent on alone. More than that stay where
they are and are linked by relative path, so the file must stay in its results folder. The first grid, tables, plots and
references are embedded always.
"""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bdkit.utils.io import write_text
from eval.report.gallery import Thumbnails, first_grid, first_seed_sets, gallery, image_paths
from eval.report.grid import draw_grid
from eval.report.pack import pack
from eval.report.plots import Plot, make_plots
from eval.report.statistics import splits_of
from eval.report.summary import Results, title
from eval.report.tables import Section, sections, split_sections
from eval.results_dir import GROUND_TRUTH, IMAGES
from eval.score.images import ImageTree, read_tree
from eval.score.metrics import METRICS
from eval.score.scores_file import ORACLE_ROWS

REPORT_FILE = "report.html"


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
    rows = first_seed_sets(results, paths)
    if in_folder:
        columns = {pair: title(pair[0]) for pair in rows}
        draw_grid(out, results.suite, columns, photos, paths=paths)
    plots = make_plots(results, out, published=published)
    thumbnails = Thumbnails()
    grid = first_grid(out, results, rows, paths, photos, thumbnails)
    values = gallery(out, results, paths, photos, thumbnails, embed_at_most, show_progress)
    main, *others = sections(results, published=published)
    splits = [split for split in splits_of(results.suite) if split != "category"]
    page = render(
        "report.html",
        suite=results.suite,
        protocol=results.protocol,
        commit=results.run.get("commit"),
        grid=grid,
        published=published,
        main_plots=plots[:1],
        plots=plots[1:],
        timed=any(plot.name == "pareto" for plot in plots),
        main=main,
        bars=interval_bars(results, main),
        sections=[*others, *(section for split in splits for section in split_sections(results, split))],
        embedded=values["embedded"],
        absent=values["absent"],
        pack=Markup(pack({**values, "plots": plot_texts(plots)}, thumbnails.contents)),
    )
    write_text(page, out / REPORT_FILE)
    return out / REPORT_FILE


def render(name: str, **values: Any) -> str:
    """A page of eval/report/page with its style and script inside."""
    environment = Environment(
        loader=PackageLoader("eval.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = files("eval.report") / "page"
    for part in ("style.css", "common.js", "report.js"):
        values[part.replace(".", "_")] = Markup((page / part).read_text(encoding="utf-8"))
    return environment.get_template(name).render(**values)


def plot_texts(plots: Sequence[Plot]) -> dict[str, str]:
    """Name -> SVG without its white ground, so that a dark page can turn it dark."""
    return {plot.name: plot.svg.decode().replace("fill: #ffffff", "fill: none") for plot in plots}


def interval_bars(results: Results, section: Section) -> dict[tuple[int, int], dict[str, Any]]:
    """(line, column) of the first table -> where its figure lies between the column's least and greatest, in percent:
    `mean`, `low` and `high`, and whether it is the `best` of the methods (the real images are none).
    """
    by_title = {METRICS[name].title: name for name in results.metrics if name in METRICS}
    rows = {title(row): row for row in results.rows}
    bars: dict[tuple[int, int], dict[str, Any]] = {}
    for column, head in enumerate(section.head):
        figures = {
            number: (row, results.estimates[row, by_title[head]])
            for number, line in enumerate(section.lines)
            if head in by_title
            and (row := rows.get(line[0])) is not None
            and (row, by_title[head]) in results.estimates
        }
        if not figures:
            continue
        ends = [
            end for _, figure in figures.values() for end in (figure.mean, figure.low, figure.high) if end is not None
        ]
        least, width = min(ends), max(max(ends) - min(ends), 1e-9)
        sign = 1 if METRICS[by_title[head]].higher_is_better else -1
        methods = [figure.mean * sign for row, figure in figures.values() if _is_method(row)]
        for number, (row, figure) in figures.items():
            mean, low, high = (
                round(100 * ((figure.mean if end is None else end) - least) / width, 1)
                for end in (figure.mean, figure.low, figure.high)
            )
            best = _is_method(row) and len(methods) > 1 and figure.mean * sign == max(methods)
            bars[number, column] = {"mean": mean, "low": low, "high": high, "best": best}
    return bars


def _is_method(row: str) -> bool:
    """Whether a row is a method's; a folder's name may stand before it."""
    return row.rpartition("/")[2] not in (*ORACLE_ROWS, GROUND_TRUTH)
