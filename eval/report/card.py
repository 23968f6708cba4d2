"""The card of a model for the Hugging Face hub: settings, scores, sample images and licence, from finished files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, ModelCardData, eval_result_entries_to_yaml
from PIL import Image

from bdkit.utils.errors import InputError
from bdkit.utils.images import list_images, read_image
from bdkit.utils.io import read_json, write_bytes, write_text
from eval.report.grid import image_grid, jpeg
from eval.report.notebook import ResultsFolder
from eval.report.summary import METRIC_TITLES, Results, title
from eval.report.tables import markdown_table, sections
from eval.results_dir import GROUND_TRUTH
from eval.score.scores_file import ORACLE_ROWS

CARD_FILE = "README.md"
SAMPLES_FILE = "samples.jpg"
EVAL_RESULTS = ".eval_results"
SAMPLES_AT_MOST, SAMPLES_ACROSS, TILE = 12, 4, 192
# Suites whose subjects and prompts are a data set of the hub
DATASETS = {"dreambench": "google/dreambooth", "dreambench-plus": "yuangpeng/dreambench_plus"}
# Settings of a fit that a reader of the card looks for, in this order
SETTINGS = (
    *("method", "class_noun", "step", "steps", "learning_rate", "batch_size", "rank", "resolution"),
    *("guidance_scale", "num_inference_steps", "scheduler", "negative_prompt", "checkpoint"),
)


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card says.

    name: of the repository, "user/name"
    folder: the model's
    licence: a licence identifier of the hub, such as apache-2.0
    base_model: hub id of the model that this one was trained from
    results: a scored results folder, and the row of its table that is this model
    dataset: hub id of the results' data set; None: that of DATASETS, or no .eval_results
    samples: folder of images to show; None: the results' grid
    """

    name: str
    folder: Path
    licence: str
    base_model: str | None = None
    results: ResultsFolder | None = None
    row: str | None = None
    dataset: str | None = None
    samples: Path | None = None


def write_card(card: Card, out: Path) -> list[Path]:
    """Writes OUT/README.md, OUT/samples.jpg and OUT/.eval_results/SUITE.yaml, as far as the card has them, and returns
    their paths.
    """
    written = []
    if (sheet := _samples(card)) is not None:
        write_bytes(jpeg(sheet, quality=80), out / SAMPLES_FILE)
        written.append(out / SAMPLES_FILE)
    if card.results is not None and (entries := eval_entries(card)):
        path = out / EVAL_RESULTS / f"{card.results.results.suite.name.replace('@', '-')}.yaml"
        write_text(yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False), path)
        written.append(path)
    write_text(card_text(card, has_samples=sheet is not None), out / CARD_FILE)
    return [*written, out / CARD_FILE]


def card_text(card: Card, *, has_samples: bool) -> str:
    """The card as Markdown with the hub's metadata before it."""
    record = _record(card.folder)
    fitted = record.get("finetuned", {})
    data = ModelCardData(
        license=card.licence,
        base_model=card.base_model,
        library_name="bdkit",
        pipeline_tag="text-to-image",
        tags=["bdkit", "subject-driven-generation", *([str(fitted["method"])] if "method" in fitted else [])],
    )
    noun = fitted.get("class_noun") or record.get("subject_class")
    what = f"draws one {noun}, learned from a few images," if noun else "is a model"
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {card.name.partition('/')[2]}",
        f"This model {what} of [BLIP-Diffusion](https://arxiv.org/abs/2305.14720), made with bdkit.",
    ]
    if has_samples:
        parts.append(f"![sample images]({SAMPLES_FILE})")
    prompt = "a {} in the jungle" if noun else "a dog in the jungle"
    parts.append(f'```bash\nbdkit generate --model {card.name} --prompt "{prompt}" --seeds 0-3 --out out/\n```')
    if lines := [[name, f"`{fitted[name]}`"] for name in SETTINGS if fitted.get(name) not in (None, "")]:
        parts += ["## Settings", markdown_table(["setting", "value"], lines)]
    if card.results is not None:
        main = sections(card.results.results)[0]
        named = "" if card.row is None else f' This model is the row "{title(card.row)}".'
        results = card.results.results
        heading = f"## {results.suite.name}, protocol {results.protocol}"
        parts += [heading, markdown_table(main.head, main.lines), main.note + named]
    own = card.folder / CARD_FILE
    if own.is_file():
        parts.append(_demoted(own.read_text(encoding="utf-8")))
    return "\n\n".join(parts) + "\n"


def eval_entries(card: Card) -> list[EvalResultEntry]:
    """An entry for each metric of the card's row, of its data set on the hub; empty without row or data set."""
    assert card.results is not None
    results = card.results.results
    dataset = card.dataset or DATASETS.get(results.suite.name)
    if dataset is None or card.row is None:
        return []
    entries = []
    for metric in results.metrics:
        figure = results.estimates.get((card.row, metric))
        if figure is None or metric not in METRIC_TITLES:
            continue
        interval = "" if figure.low is None else f", 95% interval {figure.low:.4f} to {figure.high:.4f} over subjects"
        notes = (
            f"{METRIC_TITLES[metric]}, protocol {results.protocol}, suite {results.suite.name} "
            f"({results.suite.hash}), {figure.n_images} images{interval}"
        )
        entries.append(EvalResultEntry(dataset_id=dataset, task_id=metric, value=round(figure.mean, 6), notes=notes))
    return entries


def row_of(results: Results, named: str | None) -> str:
    """The row of the table that the model is: the named one, or the only method there is."""
    methods = [row for row in results.rows if row not in (*ORACLE_ROWS, GROUND_TRUTH)]
    if named is None and len(methods) == 1:
        return methods[0]
    if named not in methods:
        said = "--row is missing" if named is None else f"there is no row {named!r}"
        raise InputError(f"{said}; name the row that is this model: {', '.join(methods)}")
    return named


def _samples(card: Card) -> Image.Image | None:
    if card.samples is not None:
        images = [read_image(path) for path in list_images(card.samples)[:SAMPLES_AT_MOST]]
        lines: Sequence[list[Image.Image]] = [
            images[start : start + SAMPLES_ACROSS] for start in range(0, len(images), SAMPLES_ACROSS)
        ]
        return image_grid(lines, tile=TILE)
    return None if card.results is None else card.results.grid()


def _record(folder: Path) -> dict[str, Any]:
    path = folder / "bdkit.json"
    return read_json(path) if path.is_file() else {}


def _demoted(text: str) -> str:
    """A card that the model's folder has, without metadata, its headings one level lower."""
    if text.startswith("---\n"):
        text = text.partition("\n---\n")[2]
    return "\n".join(f"#{line}" if line.startswith("#") else line for line in text.strip().splitlines())
