"""Made-up folders of the published forms: few small images, and edits of them by two methods."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 64
# Runs of masks: a box, nothing, everything, and a run that ends beyond the image
BOX = [number for row in range(20, 44) for number in (row * SIDE + 16, 30)]
RUNS = {"000": BOX, "001": [], "002": [0, SIDE * SIDE], "003": [SIDE * SIDE - 100, 900]}
KINDS = {"000": "1", "001": "1", "002": "8", "003": "9"}
PLACES = {"1": "1_change_object_80/1_artificial", "8": "8_change_background_80", "9": "9_change_style_80"}


def picture(seed: int, side: int = SIDE, width: int | None = None) -> Image.Image:
    """Smooth colours with a little noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width or side, side), Image.Resampling.BICUBIC), dtype=np.float64)
    return Image.fromarray(np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8))


def edited(source: Image.Image, seed: int) -> Image.Image:
    """The source, a corner repainted and all of it a little changed."""
    pixels = np.asarray(source, dtype=np.int64) + np.random.default_rng(seed).integers(-9, 10, (*source.size[::-1], 3))
    pixels[24:40, 20:40] = 255 - pixels[24:40, 20:40]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def pie_paths() -> dict[str, str]:
    """Key -> image_path of the mapping file."""
    return {key: f"{PLACES[kind]}/{key}000.jpg" for key, kind in KINDS.items()}


def write_pie_bench(folder: Path) -> Path:
    """PIE-Bench's data/ with four images."""
    entries = {}
    for number, (key, path) in enumerate(pie_paths().items()):
        save(picture(number), folder / "annotation_images" / path)
        entries[key] = {
            "image_path": path,
            "original_prompt": "a [round] cake on a table",
            "editing_prompt": f"a [square] cake on table {number}",
            "editing_instruction": "make it square",
            "editing_type_id": KINDS[key],
            "blended_word": "cake cake",
            "mask": RUNS[key],
        }
    (folder / "mapping_file.json").write_text(json.dumps(entries))
    return folder


def write_edits(bench: Path, root: Path) -> Path:
    """Edits by `ours`, PNG, and by `strips`, as the published code saves them: four images side by side."""
    for number, path in enumerate(pie_paths().values()):
        source = Image.open(bench / "annotation_images" / path)
        image = edited(source, number)
        save(image, (root / "ours" / path).with_suffix(".png"))
        strip = Image.new("RGB", (4 * SIDE, SIDE), "white")
        strip.paste(source, (SIDE, 0))
        strip.paste(image, (3 * SIDE, 0))
        save(strip, (root / "strips" / "annotation_images" / path).with_suffix(".png"))
    return root


SUBJECTS = {"can": ("can", "can"), "cat": ("cat", "cat"), "cat2": ("cat", "cat")}
BOXES = {"found0.jpg": [100, 150, 300, 420], "found1.jpg": [0, 0, 512, 512]}


def write_dreameditbench(folder: Path, photos: Path) -> Path:
    """DreamEditBench with the sources of cans and cats, and two photos of each of three subjects."""
    for task in ("replacement", "addition"):
        for seed, place in enumerate(("can", "cat")):
            for number in range(2):
                path = folder / "data" / f"{task}_source" / place / f"found{number}.jpg"
                save(picture(100 + seed * 10 + number, 48, 80), path)
            if task == "addition":
                (folder / "data" / "addition_source" / place / "bbox.json").write_text(json.dumps(BOXES))
    for seed, subject in enumerate(SUBJECTS):
        for number in range(2):
            save(picture(200 + seed * 10 + number, 70), photos / subject / f"0{number}.jpg")
    return folder


def write_swaps(root: Path, tasks: tuple[str, ...] = ("replacement", "addition")) -> Path:
    """Edited images of `ours`."""
    for task in tasks:
        for seed, subject in enumerate(SUBJECTS):
            for number in range(2):
                save(picture(300 + seed * 10 + number, 96), root / "ours" / task / subject / f"found{number}.png")
    return root
