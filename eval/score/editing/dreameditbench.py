"""DreamEditBench (Li et al., arXiv 2306.12624): its published folder, and its metrics as published and mended.

Published: DreamEditBenchTeam/DreamEdit, src/auto_evaluation.py. Its "sub" and "back" both look at the whole edited
image, beside the subject's photos and beside the source; the mended ones look at the edited region, and at what is
around it.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bdkit.utils.errors import InputError
from bdkit.utils.images import list_images, read_image
from bdkit.utils.io import file_hash, read_json
from dreambench.photos import photos_folder
from dreambench.registry import load_suite
from eval.results_dir import REFERENCES
from eval.score.editing.benchmark import EditCase, EditMetric
from eval.score.encoders import Encoder
from eval.score.masks import SEGMENT, ClipSegSegmenter, Mask, keep, mean_colour, read_mask

NAME = "dreameditbench"
TASKS = ("replacement", "addition")
N_IMAGES = 600
BOXES = "bbox.json"
# Everything is squashed to this size first, as the published code does
SIDE = 512
# Folders of the sources of subjects that have none of their own name, by task
_ANIMALS = {**{f"dog{n}": "dog" for n in (2, 3, 5, 6, 7, 8)}, "cat2": "cat", "backpack_dog": "backpack"}
SOURCES = {
    "replacement": _ANIMALS,
    "addition": {**_ANIMALS, "shiny_sneaker": "sneaker", "colorful_sneaker": "sneaker"},
}
SMALLEST = 0.001
VERSION = 1
_PUBLISHED = {
    "dino_sub": "DINO-sub",
    "dino_back": "DINO-back",
    "clip_i_sub": "CLIP-I-sub",
    "clip_i_back": "CLIP-I-back",
}
METRICS: dict[str, EditMetric] = {
    **{name: EditMetric(title=title, needs="dino" if "dino" in name else "clip") for name, title in _PUBLISHED.items()},
    "overall": EditMetric(title="Overall", needs="dino"),
    **{
        f"{name}_mended": EditMetric(title=title, needs="dino" if "dino" in name else "clip")
        for name, title in _PUBLISHED.items()
    },
    "overall_mended": EditMetric(title="Overall", needs="dino"),
}
FloatRows = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SubjectCase(EditCase):
    """One edit of DreamEditBench; its kind is its task.

    subject, class_noun: of DreamBench
    references: the subject's photos
    box: left, top, right, bottom of the place for it, in an image of SIDE x SIDE; None where the task names none
    """

    subject: str
    class_noun: str
    references: tuple[Path, ...]
    box: tuple[int, int, int, int] | None = None


def read_cases(folder: Path, photos: Path | None = None) -> list[SubjectCase]:
    """The cases of a folder with data/replacement_source/ and data/addition_source/, subjects in DreamBench's order.

    photos: DreamBench's photos, one folder a subject; None: as `dreambench.photos.photos_folder` finds them
    """
    root = folder / "data" if (folder / "data").is_dir() else folder
    if not any((root / f"{task}_source").is_dir() for task in TASKS):
        raise InputError(
            f"{folder} has no data/replacement_source and no data/addition_source; give DreamEditBench's folder with "
            "--benchmark-dir"
        )
    shown = photos_folder(photos)
    cases = []
    for task in TASKS:
        for subject in load_suite("dreambench").subjects:
            place = root / f"{task}_source" / SOURCES[task].get(subject.name, subject.name)
            if not place.is_dir():
                place = root / f"{task}_source" / subject.name
            if not place.is_dir():
                continue
            boxes = _read_boxes(place / BOXES) if task == "addition" else {}
            references = tuple(list_images(shown / subject.name))
            for path in list_images(place):
                if task == "addition" and path.name not in boxes:
                    raise InputError(f"{place / BOXES} has no box for {path.name}; correct the file")
                cases.append(
                    SubjectCase(
                        name=f"{task}/{subject.name}/{path.stem}",
                        kind=task,
                        source=path,
                        subject=subject.name,
                        class_noun=subject.class_noun,
                        references=references,
                        box=boxes.get(path.name),
                    )
                )
    if not cases:
        raise InputError(f"{root} has sources of none of DreamBench's subjects; give DreamEditBench's folder")
    return cases


def _read_boxes(path: Path) -> dict[str, tuple[int, int, int, int]]:
    boxes = {}
    for name, box in read_json(path).items():
        numbers = isinstance(box, list) and len(box) == 4 and all(type(number) is int for number in box)
        if not numbers or not (0 <= box[0] < box[2] <= SIDE and 0 <= box[1] < box[3] <= SIDE):
            raise InputError(
                f"{path}: the box of {name!r} is not left, top, right, bottom of 0 to {SIDE}; correct the file"
            )
        boxes[name] = (box[0], box[1], box[2], box[3])
    return boxes


class DreamEditBench:
    """DreamEditBench with its networks, and where the edited regions are.

    Args:
        dino, clip: DINO ViT-S/16 and CLIP ViT-B/32 as in the protocol `dreambench`.
        masks: folder of the edited regions, white on the subject, METHOD/CASE.png, and of the references,
            references/SUBJECT/NAME.png, where they are there; "clipseg" to find both; None: the boxes of the task
            "addition" alone.
        checkpoints: what a run record says of the weights.
    """

    name = NAME

    def __init__(
        self,
        cases: Sequence[SubjectCase],
        metrics: Mapping[str, EditMetric],
        *,
        dino: Encoder,
        clip: Encoder,
        masks: str | None = None,
        checkpoints: Mapping[str, Any] | None = None,
    ) -> None:
        self.cases, self.metrics, self.checkpoints = list(cases), dict(metrics), dict(checkpoints or {})
        self.dino, self.clip, self.masks = dino, clip, masks
        self.segmenter = ClipSegSegmenter() if masks == SEGMENT else None
        self._references = lru_cache(maxsize=2)(self._embed_references)

    @property
    def key(self) -> str:
        """16 hex digits of the metrics and networks."""
        parts = [NAME, VERSION, list(self.metrics), self.dino.key, self.clip.key, self.masks == SEGMENT]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def content(self, case: EditCase, method: str) -> bytes:
        """The references, the box, and the files of masks."""
        assert isinstance(case, SubjectCase)
        files = [*case.references, *self._mask_files(case, method)]
        return repr((case.box, case.class_noun, [file_hash(path) for path in files])).encode()

    def fit(self, edited: tuple[int, int], source: tuple[int, int]) -> str | None:
        """Any size will do."""
        return None

    def values(self, case: EditCase, method: str, source: Image.Image, edited: Image.Image) -> dict[str, float]:
        """The values of one edited image."""
        assert isinstance(case, SubjectCase)
        subject, others = self._regions(case, method, source, edited)
        before, after = (image.resize((SIDE, SIDE)) for image in (source, edited))
        found: dict[str, float] = {}
        for name, encoder in (("dino", self.dino), ("clip_i", self.clip)):
            fill = mean_colour(encoder.how)
            seen = [
                after,
                before,
                keep(after, subject, "subject", fill),
                keep(after, others, "background", fill),
                keep(before, others, "background", fill),
            ]
            whole, original, part, around, original_around = encoder.embed_images(seen).astype(np.float64)
            references, parts = self._references(name, case.subject)
            found[f"{name}_sub"] = float((references @ whole).mean())
            found[f"{name}_back"] = float(original @ whole)
            found[f"{name}_sub_mended"] = float((parts @ part).mean()) if subject.any() else math.nan
            seen_around = subject.any() and (others < 1).any()
            found[f"{name}_back_mended"] = float(original_around @ around) if seen_around else math.nan
        # the published code takes DINO-back twice, and CLIP-I-back never
        found["overall"] = geometric_mean(
            [found["dino_sub"], found["clip_i_sub"], found["dino_back"], found["dino_back"]]
        )
        found["overall_mended"] = geometric_mean([found[f"{name}_mended"] for name in _PUBLISHED])
        return {name: found[name] for name in self.metrics}

    def _regions(self, case: SubjectCase, method: str, source: Image.Image, edited: Image.Image) -> tuple[Mask, Mask]:
        """(SIDE, SIDE) where the edited image shows the subject, and what is no background of it or the source; both
        empty where nothing says where.
        """
        if self.segmenter is not None:
            after, before = (self.segmenter([image], case.class_noun)[0] for image in (edited, source))
            return _to_side(after), np.maximum(_to_side(after), _to_side(before))
        if self.masks is not None:
            mask = _to_side(read_mask(self._mask_path(case, method), edited.size))
            return mask, mask
        mask = np.zeros((SIDE, SIDE))
        if case.box is not None:
            left, top, right, bottom = case.box
            mask[top:bottom, left:right] = 1
        return mask, mask

    def _mask_path(self, case: SubjectCase, method: str) -> Path:
        return Path(self.masks or "") / method / f"{case.name}.png"

    def _mask_files(self, case: SubjectCase, method: str) -> list[Path]:
        if self.masks is None or self.segmenter is not None:
            return []
        path = self._mask_path(case, method)
        if not path.is_file():
            raise InputError(f"{path} is missing: every edited image needs its mask there, white on the subject")
        return [path, *(found for reference in case.references if (found := self._reference_mask(case, reference)))]

    def _reference_mask(self, case: SubjectCase, reference: Path) -> Path | None:
        path = Path(self.masks or "") / REFERENCES / case.subject / f"{reference.stem}.png"
        return path if path.is_file() else None

    def _embed_references(self, name: str, subject: str) -> tuple[FloatRows, FloatRows]:
        """(r, d) of a subject's references, whole and, where masks say which, its pixels alone."""
        encoder = self.dino if name == "dino" else self.clip
        case = next(case for case in self.cases if case.subject == subject)
        images = [read_image(path, to_srgb=False) for path in case.references]
        parts = []
        for path, image in zip(case.references, images, strict=True):
            mask = np.ones((image.height, image.width))
            if self.segmenter is not None:
                mask = self.segmenter([image], case.class_noun)[0]
            elif self.masks is not None and (file := self._reference_mask(case, path)):
                mask = read_mask(file, image.size)
            parts.append(keep(image, mask, "subject", mean_colour(encoder.how)).resize((SIDE, SIDE)))
        whole = encoder.embed_images([image.resize((SIDE, SIDE)) for image in images])
        return whole.astype(np.float64), encoder.embed_images(parts).astype(np.float64)


def geometric_mean(values: Sequence[float]) -> float:
    """With negative values as SMALLEST, as the published code has them; NaN where any is."""
    if any(map(math.isnan, values)):
        return math.nan
    return math.prod(SMALLEST if value < 0 else value for value in values) ** (1 / len(values))


def _to_side(mask: Mask) -> Mask:
    values = Image.fromarray(np.rint(mask * 255).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    return np.asarray(values, dtype=np.float64) / 255
