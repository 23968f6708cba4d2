"""edit-mini, the figures: what was kept outside the edit, and whether the subject inside is the right one.

Outside is what neither the source's subject nor the new one covers: by the mini world's own masks for real sources
(of the source and of the right answer), by the shipped segmenter for generated ones (of the source and of the row's
image). Inside, everything else of the image is replaced by the source before DINO and identity look at it. Intervals
resample scenes.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from bdkit.checkpoints.load import checkpoint_hash
from bdkit.editing.edit_presets import settings_of
from bdkit.utils.errors import InputError
from bdkit.utils.images import read_image, write_png
from bdkit.utils.io import write_text
from dreambench.editing import EDIT_MINI, EditMiniConfig, edit_scenes
from eval.mini.editing import (
    ANSWER,
    BATCH,
    EDITED,
    KINDS,
    ROWS,
    Case,
    image_path,
    make_case,
    make_images,
    mask_path,
)
from eval.mini.segmenter import iou, load_segmenter, segment
from eval.report.grid import image_grid
from eval.report.statistics import interval
from eval.results_dir import claimed, update_run
from eval.score.edit_metrics import Edit, PerceptualDistance, lpips_outside, ssim_outside
from eval.score.masks import load_lpips
from eval.score.weights import load_encoder

METRICS = ("psnr_outside", "ssim_outside", "lpips_outside", "identity", "dino", "identity_whole", "mask_iou")
MOST_PSNR = 60.0  # of an untouched background, whose error is 0
COMPARED = (("fixed", "lavis"), ("fixed", "from-scratch"), ("fixed", "prompt-to-prompt"), ("fixed", "paste"))
GRID_SCENES, GRID_TILE = 5, 64


def run_edit_mini(
    config: EditMiniConfig,
    out: Path,
    model: str = "mini",
    rows: Sequence[str] | None = None,
    *,
    show_progress: bool = True,
) -> Path:
    """Makes and measures edit-mini, and returns the folder: images/, masks/, scores.csv, table.csv, table.md,
    differences.csv, grid.png and run.json. Images that exist are kept.
    """
    chosen = tuple(dict.fromkeys(rows or ROWS))
    if unknown := [row for row in chosen if row not in ROWS]:
        raise InputError(f"unknown row {unknown[0]!r} of edit-mini; known are {', '.join(ROWS)}")
    settings = {
        "suite": EDIT_MINI,
        "model": model,
        "checkpoint": checkpoint_hash(model),
        "split": config.split,
        "batch": BATCH,
        "presets": {name: settings_of(preset) for name, preset in EDITED.items()},
    }
    with claimed(out, settings):
        cases = [make_case(scene, config.split) for scene in edit_scenes(config.split, config.scenes)]
        make_images(out, cases, chosen, model, show_progress=show_progress)
        scores = measure(out, cases, chosen)
        scores.to_csv(out / "scores.csv", index=False, float_format="%.5g")
        table = summarise(scores)
        table.to_csv(out / "table.csv", index=False, float_format="%.4f")
        differences(scores).to_csv(out / "differences.csv", index=False, float_format="%.4f")
        write_text(markdown(table), out / "table.md")
        write_png(draw_grid(out, cases, chosen), out / "grid.png")
        update_run(out, scenes=config.scenes, rows=chosen)
    return out


def measure(out: Path, cases: Sequence[Case], rows: Sequence[str]) -> pd.DataFrame:
    """Columns row, source, scene, same_class and METRICS; NaN where a metric does not apply."""
    identity, dino, segmenter = load_encoder("identity", "mini"), load_encoder("dino", "mini"), load_segmenter()
    try:
        perceptual: PerceptualDistance | None = load_lpips()
    except InputError:  # its weights are not here
        perceptual = None
    references = [(identity.embed_images(case.references), dino.embed_images(case.references)) for case in cases]
    lines = []
    for kind in KINDS:
        sources = [read_image(image_path(out, "source", kind, case.scene)) for case in cases]
        for row in rows:
            if row == ANSWER and kind != "real":
                continue
            images = [read_image(image_path(out, row, kind, case.scene)) for case in cases]
            if kind == "real":
                truths = np.stack([(case.source.alpha > 127) | (case.answer.alpha > 127) for case in cases])
            else:
                truths = segment(segmenter, sources) | segment(segmenter, images)
            inside = [keep_inside(*three) for three in zip(images, sources, truths, strict=True)]
            seen = identity.embed_images(inside), dino.embed_images(inside), identity.embed_images(images)
            pairs = zip(images, sources, truths, strict=True)
            edits = [Edit(image=np.asarray(a), source=np.asarray(b), mask=t.astype(float)) for a, b, t in pairs]
            ssim = ssim_outside(edits)
            lpips = np.full(len(cases), np.nan) if perceptual is None else lpips_outside(edits, perceptual)
            for k, case in enumerate(cases):
                lines.append(
                    {
                        "row": row,
                        "source": kind,
                        "scene": case.scene.name,
                        "same_class": case.scene.same_class,
                        "psnr_outside": psnr_outside(edits[k]),
                        "ssim_outside": ssim[k],
                        "lpips_outside": lpips[k],
                        "identity": float((references[k][0] @ seen[0][k]).mean()),
                        "dino": float((references[k][1] @ seen[1][k]).mean()),
                        "identity_whole": float((references[k][0] @ seen[2][k]).mean()),
                        "mask_iou": _mask_iou(mask_path(out, row, kind, case.scene), truths[k]),
                    }
                )
    return pd.DataFrame(lines)


def keep_inside(image: Image.Image, source: Image.Image, mask: np.ndarray) -> Image.Image:
    """The image within the mask, the source outside."""
    return Image.fromarray(np.where(mask[..., None], np.asarray(image), np.asarray(source)))


def psnr_outside(edit: Edit) -> float:
    """PSNR in dB over the pixels outside the mask, at most `MOST_PSNR`; NaN where the mask covers everything."""
    outside = edit.mask < 0.5
    if not outside.any():
        return float("nan")
    error = np.square(edit.image.astype(float) - edit.source.astype(float))[outside].mean()
    return min(MOST_PSNR, float(10 * np.log10(255**2 / error))) if error > 0 else MOST_PSNR


def summarise(scores: pd.DataFrame) -> pd.DataFrame:
    """Columns row, source, metric, mean, low, high, n: over all scenes."""
    lines = []
    for (row, kind), part in scores.groupby(["row", "source"], sort=False):
        for metric in METRICS:
            values = part[metric].dropna().to_numpy()
            if len(values):
                lines.append((row, kind, metric, values.mean(), *interval(values), len(values)))
    return pd.DataFrame(lines, columns=["row", "source", "metric", "mean", "low", "high", "n"])


def differences(scores: pd.DataFrame) -> pd.DataFrame:
    """Paired over scenes, for the pairs in `COMPARED`: columns row, minus, source, metric, difference, low, high, n."""
    lines = []
    for kind, part in scores.groupby("source", sort=False):
        wide = {row: rows.set_index("scene") for row, rows in part.groupby("row")}
        for row, minus in COMPARED:
            if row not in wide or minus not in wide:
                continue
            for metric in METRICS:
                delta = (wide[row][metric] - wide[minus][metric]).dropna().to_numpy()
                if len(delta):
                    lines.append((row, minus, kind, metric, delta.mean(), *interval(delta), len(delta)))
    return pd.DataFrame(lines, columns=["row", "minus", "source", "metric", "difference", "low", "high", "n"])


def markdown(table: pd.DataFrame) -> str:
    """The table for people: a line a row and kind of source, mean [95% interval]."""
    metrics = [metric for metric in METRICS if (table["metric"] == metric).any()]
    lines = [f"| source | row | {' | '.join(metrics)} |", "|" + " --- |" * (len(metrics) + 2)]
    for (kind, row), part in table.groupby(["source", "row"], sort=False):
        cells = []
        for metric in metrics:
            found = part[part["metric"] == metric]
            digits = 1 if metric.startswith("psnr") else 3
            cells.append("" if found.empty else _figure(found.iloc[0], digits))
        lines.append(f"| {kind} | {row} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _figure(line: pd.Series, digits: int) -> str:
    if pd.isna(line["low"]):
        return f"{line['mean']:.{digits}f}"
    return f"{line['mean']:.{digits}f} [{line['low']:.{digits}f}, {line['high']:.{digits}f}]"


def draw_grid(out: Path, cases: Sequence[Case], rows: Sequence[str]) -> Image.Image:
    """A few scenes, spread evenly and of the same class and of two in turn, real and generated sources one below the
    other, and what each row makes of them; 256 colours.
    """
    count = min(GRID_SCENES, len(cases))
    chosen = [cases[min(k * len(cases) // count // 2 * 2 + k % 2, len(cases) - 1)] for k in range(count)]
    shown = [row for row in rows if row not in ("no-edit", ANSWER)]
    lines, titles = [], ["reference", "source", "mask", *shown, ANSWER]
    blank = Image.new("RGB", (64, 64), "white")
    for case in chosen:
        for kind in KINDS:
            mask = mask_path(out, "fixed", kind, case.scene)
            images = [read_image(image_path(out, row, kind, case.scene)) for row in shown]
            answer = Image.fromarray(case.answer.image) if kind == "real" else blank
            source = read_image(image_path(out, "source", kind, case.scene))
            lines.append([case.references[0], source, read_image(mask) if mask.exists() else blank, *images, answer])
    grid = image_grid(lines, [title.replace("-", " ") for title in titles], tile=GRID_TILE)
    return grid.quantize(256, dither=Image.Dither.NONE)


def _mask_iou(path: Path, truth: np.ndarray) -> float:
    if not path.exists():
        return float("nan")
    return iou(np.asarray(read_image(path).convert("L")) > 127, truth)
