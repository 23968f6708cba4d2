"""Contact sheets: grid.png (subjects x prompts down, reference and methods across), and any images with titles."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from bdkit.utils.images import encode, read_image, write_png
from dreambench.suites import Prompt, Suite, SuiteSubject
from eval.results_dir import ImageId, reference_paths

GRID_FILE = "grid.png"
BACKGROUND = (255, 255, 255)
INK = (32, 32, 32)
FAINT = (110, 110, 110)
LINE_HEIGHT = 18  # pixels; of a line of text
FONT = ImageFont.load_default(size=LINE_HEIGHT * 2 // 3)


def spread(items: Sequence, count: int) -> list:
    """At most `count` of the items, spread evenly from first to last."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[0]]
    return [items[round(number * (len(items) - 1) / (count - 1))] for number in range(count)]


def spread_prompts(suite: Suite, subjects: int, prompts: int) -> list[tuple[SuiteSubject, Prompt]]:
    """At most `subjects` subjects with at most `prompts` prompts each, spread evenly over the suite."""
    return [
        (subject, prompt)
        for subject in spread(suite.subjects, subjects)
        for prompt in spread(suite.prompts(subject), prompts)
    ]


def draw_grid(
    out: Path,
    suite: Suite,
    columns: Mapping[tuple[str, int], str],
    photos: Path | None = None,
    *,
    paths: Mapping[ImageId, Path] | None = None,
    subjects: int = 5,
    prompts: int = 3,
    tile: int = 128,
    save: bool = True,
) -> Image.Image:
    """The contact sheet of OUT's images.

    columns: (method, seed set) -> the title above its images
    photos: folder of the references of a suite of photos
    paths: where the images are; None: where `ImageId.path` says
    subjects, prompts: at most so many, spread evenly over the suite's
    tile: side of an image in pixels; smaller images are enlarged without smoothing
    save: write it to OUT/grid.png
    """
    rows, lines = [], []
    for subject, prompt in spread_prompts(suite, subjects, prompts):
        images = [read_image(reference_paths(out, suite, subject, photos)[0])]
        for method, seed_set in columns:
            image_id = ImageId(method, seed_set, subject.name, prompt.index, 0)
            path = image_id.path(out) if paths is None else paths.get(image_id)
            images.append(read_image(path) if path is not None and path.exists() else _missing_tile(tile))
        rows.append(images)
        lines.append(f"{subject.name}: {prompt.text(subject.class_noun)}")
    sheet = image_grid(rows, ["reference", *columns.values()], lines, tile, gap=6)
    if save:
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
    tile: side of an image in pixels; smaller images are enlarged without smoothing
    gap: pixels between images
    """
    titles = [_wrap(text, tile) for text in columns]
    step, line_height = tile + gap, LINE_HEIGHT if lines else 0
    head = gap * 2 + LINE_HEIGHT * max(map(len, titles)) if titles else gap
    size = (gap + step * max(map(len, rows)), head + (step + line_height) * len(rows))
    sheet = Image.new("RGB", size, BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    for column, parts in enumerate(titles):
        for number, part in enumerate(parts):
            pen.text((gap + column * step, gap + number * LINE_HEIGHT), part, INK, font=FONT)
    for row, images in enumerate(rows):
        top = head + row * (step + line_height)
        if lines:
            pen.text((gap, top), lines[row], FAINT, font=FONT)
        for column, image in enumerate(images):
            sheet.paste(fit_tile(image.convert("RGB"), tile), (gap + column * step, top + line_height))
    return sheet


def jpeg(image: Image.Image, quality: int = 55) -> bytes:
    """A sheet as JPEG bytes, about 3 kB a tile of 128 pixels: what a notebook shows."""
    return encode(image.convert("RGB"), "JPEG", quality=quality, optimize=True)


def fit_tile(image: Image.Image, side: int) -> Image.Image:
    """The whole image within a white square; small images enlarged by whole pixels, large ones scaled down."""
    longest = max(image.size)
    resample = Image.Resampling.NEAREST if longest < side else Image.Resampling.LANCZOS
    size = tuple(max(1, round(length * side / longest)) for length in image.size)
    tile = Image.new("RGB", (side, side), BACKGROUND)
    tile.paste(image.resize((size[0], size[1]), resample), ((side - size[0]) // 2, (side - size[1]) // 2))
    return tile


def _missing_tile(side: int) -> Image.Image:
    tile = Image.new("RGB", (side, side), (236, 238, 242))
    ImageDraw.Draw(tile).text((side // 2, side // 2), "missing", FAINT, font=FONT, anchor="mm")
    return tile


def _wrap(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and FONT.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
