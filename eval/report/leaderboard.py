"""leaderboard.html: the rows of several results folders, one table for each suite and protocol. No two are mixed."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from bdkit.utils.errors import InputError
from bdkit.utils.io import write_text
from eval.report.html import REPORT_FILE, interval_bars, plot_texts, render
from eval.report.pack import pack
from eval.report.plots import draw_plots
from eval.report.summary import Results, folder_key, row_seconds, summarise, title
from eval.report.tables import NOT_MEASURED, Section, sections

LEADERBOARD_FILE = "leaderboard.html"
SHOWN = ("tradeoff", "pareto")


def make_leaderboard(outs: Sequence[Path], path: Path) -> Path:
    """Writes the page and returns its path.

    outs: results folders with scores, of any suites and protocols; those of one suite and protocol share a table
    path: the file to write; it links each folder's report.html, where there is one

    Raises InputError for a folder that is given twice, and where `summarise` does.
    """
    if len({out.resolve() for out in outs}) < len(outs):
        raise InputError("a folder is given twice; give each folder once")
    groups: dict[tuple[str, str, str], list[Path]] = {}
    for out in outs:
        groups.setdefault(folder_key(out), []).append(out)
    boards: list[dict[str, Any]] = []
    texts: dict[str, str] = {}
    for number, ((suite, suite_hash, protocol), folders) in enumerate(sorted(groups.items())):
        results = summarise(*folders)
        main = _with_seconds(replace(sections(results)[0], heading=f"{suite}, protocol {protocol}"), results)
        plots = [plot for plot in draw_plots(results) if plot.name in SHOWN]
        texts |= {f"{number}-{name}": text for name, text in plot_texts(plots).items()}
        boards.append(
            {
                "heading": f"{suite}, protocol {protocol}",
                "hash": suite_hash,
                "main": main,
                "bars": interval_bars(results, main),
                "plots": [
                    {"name": f"{number}-{plot.name}", "heading": plot.heading, "note": plot.note} for plot in plots
                ],
                "folders": [_folder(out, path) for out in folders],
            }
        )
    write_text(render("leaderboard.html", boards=boards, pack=Markup(pack({"plots": texts}, []))), path)
    return path


def _with_seconds(section: Section, results: Results) -> Section:
    """The table with a column of seconds, where any row has them."""
    seconds = {title(row): row_seconds(results, row) for row in results.rows}
    if set(seconds.values()) == {None}:
        return section
    cells = [NOT_MEASURED if (value := seconds.get(line[0])) is None else f"{value:.3g}" for line in section.lines]
    lines = [[*line, cell] for line, cell in zip(section.lines, cells, strict=True)]
    note = section.note + " Seconds: from a subject's references to the images of one prompt."
    return replace(section, head=[*section.head, "Seconds"], lines=lines, note=note)


def _folder(out: Path, page: Path) -> dict[str, Any]:
    report = out / REPORT_FILE
    link = quote(Path(os.path.relpath(report.resolve(), page.resolve().parent)).as_posix())
    return {"name": out.resolve().name, "link": link if report.is_file() else None}
