"""PIE-Bench (Ju et al., arXiv 2310.01506): its published folder, and its metrics as published and mended.

Published: cure-lab/PnPInversion, evaluation/evaluate.py and matrics_calculator.py.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bdkit.utils.errors import InputError
from bdkit.utils.io import read_json
from eval.score.edit_metrics import Edit, PerceptualDistance, lpips_outside, ssim_outside
from eval.score.editing import background
from eval.score.editing.benchmark import EditCase, EditMetric
from eval.score.editing.structure import StructureEncoder, structure_distance
from eval.score.encoders import ClipEncoder
from eval.score.masks import keep, mean_colour

NAME = "pie-bench"
MAPPING_FILE, IMAGES = "mapping_file.json", "annotation_images"
KINDS = {
    "0": "random",
    "1": "change object",
    "2": "add object",
    "3": "delete object",
    "4": "change content",
    "5": "change pose",
    "6": "change colour",
    "7": "change material",
    "8": "change background",
    "9": "change style",
}
N_IMAGES, N_NAMED = 700, 5
FIELDS = ("image_path", "original_prompt", "editing_prompt", "editing_type_id")
# A change of the code that changes values changes this
VERSION = 1
_LESS: dict[str, Any] = {"higher_is_better": False}
_LPIPS: dict[str, Any] = {"needs": "lpips", "scale": 1e3, "digits": 2, **_LESS}
METRICS: dict[str, EditMetric] = {
    "structure_distance": EditMetric(title="Structure ×10³", needs="structure", scale=1e3, digits=2, **_LESS),
    "psnr_unedit_part": EditMetric(title="PSNR", needs="pixels", digits=2),
    "lpips_unedit_part": EditMetric(title="LPIPS ×10³", **_LPIPS),
    "mse_unedit_part": EditMetric(title="MSE ×10⁴", needs="pixels", scale=1e4, digits=2, **_LESS),
    "ssim_unedit_part": EditMetric(title="SSIM ×10²", needs="pixels", scale=1e2, digits=2),
    "clip_similarity_source_image": EditMetric(title="CLIP, source", needs="clip", digits=2),
    "clip_similarity_target_image": EditMetric(title="CLIP, whole", needs="clip", digits=2),
    "clip_similarity_target_image_edit_part": EditMetric(title="CLIP, edited", needs="clip", digits=2),
    "structure_distance_mended": EditMetric(title="Structure ×10³", needs="structure", scale=1e3, digits=2, **_LESS),
    "psnr_unedit_part_mended": EditMetric(title="PSNR", needs="pixels", digits=2),
    "lpips_unedit_part_mended": EditMetric(title="LPIPS ×10³", **_LPIPS),
    "mse_unedit_part_mended": EditMetric(title="MSE ×10⁴", needs="pixels", scale=1e4, digits=2, **_LESS),
    "ssim_unedit_part_mended": EditMetric(title="SSIM ×10²", needs="pixels", scale=1e2, digits=2),
    "clip_similarity_target_image_edit_part_mended": EditMetric(title="CLIP, edited", needs="clip", digits=2),
}


@dataclass(frozen=True, kw_only=True)
class PieCase(EditCase):
    """One edit of PIE-Bench.

    source_prompt, target_prompt: without the brackets that mark what differs
    runs: the mask as (start, length, start, length, ...) of its pixels in reading order, 1 where the edit may change it
    """

    source_prompt: str
    target_prompt: str
    runs: tuple[int, ...]


def read_cases(folder: Path) -> list[PieCase]:
    """The cases of a folder with mapping_file.json and annotation_images/, in the file's order."""
    path = folder / MAPPING_FILE
    cases: dict[str, PieCase] = {}
    for key, entry in read_json(path).items():
        case = _read_case(folder, key, entry, f"{path}, image {key!r}")
        if case.name in cases:
            raise InputError(f"{path}, image {key!r}: the image_path of another; correct the file")
        cases[case.name] = case
    if not cases:
        raise InputError(f"{path} lists no images; give PIE-Bench's folder with --benchmark-dir")
    if missing := [case.source for case in cases.values() if not case.source.is_file()]:
        named = ", ".join(source.relative_to(folder).as_posix() for source in missing[:N_NAMED])
        raise InputError(f"{len(missing)} of {len(cases)} images that {path} lists are missing in {folder}: {named}")
    return list(cases.values())


def _read_case(folder: Path, key: str, entry: Any, where: str) -> PieCase:
    if not isinstance(entry, dict):
        raise InputError(f"{where} is no JSON object; correct the file")
    for name in FIELDS:
        if not isinstance(entry.get(name), str):
            raise InputError(f"{where} has no text {name!r}; correct the file")
    path = PurePosixPath(entry["image_path"])
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise InputError(f"{where}: the image_path {entry['image_path']!r} leads out of {IMAGES}/; correct the file")
    prompts = [entry[name].replace("[", "").replace("]", "") for name in ("original_prompt", "editing_prompt")]
    return PieCase(
        name=path.with_suffix("").as_posix(),
        kind=entry["editing_type_id"],
        source=folder / IMAGES / path,
        source_prompt=prompts[0],
        target_prompt=prompts[1],
        runs=_read_runs(entry.get("mask"), where),
    )


def _read_runs(value: Any, where: str) -> tuple[int, ...]:
    numbers = value if isinstance(value, list) else [None]
    if len(numbers) % 2 or not all(type(number) is int and number >= 0 for number in numbers):
        raise InputError(f"{where}: the mask is no list of pairs of whole numbers (start, length); correct the file")
    return tuple(numbers)


def decode_mask(runs: Sequence[int], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (H, W) of run lengths; what lies beyond the image is left out."""
    mask = np.zeros(shape[0] * shape[1], dtype=bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        mask[start : start + length] = True
    return mask.reshape(shape)


def with_border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask with the outermost pixels set, as the published code has it against errors of annotation."""
    framed = mask.copy()
    framed[[0, -1]] = True
    framed[:, [0, -1]] = True
    return framed


class PieBench:
    """PIE-Bench with its networks; those that no metric needs may be None.

    Args:
        clip: CLIP ViT-L/14.
        structure: DINO ViT-B/8.
        perceptual: LPIPS with SqueezeNet: the means over each layer's grid (published), and at each place (mended).
        checkpoints: what a run record says of the weights.
    """

    name = NAME

    def __init__(
        self,
        cases: Sequence[PieCase],
        metrics: Mapping[str, EditMetric],
        *,
        clip: ClipEncoder | None = None,
        structure: StructureEncoder | None = None,
        perceptual: tuple[PerceptualDistance, PerceptualDistance] | None = None,
        checkpoints: Mapping[str, Any] | None = None,
    ) -> None:
        self.cases, self.metrics, self.checkpoints = list(cases), dict(metrics), dict(checkpoints or {})
        self.clip, self.structure, self.perceptual = clip, structure, perceptual
        groups = {"pixels": self._pixels, "lpips": self._lpips, "structure": self._structure, "clip": self._clip}
        self._groups = [groups[name] for name in groups if name in {metric.needs for metric in metrics.values()}]
        # of the image at hand: all methods edit it, one after the other
        self._similarity: dict[tuple[str, bool], Tensor] = {}
        self._text = lru_cache(maxsize=4)(self._embed_text)

    @property
    def key(self) -> str:
        """16 hex digits of the metrics and networks."""
        clip = "" if self.clip is None else f"{self.clip.key} {self.clip.text_key}"
        device = "" if self.structure is None else self.structure.device.partition(":")[0]
        parts = [NAME, VERSION, list(self.metrics), clip, device, self.checkpoints]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def content(self, case: EditCase, method: str) -> bytes:
        """The prompts and the mask."""
        assert isinstance(case, PieCase)
        return repr((case.source_prompt, case.target_prompt, case.runs)).encode()

    def fit(self, edited: tuple[int, int], source: tuple[int, int]) -> str | None:
        """Of edited images that are not square, the last square is taken, as of a published strip of images."""
        if source[0] != source[1]:
            return f"its source has {source[0]} x {source[1]} pixels; PIE-Bench's images are square"
        if edited[0] == edited[1] and edited != source:
            return f"it has {edited[0]} x {edited[1]} pixels, its source {source[0]} x {source[1]}"
        if min(edited) < source[0]:
            return f"{edited[0]} x {edited[1]} pixels hold no square of {source[0]}, the size of its source"
        return None

    def values(self, case: EditCase, method: str, source: Image.Image, edited: Image.Image) -> dict[str, float]:
        """The values of one edited image."""
        assert isinstance(case, PieCase)
        if edited.width != edited.height:
            right, bottom = edited.size
            edited = edited.crop((right - source.width, bottom - source.height, right, bottom))
        mask = decode_mask(case.runs, (source.height, source.width))
        found: dict[str, float] = {}
        for group in self._groups:
            found |= group(case, source, edited, mask)
        return {name: found[name] for name in self.metrics}

    def _pixels(
        self, case: PieCase, source: Image.Image, edited: Image.Image, mask: NDArray[np.bool_]
    ) -> dict[str, float]:
        outside = ~with_border(mask)
        first, second = np.asarray(source), np.asarray(edited)
        names = ("psnr_unedit_part", "mse_unedit_part", "ssim_unedit_part")
        if not outside.any():
            return dict.fromkeys((*names, *(f"{name}_mended" for name in names)), math.nan)
        edit = Edit(image=second, source=first, mask=1.0 - outside)
        blanked = background.blank(first, outside), background.blank(second, outside)
        error, error_outside = background.mean_squared_error(*blanked), background.mean_squared_error_outside(edit)
        return {
            "psnr_unedit_part": background.psnr(error),
            "mse_unedit_part": error,
            "ssim_unedit_part": background.ssim(*blanked),
            "psnr_unedit_part_mended": background.psnr(error_outside),
            "mse_unedit_part_mended": error_outside,
            "ssim_unedit_part_mended": float(ssim_outside([edit])[0]),
        }

    def _lpips(
        self, case: PieCase, source: Image.Image, edited: Image.Image, mask: NDArray[np.bool_]
    ) -> dict[str, float]:
        assert self.perceptual is not None
        means, places = self.perceptual
        outside = ~with_border(mask)
        if not outside.any():
            return {"lpips_unedit_part": math.nan, "lpips_unedit_part_mended": math.nan}
        first, second = np.asarray(source), np.asarray(edited)
        blanked = background.blank(first, outside), background.blank(second, outside)
        edit = Edit(image=second, source=first, mask=1.0 - outside)
        return {
            "lpips_unedit_part": background.lpips(*blanked, means),
            "lpips_unedit_part_mended": float(lpips_outside([edit], places)[0]),
        }

    def _structure(
        self, case: PieCase, source: Image.Image, edited: Image.Image, mask: NDArray[np.bool_]
    ) -> dict[str, float]:
        assert self.structure is not None
        found = {}
        for name, mended in (("structure_distance", False), ("structure_distance_mended", True)):
            if name not in self.metrics:
                continue
            if (case.name, mended) not in self._similarity:
                self._similarity = {key: kept for key, kept in self._similarity.items() if key[0] == case.name}
                self._similarity[case.name, mended] = self.structure.self_similarity(source, mended=mended)
            similarity = self.structure.self_similarity(edited, mended=mended)
            found[name] = structure_distance(self._similarity[case.name, mended], similarity)
        return found

    def _clip(
        self, case: PieCase, source: Image.Image, edited: Image.Image, mask: NDArray[np.bool_]
    ) -> dict[str, float]:
        assert self.clip is not None
        framed = with_border(mask)
        black = Image.fromarray(background.blank(np.asarray(edited), framed))
        grey = keep(edited, mask.astype(np.float64), "subject", mean_colour(self.clip.how))
        seen = self.clip.embed_images([source, edited, black, grey]).astype(np.float64)
        before, after = self._text(case.source_prompt), self._text(case.target_prompt)
        # torchmetrics' CLIPScore: times 100, at least 0
        whole, edited_part = (100 * max(float(row @ after), 0.0) for row in seen[1:3])
        return {
            "clip_similarity_source_image": 100 * max(float(seen[0] @ before), 0.0),
            "clip_similarity_target_image": whole,
            "clip_similarity_target_image_edit_part": edited_part,
            "clip_similarity_target_image_edit_part_mended": 100 * float(seen[3] @ after) if mask.any() else math.nan,
        }

    def _embed_text(self, text: str) -> NDArray[np.float64]:
        assert self.clip is not None
        return np.asarray(self.clip.embed_texts([text], batch_size=1)[0], dtype=np.float64)
