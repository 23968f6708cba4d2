"""Contact sheets: grid.png (subjects x prompts down, reference and methods across), and any images with titles."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from bdkit.utils.images import read_image, write_png
from dreambench.suites import Suite
from eval.results_dir import Job, Slot, image_path, reference_paths

GRID_FILE = "grid.png"
BACKGROUND = (255, 255, 255)
INK = (32, 32, 32)
FAINT = (110, 110, 110)


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """What the contact sheet shows.

    subjects, prompts: at most so many, spread evenly over the suite's
    tile: side of an image in pixels; smaller images are enlarged without smoothing
    gap, label: pixels between images, and height of a line of text
    """

    subjects: int = 5
    prompts: int = 3
    tile: int = 128
    gap: int = 6
    label: int = 18


def spread(items: tuple, count: int) -> list:
    """At most `count` of the items, spread evenly from first to last."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[0]]
    return [items[round(place * (len(items) - 1) / (count - 1))] for place in range(count)]


def draw_grid(
    out: Path,
    suite: Suite,
    columns: list[tuple[Job, str]],
    photos: Path | None = None,
    config: GridConfig | None = None,
) -> Image.Image:
    """The contact sheet of OUT's images, also written to OUT/grid.png.

    columns: the images to show and the title above them
    """
    config = config or GridConfig()
    subjects = spread(suite.subjects, config.subjects)
    lines = [(subject, prompt) for subject in subjects for prompt in spread(suite.prompts(subject), config.prompts)]
    step = config.tile + config.gap
    row_height = step + config.label
    head = _head_height(config, [text for _, text in columns])
    sheet = Image.new("RGB", (config.gap + step * (1 + len(columns)), head + row_height * len(lines)), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=config.label * 2 // 3)
    for column, text in enumerate(["reference", *(text for _, text in columns)]):
        for number, line in enumerate(_wrap(text, font, config.tile)):
            pen.text((config.gap + column * step, config.gap + number * config.label), line, INK, font=font)
    for row, (subject, prompt) in enumerate(lines):
        top = head + row * row_height
        pen.text((config.gap, top), f"{subject.name}: {prompt.text(subject.class_noun)}", FAINT, font=font)
        reference = read_image(reference_paths(out, suite, subject, photos)[0])
        tiles = [fit_tile(reference, config.tile)]
        for job, _ in columns:
            path = image_path(out, job, Slot(subject, prompt, 0))
            tiles.append(fit_tile(read_image(path), config.tile) if path.exists() else _missing_tile(config.tile, font))
        for column, tile in enumerate(tiles):
            sheet.paste(tile, (config.gap + column * step, top + config.label))
    write_png(sheet, out / GRID_FILE)
    return sheet


def image_grid(
    rows: Sequence[Sequence[Image.Image]],
    columns: Sequence[str] = (),
    lines: Sequence[str] = (),
    tile: int = 128,
    gap: int = 4,
) -> Image.Image:
    """Images of any size in rows, as an RGB image.

    columns: titles above the columns, wrapped; none: no titles
    lines: a line of text above each row; none: no lines
    tile: side of an image in pixels, as in `GridConfig`
    """
    config = GridConfig(tile=tile, gap=gap)
    font = ImageFont.load_default(size=config.label * 2 // 3)
    step, head = tile + gap, _head_height(config, list(columns)) if columns else gap
    line_height = config.label if lines else 0
    size = (gap + step * max(map(len, rows)), head + (step + line_height) * len(rows))
    sheet = Image.new("RGB", size, BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    for column, text in enumerate(columns):
        for number, part in enumerate(_wrap(text, font, tile)):
            pen.text((gap + column * step, gap + number * config.label), part, INK, font=font)
    for row, pictures in enumerate(rows):
        top = head + row * (step + line_height)
        if lines:
            pen.text((gap, top), lines[row], FAINT, font=font)
        for column, picture in enumerate(pictures):
            sheet.paste(fit_tile(picture.convert("RGB"), tile), (gap + column * step, top + line_height))
    return sheet


def jpeg(image: Image.Image, quality: int = 55) -> bytes:
    """A sheet as JPEG bytes, about 3 kB a tile of 128 pixels: what a notebook shows."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def fit_tile(image: Image.Image, side: int) -> Image.Image:
    """The whole image within a white square; small images enlarged by whole pixels, large ones scaled down."""
    longest = max(image.size)
    resample = Image.Resampling.NEAREST if longest < side else Image.Resampling.LANCZOS
    size = tuple(max(1, round(length * side / longest)) for length in image.size)
    tile = Image.new("RGB", (side, side), BACKGROUND)
    tile.paste(image.resize((size[0], size[1]), resample), ((side - size[0]) // 2, (side - size[1]) // 2))
    return tile


def _missing_tile(side: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    tile = Image.new("RGB", (side, side), (236, 238, 242))
    ImageDraw.Draw(tile).text((side // 2, side // 2), "missing", FAINT, font=font, anchor="mm")
    return tile


def _head_height(config: GridConfig, texts: list[str]) -> int:
    font = ImageFont.load_default(size=config.label * 2 // 3)
    return config.gap * 2 + config.label * max(len(_wrap(text, font, config.tile)) for text in ["", *texts])


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
