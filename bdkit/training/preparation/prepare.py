"""Images with captions -> shards of image, alpha and foreground (Sec. 3.2): one image, and a whole set."""

import hashlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from bdkit.training.preparation.segmentation import (
    CLIPSEG,
    Rejected,
    captioner,
    check_area,
    check_mask,
    clipseg,
    inside,
    read_mask,
)
from bdkit.training.shards.files import pack
from bdkit.training.shards.jobs import Item
from bdkit.training.shards.sources import Row, read_location, read_rows, text_of
from bdkit.training.shards.write import write_shards
from bdkit.utils.errors import InputError
from bdkit.utils.images import decode_image, encode

PART = 8  # images a job: a killed run loses at most the jobs under way
MASKS = ("clipseg", "alpha", "none")


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How images become training data.

    masks: where subjects are: clipseg (by the class noun), alpha (an image's own transparency, or the list's column
        mask: taken as it is), a FOLDER of binary masks (made alpha by matting), or none (pairs of image and caption,
        for stage 1, and backgrounds)
    segmenter: CLIPSeg's weights, a folder or hub id
    matting: from trimap to alpha: cf (closed form, as in the paper), knn, lkm or guided; benchmarks/matting.py
    size: pixels of the shorter side; larger images are made smaller, smaller ones kept
    certain: confidence of CLIPSeg from which a pixel surely shows the subject
    excluded: confidence up to which it surely does not
    band: how far around the edge of a binary mask is unknown, as a share of the shorter side
    min_area: least share of the image that the subject may cover
    max_area: most of it
    quality: of the JPEG files
    subject: class noun of every image, where the list has none
    captioner: image-to-text model that writes missing captions, a folder or hub id
    device: of CLIPSeg and the captioner
    shard_mb: most megabytes (10^6 bytes) of a shard
    skip_missing: reject an image that is missing, as a damaged one, instead of refusing the list
    """

    masks: str = "clipseg"
    segmenter: str = CLIPSEG
    matting: Literal["cf", "knn", "lkm", "guided"] = "cf"
    size: int = 512
    certain: float = 0.9
    excluded: float = 0.1
    band: float = 0.02
    min_area: float = 0.02
    max_area: float = 0.9
    quality: int = 95
    subject: str | None = None
    captioner: str | None = None
    device: str = "cpu"
    shard_mb: float = 256
    skip_missing: bool = False

    def __post_init__(self) -> None:
        for name, low, high in (("size", 16, 4096), ("quality", 1, 100), ("shard_mb", 0.01, 100_000)):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"--{name.replace('_', '-')} is {getattr(self, name)}; use {low} to {high}")
        if not 0 <= self.excluded < self.certain <= 1:
            raise InputError(f"--excluded {self.excluded} and --certain {self.certain} must rise between 0 and 1")
        if not 0 <= self.min_area < self.max_area <= 1:
            raise InputError(f"--min-area {self.min_area} and --max-area {self.max_area} must rise between 0 and 1")
        if not 0 < self.band <= 0.5:
            raise InputError(f"--band is {self.band}; use a share of the shorter side, up to 0.5")


@dataclass(kw_only=True)
class Loaded:
    """An image of the input, made smaller; box is in its pixels."""

    row: Row
    image: Image.Image
    alpha: Image.Image | None
    pixels: str
    caption: str | None
    subject: str | None
    box: tuple[float, ...] | None


def prepare_images(
    images: str,
    captions: str | None,
    out: str,
    config: PrepareConfig,
    *,
    workers: int | None = None,
    executor: Executor | None = None,
    work: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Writes the shards of a set of images; see `read_rows` for the input and `write_shards` for the rest.

    Returns what dataset.json holds.
    """
    folder = None if config.masks in MASKS else config.masks
    if folder is not None and not Path(folder).is_dir() and "://" not in folder:
        raise InputError(f"--masks {folder} is no folder; give one, or {', '.join(MASKS)}")
    rows = read_rows(images, captions, folder, config.skip_missing)
    told = json.dumps([asdict(replace(row, number=0)) for row in rows], sort_keys=True)
    return write_shards(
        prepare_part,
        [(rows[start : start + PART], config) for start in range(0, len(rows), PART)],
        out,
        settings=asdict(config)
        | {"images": str(images), "captions": captions, "input": hashlib.sha256(told.encode()).hexdigest()},
        shard_bytes=round(config.shard_mb * 1e6),
        total=len(rows),
        workers=workers,
        executor=executor,
        work=work,
        progress=progress,
    )


def prepare_part(rows: Sequence[Row], config: PrepareConfig) -> list[Item]:
    """What becomes of some rows; none of them can stop the others."""
    outcomes: dict[int, Item] = {}
    loaded: list[Loaded] = []

    def attempt(one: Loaded | Row, function: Any, *arguments: Any) -> Any:
        row = one if isinstance(one, Row) else one.row
        try:
            return function(one, *arguments)
        except Rejected as error:
            reason, detail = error.reason, error.detail
        except (InputError, OSError, ValueError, KeyError) as error:  # InputError: an image that can't be decoded
            reason, detail = "damaged image", " ".join(str(error).split())
        outcomes[row.number] = Item(row=row.number, key=row.key, source=row.source, reason=reason, detail=detail)
        return None

    for row in rows:
        if (one := attempt(row, load, config)) is not None:
            loaded.append(one)
    _write_captions(loaded, config)
    loaded = [one for one in loaded if attempt(one, check_caption, config)]
    confidences: dict[int, np.ndarray] = {}
    if config.masks == "clipseg" and loaded:
        maps = clipseg(config.segmenter, config.device)([x.image for x in loaded], [x.subject or "" for x in loaded])
        confidences = {one.row.number: confidence for one, confidence in zip(loaded, maps, strict=True)}
    for one in loaded:
        record = attempt(one, make_record, config, confidences.get(one.row.number))
        if record is not None:
            row = one.row
            outcomes[row.number] = Item(
                row=row.number, key=row.key, source=row.source, pixels=one.pixels, record=record
            )
    return [outcomes[row.number] for row in rows]


def load(row: Row, config: PrepareConfig) -> Loaded:
    """Reads and decodes a row's image and makes it smaller."""
    try:
        data = read_location(row.image)
    except FileNotFoundError as error:
        raise Rejected("missing image", row.source) from error
    image, alpha = decode_image(data, row.source)
    caption, subject, box = text_of(row)
    pixels = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
    scale = config.size / min(image.size)
    if scale < 1:
        size = (max(config.size, round(image.width * scale)), max(config.size, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
        alpha = alpha and alpha.resize(size, Image.Resampling.BILINEAR)
        box = box and tuple(edge * scale for edge in box)
    return Loaded(
        row=row, image=image, alpha=alpha, pixels=pixels, caption=caption, subject=subject or config.subject, box=box
    )


def _write_captions(loaded: list[Loaded], config: PrepareConfig) -> None:
    without = [one for one in loaded if one.caption is None]
    if config.captioner is None or not without:
        return
    texts = captioner(config.captioner, config.device)([one.image for one in without])
    for one, text in zip(without, texts, strict=True):
        one.caption = text or None


def check_caption(one: Loaded, config: PrepareConfig) -> bool:
    """Rejects an image without a caption, without a class noun or whose caption lacks it; True for a good one."""
    if config.masks == "none":
        return True
    if one.caption is None:
        raise Rejected("no caption")
    if one.subject is None:
        raise Rejected("no class noun")
    if not has_noun(one.caption, one.subject):
        raise Rejected("caption without the noun", f"{one.subject!r} is not in {one.caption!r}")
    return True


def has_noun(caption: str, class_noun: str) -> bool:
    """Whether a caption names the noun as a word of its own, in whatever case, or its plural."""
    return re.search(rf"(?<!\w){re.escape(class_noun)}(e?s)?(?!\w)", caption, re.IGNORECASE) is not None


def make_record(one: Loaded, config: PrepareConfig, confidence: np.ndarray | None = None) -> bytes:
    """The record of one image. `confidence` is CLIPSeg's map, (H, W) in 0..1, where the masks are its."""
    details: dict[str, Any] = {
        "caption": one.caption,
        "subject": one.subject,
        "source": one.row.source,
        "width": one.image.width,
        "height": one.image.height,
        "pixels": one.pixels,
    }
    files = {"jpg": encode(one.image, "JPEG", quality=config.quality, subsampling=0)}
    if config.masks != "none":
        image = np.asarray(one.image)
        known, alpha = subject_alpha(one, image, config, confidence)
        from bdkit.training.preparation.matting_methods import estimate_foreground

        levels = (alpha * 255).round().astype(np.uint8)
        foreground = Image.fromarray(estimate_foreground(image, alpha))
        files["alpha.png"] = encode(Image.fromarray(levels), "PNG")
        files["foreground.jpg"] = encode(foreground, "JPEG", quality=config.quality, subsampling=0)
        if known is not None:
            files["trimap.png"] = encode(Image.fromarray((known * 255).round().astype(np.uint8)), "PNG")
        top, bottom = np.flatnonzero((levels > 127).any(1))[[0, -1]]
        left, right = np.flatnonzero((levels > 127).any(0))[[0, -1]]
        details["box"] = [int(left), int(top), int(right) + 1, int(bottom) + 1]
        details["area"] = round(float(alpha.mean()), 4)
    return pack(one.row.key, {"json": json.dumps(details, ensure_ascii=False).encode(), **files})


def subject_alpha(
    one: Loaded, image: np.ndarray, config: PrepareConfig, confidence: np.ndarray | None
) -> tuple[np.ndarray | None, np.ndarray]:
    """Trimap (None where the alpha is the user's own) and alpha of an image's subject, float64 (H, W) in 0..1."""
    from bdkit.training.preparation.matting_methods import band_trimap, estimate_alpha
    from bdkit.training.pretraining.matting import trimap

    row, limits = one.row, (config.min_area, config.max_area)
    mask = None if confidence is not None or row.mask is None else read_mask(row.mask, row.source, one.image.size)
    if config.masks == "alpha":
        if mask is None:
            if one.alpha is None:
                raise Rejected("no mask", f"{row.source} has neither transparency nor a mask")
            mask = np.asarray(one.alpha) / 255.0
        check_mask(mask, *limits)
        return None, mask
    if confidence is not None:
        if one.box is not None:
            confidence = confidence * inside(one.box, confidence.shape)
        known = trimap(confidence, foreground=config.certain, background=config.excluded)
        detail = f"the highest confidence is {confidence.max():.2f}"
    elif mask is not None:
        known, detail = band_trimap(mask, config.band), "nothing is left of the mask without its edge"
    else:
        raise Rejected("no mask", f"{config.masks} has none for {row.source}")
    if not (known == 1).any():
        raise Rejected("subject not found", detail)
    # Solving costs seconds: not where the image is rejected whatever the unknown pixels turn out to be
    check_area(float((known > 0).mean()), config.min_area, 1.0)
    check_mask((known == 1).astype(np.float64), 0.0, config.max_area)
    try:
        alpha = estimate_alpha(image, known, config.matting)
    except ValueError as error:
        raise Rejected("matting failed", " ".join(str(error).split())) from error
    check_mask(alpha, *limits)
    return known, alpha
