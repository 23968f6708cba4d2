"""An experiment's three files: NAME.csv, which holds everything, and NAME.md and NAME.png, made from it alone."""

import importlib
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from bdkit.utils.errors import InputError
from bdkit.utils.io import write_bytes, write_text
from dreambench.suites import Suite
from eval.paper.config import EXPERIMENTS
from eval.report.plots import DPI, SETTINGS
from eval.report.statistics import Estimate
from eval.report.summary import Results, title
from eval.results_dir import REAL

# Columns of every CSV, the last ones, and what they are called in run.json
PROVENANCE = ("commit", "checkpoint", "suite", "suite_hash", "protocol", "seed_sets", "n_images", "device")
# Columns that may look like numbers, and are not to be rounded
TEXTS = ("commit", "checkpoint", "suite_hash", "seed_sets", "learning_rate")

# Rows that are named here by the weights that they start from; the other names are those of every table
TITLES = {
    REAL: "Real images (oracle)",
    "dreambooth-100": "DreamBooth from stage 2, 100 steps",
    "dreambooth-300": "DreamBooth from stage 2, 300 steps",
    "dreambooth": "DreamBooth from stage 2",
    "dreambooth-prior": "DreamBooth from stage 2 with prior preservation",
}


def row_title(row: str) -> str:
    """A row's name, or that of a method of the step budgets, as people read it."""
    return TITLES.get(row, title(row))


def provenance_of(results: Results) -> dict[str, Any]:
    """What a whole run was made with; a frame's own columns of these names, a row's own values, go before it."""
    return provenance(results.run, results.suite, results.protocol, results.run.get("seed_sets", ()))


def provenance(run: Mapping[str, Any], suite: Suite, protocol: str, seed_sets: Sequence[int]) -> dict[str, Any]:
    """The same of a folder's run.json, which says who made its images."""
    return {
        "commit": run.get("commit"),
        "suite": suite.name,
        "suite_hash": suite.hash,
        "protocol": protocol,
        "seed_sets": " ".join(map(str, seed_sets)),
        "device": run.get("device"),
    }


def with_provenance(frame: pd.DataFrame, provenance: Mapping[str, Any]) -> pd.DataFrame:
    """The frame with those columns of its provenance that it has not itself."""
    return frame.assign(**{name: value for name, value in provenance.items() if name not in frame})


def write_csv(frame: pd.DataFrame, path: Path, provenance: Mapping[str, Any]) -> None:
    """Writes a frame with its experiment (the file's name) first and its provenance last; the same values give the
    same bytes. Raises InputError for a frame that does not say what it was made with.
    """
    whole = with_provenance(frame, provenance)
    if missing := [name for name in PROVENANCE if name not in whole]:
        raise InputError(f"{path.name} does not say its {', '.join(missing)}")
    whole = whole[[name for name in whole if name not in PROVENANCE] + list(PROVENANCE)]
    whole.insert(0, "experiment", path.stem)
    write_text(whole.to_csv(index=False, float_format="%.6f", lineterminator="\n"), path)


def read_csv(path: Path, experiment: str | None = None) -> pd.DataFrame:
    """What `write_csv` wrote; text columns that are empty throughout are NaN like others.

    Raises InputError for a missing or foreign file, and for one of another experiment than the given one.
    """
    try:
        frame = pd.read_csv(path, dtype=dict.fromkeys(TEXTS, str))
        found = frame["experiment"].iloc[0]
    except FileNotFoundError as error:
        advice = f"run `bdkit reproduce {path.stem}` first" if path.stem in EXPERIMENTS else "check the path"
        raise InputError(f"{path} is missing; {advice}") from error
    except IndexError as error:
        raise InputError(f"{path} has no lines; run `bdkit reproduce` of it again") from error
    except KeyError as error:
        raise InputError(f"{path} is no result of `bdkit reproduce` (it has no column {error})") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no result of `bdkit reproduce` ({error})") from error
    if found not in EXPERIMENTS:
        raise InputError(f"{path} is of an experiment that this bdkit does not know; known: {', '.join(EXPERIMENTS)}")
    if experiment is not None and found != experiment:
        raise InputError(f"{path} is the result of {found}, not of {experiment}; give it another name")
    if frame.duplicated().any():
        raise InputError(f"{path} holds a line twice; run `bdkit reproduce {found}` again")
    return frame


def experiments_in(folder: Path) -> list[str]:
    """The experiments whose CSV a folder holds."""
    return [name for name in EXPERIMENTS if (folder / f"{name}.csv").exists()]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what a damaged CSV does to the code that shows it into an InputError."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise InputError(
            f"{path} is damaged, or of another version of bdkit ({type(error).__name__}: {error}); "
            "run `bdkit reproduce` of it again"
        ) from error


def show(path: Path) -> str:
    """Writes the table (.md) and the plot (.png) beside an experiment's CSV, from the CSV alone; returns the table."""
    return write_drawn(path, *read_and_draw(path))


def write_drawn(path: Path, text: str, png: bytes) -> str:
    """Writes beside a CSV what `read_and_draw` made of it; returns the table."""
    write_text(text, path.with_suffix(".md"))
    write_bytes(png, path.with_suffix(".png"))
    return text


def read_and_draw(path: Path) -> tuple[str, bytes]:
    """What `show` writes. Raises InputError for a CSV under the name of another experiment, or a damaged one."""
    frame = read_csv(path, path.stem if path.stem in EXPERIMENTS else None)
    with reading(path):
        return draw(frame)


def draw(frame: pd.DataFrame, dpi: int = DPI) -> tuple[str, bytes]:
    """The table as Markdown and the plot as PNG of what `read_csv` returned; 256 colours make it a third as large."""
    module = importlib.import_module(EXPERIMENTS[frame["experiment"].iloc[0]])
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **SETTINGS}):
        figure: Figure = module.plot(frame)
        canvas, png = io.BytesIO(), io.BytesIO()
        figure.savefig(canvas, format="png", dpi=dpi)
    Image.open(canvas).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(png, "PNG", optimize=True)
    return module.table(frame), png.getvalue()


def pairs_of(differences: pd.DataFrame) -> dict[tuple[str, str, str], dict[str, Any]]:
    """(method, minus, metric) -> the paired difference, of what `eval.report.statistics.differences` returns."""
    return {(line["method"], line["minus"], line["metric"]): line for line in lines_of(differences)}


def lines_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A frame's lines, each by its columns' names."""
    lines: list[dict[str, Any]] = frame.to_dict("records")  # type: ignore[assignment]
    return lines


def estimate_of(line: Mapping[str, Any], metric: str) -> Estimate | None:
    """A figure of one line of a CSV, as the tables and plots take it; None where the line has none."""
    values = {part: line.get(f"{metric}{part}") for part in ("", "_spread", "_low", "_high")}
    given = {part: None if value is None or pd.isna(value) else float(value) for part, value in values.items()}
    if (mean := given[""]) is None:
        return None
    return Estimate(
        mean=mean, spread=given["_spread"], low=given["_low"], high=given["_high"], n_subjects=0, n_seed_sets=0,
        n_images=0,
    )  # fmt: skip


def measured_metrics(frame: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Those of the metrics that a frame has figures of."""
    return [metric for metric in metrics if metric in frame and frame[metric].notna().any()]


def provenance_note(frame: pd.DataFrame) -> str:
    """One line below a table: what its figures were made with. Raises ValueError for the lines of several runs."""
    measured = frame[frame["device"].notna()]
    if mixed := [name for name in ("suite_hash", "protocol", "seed_sets") if measured[name].nunique() > 1]:
        raise ValueError(f"its lines differ in {', '.join(mixed)}")
    line = measured.iloc[0]
    commits = dict.fromkeys(commit[:12] for cell in measured["commit"] for commit in str(cell).split())
    devices = dict.fromkeys(measured["device"])
    return (
        f"Suite {line['suite']} ({line['suite_hash']}), protocol {line['protocol']}, seed sets {line['seed_sets']}, "
        f"{', '.join(devices)}, commit {', '.join(commits)}."
    )
