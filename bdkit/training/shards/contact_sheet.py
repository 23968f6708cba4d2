"""A contact sheet of shards, so that people can judge the data before they train on it."""

import numpy as np
from PIL import Image, ImageDraw

from bdkit.miniworld.contexts import render_background
from bdkit.miniworld.scenes import CONTEXTS
from bdkit.training.pretraining.matting import blend
from bdkit.training.shards.read import Record, Shards
from bdkit.utils.errors import InputError

GAP, CELL = 4, 192
COLUMNS = ("image", "trimap", "alpha", "input")


def contact_sheet(shards: Shards, count: int, seed: int = 0) -> Image.Image:
    """A row for each of `count` random records: image, trimap, alpha, and the subject blended on a background.

    The trimap is white where the subject is certain, black where it is not, grey where matting decided; where the alpha
    was given, grey is what is half transparent. The backgrounds are the mini world's.
    """
    if count < 1:
        raise InputError(f"--contact-sheet is {count}; ask for at least one record")
    rng = np.random.default_rng(seed)
    numbers = np.sort(rng.choice(len(shards), min(count, len(shards)), replace=False))
    line = 16
    height = CELL + line + GAP
    sheet = Image.new("RGB", (len(COLUMNS) * (CELL + GAP) + GAP, line + len(numbers) * height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(COLUMNS):
        draw.text((GAP + column * (CELL + GAP), 2), name, fill="black")
    for row, number in enumerate(numbers):
        record, top = shards[int(number)], line + row * height
        for column, pixels in enumerate(_cells(record, rng)):
            cell = Image.fromarray(pixels).convert("RGB")
            scale = CELL / max(cell.size)
            resample = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
            cell = cell.resize((round(cell.width * scale), round(cell.height * scale)), resample)
            sheet.paste(cell, (GAP + column * (CELL + GAP), top))
        details = record.details
        text = f"{record.key}  {details['subject']}: {details['caption']}"
        draw.text((GAP, top + CELL + 1), text.encode("ascii", "replace").decode()[:120], fill="black")
    return sheet


def _cells(record: Record, rng: np.random.Generator) -> list[np.ndarray]:
    image = record.image()
    if "alpha.png" not in record.files:
        return [image]
    alpha = record.pixels("alpha.png", "L")
    if "trimap.png" in record.files:
        known = record.pixels("trimap.png", "L")
    else:
        known = np.select([alpha == 0, alpha == 255], [0, 255], 128).astype(np.uint8)
    foreground = record.pixels("foreground.jpg", "RGB") if "foreground.jpg" in record.files else image
    drawn = render_background(CONTEXTS[rng.integers(len(CONTEXTS))], rng, max(alpha.shape))
    return [image, known, alpha, blend(foreground, alpha, drawn[: alpha.shape[0], : alpha.shape[1]])]
