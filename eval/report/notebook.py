"""Results folders in notebooks: `load_results(folder)` shows its table and a grid of images."""

import base64
from html import escape
from pathlib import Path

import pandas as pd
from PIL import Image

from eval.report.gallery import first_seed_sets, image_paths
from eval.report.grid import draw_grid, jpeg
from eval.report.summary import Results, summarise, title, wide_table
from eval.report.tables import sections
from eval.results_dir import IMAGES
from eval.score.images import read_tree

CELL = "padding: .2em .7em; text-align: left; font-variant-numeric: tabular-nums;"


class ResultsFolder:
    """Finished scores of one folder, or of several of one suite and protocol; the last line of a cell shows them.

    results: everything that tables and plots are made from
    """

    def __init__(self, *folders: str | Path, photos: str | Path | None = None) -> None:
        self.folders = tuple(Path(folder) for folder in folders)
        self.photos = None if photos is None else Path(photos)
        self.results: Results = summarise(*self.folders)

    @property
    def table(self) -> pd.DataFrame:
        """One line a row of the table: each metric's mean, spread and 95% interval, then what it was made with."""
        return wide_table(self.results)

    def grid(self, subjects: int = 4, prompts: int = 1, tile: int = 96) -> Image.Image | None:
        """References and every method's images, as an RGB image; None where the images are not in the one folder."""
        (out, *others) = self.folders
        if others or not (out / IMAGES).is_dir():
            return None
        paths = image_paths(read_tree(out, self.results.suite, out.name))
        columns = {pair: title(pair[0]) for pair in first_seed_sets(self.results, paths)}
        how = {"subjects": subjects, "prompts": prompts, "tile": tile}
        return draw_grid(out, self.results.suite, columns, self.photos, paths=paths, save=False, **how)

    def _repr_html_(self) -> str:
        """The main table with its note, and the grid as JPEG, as HTML that needs no other file."""
        main = sections(self.results)[0]
        head = "".join(f'<th style="{CELL}">{escape(cell)}</th>' for cell in main.head)
        lines = "".join(
            "<tr>" + "".join(f'<td style="{CELL}">{escape(cell)}</td>' for cell in line) + "</tr>"
            for line in main.lines
        )
        heading = f"{self.results.suite.name}, protocol {self.results.protocol}"
        parts = [
            f"<b>{escape(heading)}</b>",
            f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>",
            f'<p style="max-width: 70em">{escape(main.note)}</p>',
        ]
        if (grid := self.grid()) is not None:
            source = "data:image/jpeg;base64," + base64.b64encode(jpeg(grid)).decode()
            parts.append(f'<img alt="images of {escape(heading)}" src="{source}">')
        return "\n".join(parts)

    def __repr__(self) -> str:
        names = ", ".join(map(str, self.folders))
        return f"ResultsFolder({names}: {len(self.results.rows)} rows, suite {self.results.suite.name})"


def load_results(*folders: str | Path, photos: str | Path | None = None) -> ResultsFolder:
    """The finished scores of a results folder, or of several together, to show in a notebook.

    photos: folder of the references of a suite of photos

    Raises InputError for a folder without scores, and for folders of different suites or protocols.
    """
    return ResultsFolder(*folders, photos=photos)
