"""edit-mini, the images: another subject in a scene of the mini world, by every row, in fixed batches.

What exists is kept. Sources are of two kinds: "real", which the mini world draws, and "generated" by the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bdkit.checkpoints.load import load_model
from bdkit.editing.edit import Edit, EditResult, edit_batch
from bdkit.editing.edit_presets import PRESETS, EditConfig
from bdkit.editing.inversion import Inversion
from bdkit.miniworld.render import Rendering, render
from bdkit.miniworld.scenes import sample_scene
from bdkit.miniworld.subjects import sample_subject
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.utils.images import read_image, write_png
from bdkit.utils.progress import progress_bar
from dreambench.editing import EditScene, edit_suite
from eval.generate.references import draw_references, individual
from eval.mini.segmenter import SegmenterNet, load_segmenter, segment
from eval.results_dir import record_maker

KINDS = ("real", "generated")
BATCH = 4  # edits together; fixed, so that a resumed run makes the same bytes
EDITED = {"fixed": PRESETS["fixed"], "lavis": PRESETS["lavis"], "prompt-to-prompt": PRESETS["fixed"]}
OTHERS = ("from-scratch", "paste", "no-edit")
ANSWER = "right-answer"  # of real sources alone
ROWS = (*EDITED, *OTHERS, ANSWER)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A scene with its images: the source and the right answer as the mini world draws them, and the references."""

    scene: EditScene
    source: Rendering
    answer: Rendering
    references: list[Image.Image]


def make_case(scene: EditScene, split: str) -> Case:
    """Draws a scene."""
    suite = edit_suite(split)
    subject = sample_subject(scene.source_noun, f"edit-mini/{scene.index}", split=split)
    drawn = sample_scene(subject, np.random.default_rng(scene.seed), context=scene.context)
    return Case(
        scene=scene,
        source=render(drawn),
        answer=render(replace(drawn, subject=individual(suite, scene.subject))),
        references=draw_references(suite, scene.subject),
    )


def image_path(out: Path, row: str, kind: str, scene: EditScene) -> Path:
    """Where a row's image of a scene is; "source" is a row, too."""
    return out / "images" / row / kind / f"{scene.name}.png"


def mask_path(out: Path, row: str, kind: str, scene: EditScene) -> Path:
    """Where a row's mask of a scene is."""
    return out / "masks" / row / kind / f"{scene.name}.png"


def _files(out: Path, row: str, kind: str, case: Case) -> list[Path]:
    """A row's files of a scene: its image, and of an edit its mask."""
    image = image_path(out, row, kind, case.scene)
    return [image, mask_path(out, row, kind, case.scene)] if row in EDITED else [image]


def make_images(out: Path, cases: Sequence[Case], rows: Sequence[str], model: str, *, show_progress: bool) -> None:
    """Makes the images that ``out`` lacks. Real sources are inverted once for all rows of the same method."""
    kinds = {row: KINDS[:1] if row == ANSWER else KINDS for row in rows}
    wanted = [path for row in rows for kind in kinds[row] for case in cases for path in _files(out, row, kind, case)]
    if not all(path.exists() for path in wanted):
        record_maker(out)
    drawer = Drawer(model)
    batches = [cases[start : start + BATCH] for start in range(0, len(cases), BATCH)]
    with progress_bar(
        total=len(cases) * len(KINDS) * len(rows), desc="edit-mini", unit=" images", show=show_progress
    ) as bar:
        for batch in batches:
            for kind in KINDS:
                drawer.sources(out, batch, kind)
                for row in rows:
                    if kind in kinds[row]:
                        drawer.row(out, batch, kind, row)
                    bar.update(len(batch))


class Drawer:
    """The model, loaded when the first image is missing, and what makes each row's images."""

    def __init__(self, model: str) -> None:
        self.name = model
        self._model: BlipDiffusion | None = None
        self._segmenter: SegmenterNet | None = None
        self._inversions: dict[str, Inversion] = {}  # of one batch, by scene and method
        self._embeddings: dict[str, Tensor] = {}  # by scene

    @property
    def model(self) -> BlipDiffusion:
        if self._model is None:
            self._model = load_model(self.name)
        return self._model

    @property
    def segmenter(self) -> SegmenterNet:
        if self._segmenter is None:
            self._segmenter = load_segmenter()
        return self._segmenter

    def sources(self, out: Path, cases: Sequence[Case], kind: str) -> None:
        """The images that are edited."""
        self._inversions.clear()
        paths = [image_path(out, "source", kind, case.scene) for case in cases]
        if all(path.exists() for path in paths):
            return
        if kind == "real":
            images = [Image.fromarray(case.source.image) for case in cases]
        else:
            # as an edit's own first prompt: what `edit_batch` starts from
            plain = [
                Edit(source_prompt=c.scene.source_prompt, target_prompt=c.scene.source_prompt, seed=c.scene.seed)
                for c in cases
            ]
            images = [result.source for result in edit_batch(self.model, plain, EditConfig(mode=None, mask="none"))]
        _write(images, paths)

    def row(self, out: Path, cases: Sequence[Case], kind: str, row: str) -> None:
        """One row's images of some scenes, and its masks."""
        paths = [image_path(out, row, kind, case.scene) for case in cases]
        if all(path.exists() for case in cases for path in _files(out, row, kind, case)):
            return
        sources = [read_image(image_path(out, "source", kind, case.scene)) for case in cases]
        if row in EDITED:
            results = self.edits(cases, sources if kind == "real" else [None] * len(cases), row)
            _write(
                [result.mask or result.image for result in results], [mask_path(out, row, kind, c.scene) for c in cases]
            )
            images = [result.image for result in results]
        elif row == "from-scratch":
            other = [image_path(out, row, KINDS[0], case.scene) for case in cases]
            if kind != KINDS[0] and all(path.exists() for path in other):  # does not depend on the source
                _write([read_image(path) for path in other], paths)
                return
            images = self.model(
                [f"a {{}} {case.scene.context}" for case in cases],
                target_subject=[case.scene.subject.class_noun for case in cases],
                subject_embeddings=torch.cat([self.embedding(case) for case in cases]),
                seeds=[case.scene.seed for case in cases],
            )
        elif row == "paste":
            pairs = zip(cases, sources, strict=True)
            images = [paste_reference(case.references[0], source, self.segmenter) for case, source in pairs]
        else:
            images = sources if row == "no-edit" else [Image.fromarray(case.answer.image) for case in cases]
        _write(images, paths)

    def edits(self, cases: Sequence[Case], sources: Sequence[Image.Image | None], row: str) -> list[EditResult]:
        """Edits by `edit_batch`; without the subject in row "prompt-to-prompt"."""
        plain = row == "prompt-to-prompt"
        requests = [
            Edit(
                source=source,
                source_prompt=f"a {{{case.scene.source_noun}}} {case.scene.context}",
                target_prompt=case.scene.target_prompt.replace("{} ", "") if plain else case.scene.target_prompt,
                subject_embeddings=None if plain else self.embedding(case),
                seed=case.scene.seed,
                inversion=self._inversions.get(f"{case.scene.name} {EDITED[row].inversion}"),
            )
            for case, source in zip(cases, sources, strict=True)
        ]
        results = edit_batch(self.model, requests, EDITED[row])
        for case, result in zip(cases, results, strict=True):
            if result.inversion is not None:
                self._inversions[f"{case.scene.name} {result.inversion.method}"] = result.inversion
        return results

    def embedding(self, case: Case) -> Tensor:
        """The subject's mean vectors (1, Q, D)."""
        if case.scene.name not in self._embeddings:
            noun = case.scene.subject.class_noun
            self._embeddings[case.scene.name] = self.model.mean_subjects(case.references, noun)
        return self._embeddings[case.scene.name]


def paste_reference(reference: Image.Image, source: Image.Image, network: SegmenterNet) -> Image.Image:
    """The reference's subject, cut out, put where the source's subject is and as high as it."""
    cut, room = segment(network, [reference, source])
    if not cut.any() or not room.any():
        return source
    left, top, right, bottom = _box(cut)
    room_left, room_top, room_right, room_bottom = _box(room)
    height = room_bottom - room_top
    width = max(1, round((right - left) * height / (bottom - top)))
    size, at = (width, height), ((room_left + room_right - width) // 2, room_top)
    mask = Image.fromarray(cut.astype(np.uint8) * 255)
    result = source.copy()
    result.paste(
        reference.crop((left, top, right, bottom)).resize(size), at, mask.crop((left, top, right, bottom)).resize(size)
    )
    return result


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _write(images: Sequence[Image.Image], paths: Sequence[Path]) -> None:
    for image, path in zip(images, paths, strict=True):
        write_png(image, path)
