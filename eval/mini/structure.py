"""control-mini: the edges of one image, the subject of another, with and without the ControlNet and the subject.

A scene is one of edit-mini's: somebody in a place, and the held-out subject that shall be there instead, of the same
class (structure control) or of another (style transfer). The ControlNet is given the edges of the scene, the prompt
names the subject's class and the place. Intervals resample scenes; what is compared is paired over them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from bdkit.checkpoints.load import load_model
from bdkit.editing.structure_control import StructureControl, default_controlnet, load_controlnet
from bdkit.editing.structures import structure_map
from bdkit.methods.base import weights_hash
from bdkit.models.blip_diffusion import BlipDiffusion, require_blip_diffusion
from bdkit.models.latent_diffusion import encode_images
from bdkit.models.preprocessing import pixels_from_arrays
from bdkit.utils.images import read_image, write_png
from bdkit.utils.io import write_text
from bdkit.utils.progress import progress_bar
from bdkit.utils.seeds import derive_seed
from dreambench.editing import CONTROL_MINI, EditMiniConfig, EditScene, edit_scenes
from eval.mini.editing import Case, make_case
from eval.report.grid import image_grid
from eval.report.statistics import interval, ratio_interval
from eval.results_dir import claimed, record_maker, update_run
from eval.score.edit_metrics import edge_f1, strong_edges
from eval.score.weights import load_clip, load_encoder

CONTROLLED, ZERO_SHOT = "subject + edges", "subject"
TEXT_CONTROLLED, TEXT = "text + edges", "text"
DRAWN = (CONTROLLED, ZERO_SHOT, TEXT_CONTROLLED, TEXT)
RECONSTRUCTION = "source, reconstructed"  # by the autoencoder: the F1 that the model can reach at most
ANSWER = "right answer"  # the scene as the mini world draws it with the subject
ROWS = (*DRAWN, RECONSTRUCTION, ANSWER)
COMPARED = ((CONTROLLED, ZERO_SHOT), (TEXT_CONTROLLED, TEXT), (CONTROLLED, TEXT_CONTROLLED))
METRICS = ("edge_f1", "dino", "identity", "clip_t")
GROUPS = ("same class", "other class", "all")
SAMPLES = 2  # images a scene
BATCH = 4  # images together; fixed, so that a resumed run makes the same bytes
GRID_SCENES, GRID_TILE = 5, 64


def image_path(out: Path, row: str, scene: EditScene, sample: int) -> Path:
    """Where an image is."""
    return out / "images" / row.replace(" + ", "-") / f"{scene.name}-{sample}.png"


def run_control_mini(
    config: EditMiniConfig, out: Path, model: str = "mini", controlnet: str | None = None, *, show_progress: bool = True
) -> Path:
    """Makes and measures control-mini, and returns the folder: images/, scores.csv, table.csv, ratios.csv, table.md,
    grid.png and run.json. Images that exist are kept.

    Args:
        controlnet: for edges; None: the model's own, or the shipped one that belongs to it.
    """
    drawer = require_blip_diffusion(load_model(model))
    name = controlnet or default_controlnet("canny", model, drawer.unet)
    settings = {
        "suite": CONTROL_MINI,
        "model": model,
        "model_weights": weights_hash(drawer),
        "controlnet": name,
        "controlnet_weights": weights_hash(load_controlnet(name)),
        "split": config.split,
        "samples": SAMPLES,
        "batch": BATCH,
    }
    with claimed(out, settings):
        cases = [make_case(scene, config.split) for scene in edit_scenes(config.split, config.scenes)]
        draw(out, cases, drawer, name, show_progress=show_progress)
        unchanged = weights_hash(drawer) == settings["model_weights"]
        scores = measure(out, cases, drawer)
        scores.to_csv(out / "scores.csv", index=False, float_format="%.5g")
        table, compared = summarise(scores), ratios(scores)
        table.to_csv(out / "table.csv", index=False, float_format="%.4f")
        compared.to_csv(out / "ratios.csv", index=False, float_format="%.4f")
        write_text(markdown(table, compared), out / "table.md")
        write_png(draw_grid(out, cases), out / "grid.png")
        update_run(out, scenes=config.scenes, model_unchanged=unchanged)
    return out


def draw(out: Path, cases: Sequence[Case], model: BlipDiffusion, controlnet: str, *, show_progress: bool) -> None:
    """Draws the images that ``out`` lacks, in fixed batches."""
    wanted = [(case, sample) for case in cases for sample in range(SAMPLES)]
    batches = [wanted[start : start + BATCH] for start in range(0, len(wanted), BATCH)]
    total = len(wanted) * len(DRAWN)
    if not all(image_path(out, row, case.scene, sample).exists() for row in DRAWN for case, sample in wanted):
        record_maker(out)
    with progress_bar(total=total, desc=CONTROL_MINI, unit=" images", show=show_progress) as bar:
        for batch in batches:
            for row in DRAWN:
                paths = [image_path(out, row, case.scene, sample) for case, sample in batch]
                if not all(path.exists() for path in paths):
                    images = draw_batch(model, controlnet, batch, row)
                    for image, path in zip(images, paths, strict=True):
                        write_png(image, path)
                bar.update(len(batch))


def draw_batch(model: BlipDiffusion, controlnet: str, batch: Sequence[tuple[Case, int]], row: str) -> list[Image.Image]:
    """The images of one row; all rows of a scene and sample start from the same noise."""
    scenes = [case.scene for case, _ in batch]
    nouns = [scene.subject.class_noun for scene in scenes]
    settings: dict[str, Any] = {
        "seeds": [derive_seed(scene.seed, sample) for scene, (_, sample) in zip(scenes, batch, strict=True)]
    }
    if row in (CONTROLLED, TEXT_CONTROLLED):
        height, width = model.size(None, None)
        sources = [Image.fromarray(case.source.image) for case, _ in batch]
        maps = [structure_map("canny", source, height, width) for source in sources]
        settings["control"] = StructureControl.from_pretrained(controlnet, maps)
    if row in (CONTROLLED, ZERO_SHOT):
        vectors = [model.mean_subjects(case.references, noun) for (case, _), noun in zip(batch, nouns, strict=True)]
        prompts = [f"a {{}} {scene.context}" for scene in scenes]
        drawn = model(prompts, target_subject=nouns, subject_embeddings=torch.cat(vectors), **settings)
    else:
        drawn = model([text_of(scene) for scene in scenes], **settings)
    images: list[Image.Image] = drawn
    return images


def text_of(scene: EditScene) -> str:
    """The prompt without the subject's vectors, such as "a dog in the jungle"; what CLIP-T compares with."""
    return f"a {scene.subject.class_noun} {scene.context}"


def reconstruct(model: BlipDiffusion, images: Sequence[np.ndarray]) -> list[Image.Image]:
    """Images (H, W, 3) uint8 through the model's autoencoder and back."""
    with torch.no_grad():
        latents = encode_images(model.vae, pixels_from_arrays(np.stack(images)), mean=True)
        restored: list[Image.Image] = model.decode(latents, "pil")
    return restored


def measure(out: Path, cases: Sequence[Case], model: BlipDiffusion) -> pd.DataFrame:
    """Columns row, scene, same_class, sample and METRICS."""
    dino, identity, clip = load_encoder("dino", "mini"), load_encoder("identity", "mini"), load_clip("mini")
    references = [(dino.embed_images(case.references), identity.embed_images(case.references)) for case in cases]
    texts = clip.embed_texts([text_of(case.scene) for case in cases])
    sources = [case.source.image for case in cases]
    edges = [strong_edges(source) for source in sources]
    shown = {RECONSTRUCTION: [reconstruct(model, sources)], ANSWER: [[Image.fromarray(c.answer.image) for c in cases]]}
    for row in DRAWN:
        shown[row] = [[read_image(image_path(out, row, c.scene, k)) for c in cases] for k in range(SAMPLES)]
    lines = []
    for row in ROWS:
        for sample, images in enumerate(shown[row]):
            seen = dino.embed_images(images), identity.embed_images(images), clip.embed_images(images)
            for k, case in enumerate(cases):
                lines.append(
                    {
                        "row": row,
                        "scene": case.scene.name,
                        "same_class": case.scene.same_class,
                        "sample": sample,
                        "edge_f1": edge_f1(edges[k], strong_edges(np.asarray(images[k]))),
                        "dino": float((references[k][0] @ seen[0][k]).mean()),
                        "identity": float((references[k][1] @ seen[1][k]).mean()),
                        "clip_t": float(texts[k] @ seen[2][k]),
                    }
                )
    return pd.DataFrame(lines)


def by_scene(scores: pd.DataFrame) -> dict[str, dict[str, pd.DataFrame]]:
    """Group -> row -> its means over each scene's samples, one line a scene, in METRICS' columns."""
    groups = {"same class": scores[scores["same_class"]], "other class": scores[~scores["same_class"]], "all": scores}
    return {
        group: {
            str(row): lines.groupby("scene", sort=True)[list(METRICS)].mean()
            for row, lines in part.groupby("row", sort=False)
        }
        for group, part in groups.items()
    }


def summarise(scores: pd.DataFrame) -> pd.DataFrame:
    """Columns scenes (of GROUPS), row, metric, mean, low, high, n (scenes)."""
    lines = []
    for group, rows in by_scene(scores).items():
        for row, means in rows.items():
            for metric in METRICS:
                values = means[metric].to_numpy()
                lines.append((group, row, metric, values.mean(), *interval(values), len(values)))
    return pd.DataFrame(lines, columns=["scenes", "row", "metric", "mean", "low", "high", "n"])


def ratios(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows in COMPARED, paired over scenes: columns scenes, row, over, metric, ratio of the means, low, high, n."""
    lines = []
    for group, rows in by_scene(scores).items():
        for row, over in COMPARED:
            if row not in rows or over not in rows:
                continue
            for metric in METRICS:
                first, second = rows[row][metric], rows[over][metric].loc[rows[row].index]
                ends = ratio_interval(first.to_numpy(), second.to_numpy())
                lines.append((group, row, over, metric, first.mean() / second.mean(), *ends, len(first)))
    return pd.DataFrame(lines, columns=["scenes", "row", "over", "metric", "ratio", "low", "high", "n"])


def markdown(table: pd.DataFrame, compared: pd.DataFrame) -> str:
    """Both tables for people: mean or ratio [95% interval]."""
    lines = [f"| scenes | row | {' | '.join(METRICS)} |", "|" + " --- |" * (len(METRICS) + 2)]
    for (group, row), part in table.groupby(["scenes", "row"], sort=False):
        lines.append(f"| {group} | {row} | {' | '.join(_cells(part, 'mean'))} |")
    lines += ["", f"| scenes | ratio | {' | '.join(METRICS)} |", "|" + " --- |" * (len(METRICS) + 2)]
    for (group, row, over), part in compared.groupby(["scenes", "row", "over"], sort=False):
        lines.append(f"| {group} | {row} / {over} | {' | '.join(_cells(part, 'ratio'))} |")
    return "\n".join(lines) + "\n"


def _cells(part: pd.DataFrame, column: str) -> list[str]:
    by_metric: Mapping[str, pd.Series] = {line["metric"]: line for _, line in part.iterrows()}
    cells = []
    for metric in METRICS:
        line = by_metric[metric]
        ends = "" if pd.isna(line["low"]) else f" [{line['low']:.3f}, {line['high']:.3f}]"
        cells.append(f"{line[column]:.3f}{ends}")
    return cells


def draw_grid(out: Path, cases: Sequence[Case]) -> Image.Image:
    """A few scenes, spread evenly, of the same and of another class in turn, and what each row makes of them; 256
    colours.
    """
    count = min(GRID_SCENES, len(cases))
    chosen = [cases[(k * len(cases) // count) // 2 * 2 + k % 2] for k in range(count)]
    lines = []
    for case in chosen:
        source, answer = Image.fromarray(case.source.image), Image.fromarray(case.answer.image)
        edges = structure_map("canny", source, *case.source.image.shape[:2])
        images = [read_image(image_path(out, row, case.scene, 0)) for row in DRAWN]
        lines.append([case.references[0], source, edges, *images, answer])
    grid = image_grid(lines, ["reference", "source", "edges", *DRAWN, ANSWER], tile=GRID_TILE)
    return grid.quantize(256, dither=Image.Dither.NONE)
