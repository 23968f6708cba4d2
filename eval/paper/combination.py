"""Question 3 (Sec. 3.3, 4.2): the subject representation combined with ControlNet and with prompt-to-prompt, neither of
which was trained with it.

Both are measured in scenes of the mini world, whose right answers are known: what `bdkit bench control-mini` and
`bdkit bench edit-mini` make is in OUT/combination/, and a few scenes of each beside the CSV as combination-control.png
and combination-editing.png.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bdkit.utils.errors import InputError
from bdkit.utils.io import write_bytes
from dreambench.editing import N_SCENES, SPLITS, EditMiniConfig
from dreambench.registry import load_suite
from eval.paper.config import ReproduceConfig
from eval.paper.results_files import (
    estimate_of,
    lines_of,
    measured_metrics,
    provenance,
    provenance_note,
    with_provenance,
    write_csv,
)
from eval.report.plots import COLOURS, MARKERS, bars
from eval.report.summary import METRIC_TITLES
from eval.report.tables import format_figure, markdown_table
from eval.results_dir import read_run

SCENES = {"small": 8, "full": N_SCENES}  # of each of the two, by budget
CONTROL, EDITING = "control", "editing"
HEADINGS = {
    CONTROL: "ControlNet: the edges of one image, the subject of another",
    EDITING: "Prompt-to-prompt: another subject in an image",
}
METRICS = {
    CONTROL: ("edge_f1", "dino", "identity", "clip_t"),
    EDITING: ("psnr_outside", "identity", "dino", "mask_iou"),
}
TITLES = {
    **METRIC_TITLES,
    "edge_f1": "Edge F1",
    "psnr_outside": "PSNR outside the mask, dB",
    "mask_iou": "Mask IoU",
}
NOTES = {
    CONTROL: "Compared: the ratio of two rows, paired over scenes.",
    EDITING: "Compared: the difference of two rows, paired over scenes. `fixed` and `lavis`, the published behaviour, "
    "are presets of `bdkit edit`; the row prompt-to-prompt names the class alone.",
}
FIGURE, COMPARISON = "figure", "comparison"


def run(config: ReproduceConfig) -> Path:
    """Draws, edits and measures, resuming what was begun, and writes OUT/combination.csv and two grids of images."""
    from bdkit.checkpoints.load import checkpoint_hash
    from eval.generate.executors import one_thread
    from eval.mini.edit_scores import run_edit_mini
    from eval.mini.structure import DRAWN, run_control_mini

    suite, checkpoint = load_suite(config.suite or "mini"), checkpoint_hash(config.model)
    splits = {name: split for split, name in SPLITS.items()}
    if suite.name not in splits:
        raise InputError(
            f"combination has scenes of {' and '.join(splits)} alone, whose right answers are known, not of "
            f"{suite.name}; at full size use `bdkit generate --control` and `bdkit edit`"
        )
    scenes = EditMiniConfig(scenes=SCENES[config.budget], split=splits[suite.name])
    folder, frames = config.out / config.experiment, []
    for part, measure, compared, value in (
        (CONTROL, run_control_mini, "ratios.csv", "ratio"),
        (EDITING, run_edit_mini, "differences.csv", "difference"),
    ):
        with one_thread():
            out = measure(scenes, folder / part, config.model)
        made_with, tables = read_run(out), {"table.csv": "mean", compared: value}
        frame = pd.DataFrame([line for name in tables for line in _wide(part, pd.read_csv(out / name), tables[name])])
        samples = np.where(frame["row"].isin(DRAWN), made_with.get("samples", 1), 1)
        weights = "+".join(filter(None, (checkpoint, made_with.get("controlnet_weights"))))
        frame = frame.assign(n_images=frame["n_scenes"] * samples, checkpoint=weights)
        frames.append(with_provenance(frame, provenance(made_with, suite, "mini", (0,))))
    write_csv(pd.concat(frames, ignore_index=True), config.csv, {})
    for part in (CONTROL, EDITING):
        write_bytes((folder / part / "grid.png").read_bytes(), config.out / f"{config.experiment}-{part}.png")
    return config.csv


def _wide(part: str, table: pd.DataFrame, value: str) -> list[dict[str, Any]]:
    """A line for each row, or pair of rows, with all its metrics, of a table with a line for each metric."""
    table = table.rename(columns={"source": "scenes", "over": "minus"})
    keys = ["scenes", "row"] if value == "mean" else ["scenes", "row", "minus"]
    lines = []
    for names, metrics in table.groupby(keys, sort=False):
        line: dict[str, Any] = {
            "part": part,
            "kind": FIGURE if value == "mean" else COMPARISON,
            **dict(zip(keys, names, strict=True)),
        }
        for one in lines_of(metrics):
            metric = one["metric"]
            line |= {metric: one[value], f"{metric}_low": one["low"], f"{metric}_high": one["high"]}
        lines.append(line | {"n_scenes": metrics["n"].max()})
    return lines


def table(frame: pd.DataFrame) -> str:
    """The tables as Markdown, from the CSV alone."""
    parts = ["# Combined with ControlNet and with prompt-to-prompt, without training"]
    for part, lines in frame.groupby("part", sort=False):
        metrics = measured_metrics(lines, METRICS[str(part)])
        titles = [TITLES[metric] for metric in metrics]
        figures, compared = (lines_of(lines[lines["kind"] == kind]) for kind in (FIGURE, COMPARISON))
        parts += [
            f"## {HEADINGS[str(part)]}",
            markdown_table(
                ["Scenes", "Row", *titles], [[line["scenes"], line["row"], *_cells(line, metrics)] for line in figures]
            ),
            markdown_table(
                ["Scenes", "Row", "Compared with", *titles],
                [
                    [line["scenes"], line["row"], line["minus"], *_cells(line, metrics, signed=part == EDITING)]
                    for line in compared
                ],
            ),
            f"{lines['n_scenes'].max():.0f} scenes. {NOTES[str(part)]}",
        ]
    note = "In brackets 95% bootstrap intervals over scenes."
    return "\n\n".join([*parts, f"{provenance_note(frame)} {note}"]) + "\n"


def _cells(line: Mapping[str, Any], metrics: Sequence[str], signed: bool = False) -> list[str]:
    return [format_figure(estimate_of(line, metric), signed=signed) for metric in metrics]


def plot(frame: pd.DataFrame) -> Figure:
    """What is kept of the other image against how much of the subject is there, with intervals over scenes."""
    figure = Figure(figsize=(12.0, 4.2), layout="constrained")
    panels = figure.subplots(1, 3)
    shown = (
        (CONTROL, "all", "edge_f1", "dino"),
        (EDITING, "real", "psnr_outside", "identity"),
        (EDITING, "generated", "psnr_outside", "identity"),
    )
    for axes, (part, scenes, kept, subject) in zip(panels, shown, strict=True):
        lines = frame[(frame["part"] == part) & (frame["scenes"] == scenes) & (frame["kind"] == FIGURE)]
        _draw_points(axes, lines_of(lines), kept, subject)
        title = "ControlNet" if part == CONTROL else f"edits of {scenes} images"
        axes.set(xlabel=TITLES[kept], ylabel=f"{TITLES[subject]} of the subject", title=title)
        axes.legend(fontsize=7)
    return figure


def _draw_points(axes: Axes, lines: Sequence[Mapping[str, Any]], kept: str, subject: str) -> None:
    for number, line in enumerate(lines):
        across, up = estimate_of(line, kept), estimate_of(line, subject)
        if across is None or up is None:
            raise ValueError(f"{line['row']} has no {kept} or no {subject}")
        axes.errorbar(
            across.mean, up.mean, xerr=bars([across]), yerr=bars([up]), label=line["row"],
            color=COLOURS[number % len(COLOURS)], marker=MARKERS[number], linestyle="none",
        )  # fmt: skip
