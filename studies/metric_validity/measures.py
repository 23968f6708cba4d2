"""Every metric that the mini world can feed, on images whose subject's mask is known exactly."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from dreambench.registry import class_nouns
from dreambench.suites import Prompt, Suite
from eval.score.edit_metrics import Edit, FloatArray
from eval.score.masks import keep, mean_colour
from eval.score.metrics import METRICS, VIEWS, Batch, copied, nearest_of_references, place_words
from eval.score.protocols import Preprocessing
from eval.score.weights import load_evaluators
from studies.metric_validity.damage import Shown

# the metrics of the study; copied_clip is `copied` with CLIP in DINO's place
MEASURED = (
    "dino", "clip_i", "clip_t", "identity", "retrieval", "class_right", "prompt_right", "dino_subject",
    "clip_i_subject", "clip_t_background", "copy_similarity", "copied", "copied_clip", "diversity", "ssim_outside",
)  # fmt: skip
_APART = ("copied_clip", "ssim_outside", "diversity")
IDENTITY, PROMPT, PLACE = "true_identity", "true_prompt", "true_place"
# what each metric is read as in a table, and the damage that takes just that away
TARGETS = {
    "dino": IDENTITY,
    "clip_i": IDENTITY,
    "clip_t": PROMPT,
    "identity": IDENTITY,
    "dino_subject": IDENTITY,
    "clip_i_subject": IDENTITY,
    "clip_t_background": PLACE,
    "prompt_right": PLACE,
}
YARDSTICKS = {IDENTITY: "another individual", PROMPT: "wrong place", PLACE: "wrong place"}
NO_PROMPT = Prompt(0, "a {} {}", "context")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """An image to measure.

    prompt: what it was asked for; None for a reference
    group: samples of one prompt are compared with each other within a group; None: not one of several samples
    source: the undamaged image, for the metrics of edits
    facts: the first columns of its row
    """

    shown: Shown
    prompt: Prompt | None = None
    group: int | None = None
    source: Shown | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def image(self) -> Image.Image:
        """The pixels as encoders take them."""
        return Image.fromarray(self.shown.image)


class Measurer:
    """Embeds images with the mini evaluators and scores them with every metric of MEASURED."""

    def __init__(self, suite: Suite, device: str = "cpu") -> None:
        self.suite = suite
        self.evaluators = load_evaluators("mini", device)
        self.references: list[dict[str, FloatArray]] = []
        self.oracle_nearest: dict[str, FloatArray] = {}

    def add_references(self, references: Sequence[Sequence[Judged]]) -> None:
        """Takes the references of each of the suite's subjects, in its order."""
        self.references = [self._embed(of_subject) for of_subject in references]
        self.oracle_nearest = {
            name: np.concatenate([nearest_of_references(embedded[name]) for embedded in self.references])
            for name in ("dino", "clip")
        }

    def measure(self, number: int, images: Sequence[Judged]) -> list[dict[str, float]]:
        """metric -> value of each image of the suite's subject `number`; what is not defined for one is left out."""
        batch = self._batch(number, images)
        columns = {name: METRICS[name].score(batch) for name in MEASURED if name in METRICS and name not in _APART}
        columns["copied_clip"] = copied(batch, "clip")
        columns["ssim_outside"] = self._kept_outside(batch, images)
        columns["diversity"] = self._diversity(batch, images)
        return [
            {name: float(values[row]) for name, values in columns.items() if np.isfinite(values[row])}
            for row in range(len(images))
        ]

    def _batch(self, number: int, images: Sequence[Judged]) -> Batch:
        noun = self.suite.subjects[number].class_noun
        prompts = tuple(judged.prompt or NO_PROMPT for judged in images)
        clip = self.evaluators.encoders["clip"]
        classifier = self.evaluators.classifier
        assert classifier is not None
        references = self.references[number]
        return Batch(
            generated=self._embed(images),
            references=references,
            pairs=np.ones((len(images), len(references["dino"])), dtype=bool),
            texts=clip.embed_texts([prompt.text(noun) for prompt in prompts]),
            more_texts={"clip_background": clip.embed_texts([place_words(prompt) or "a" for prompt in prompts])},
            predictions=classifier.predict([judged.image for judged in images]),
            prompts=prompts,
            gallery=tuple(embedded["identity"] for embedded in self.references),
            oracle_nearest=self.oracle_nearest,
            subject_index=number,
            class_index=class_nouns().index(noun),
        )

    def _embed(self, images: Sequence[Judged]) -> dict[str, FloatArray]:
        encoders = self.evaluators.encoders
        whole = [judged.image for judged in images]
        embedded = {name: encoder.embed_images(whole) for name, encoder in encoders.items()}
        for name, (encoder, kept) in VIEWS.items():
            how: Preprocessing = encoders[encoder].how
            fill = mean_colour(how)
            views = [keep(judged.image, judged.shown.alpha.astype(np.float64), kept, fill) for judged in images]
            embedded[name] = encoders[encoder].embed_images(views)
        return embedded

    def _kept_outside(self, batch: Batch, images: Sequence[Judged]) -> FloatArray:
        """SSIM outside the subject of the undamaged image; NaN without one."""
        values = np.full(len(images), np.nan)
        sources = {row: judged.source for row, judged in enumerate(images) if judged.source is not None}
        pairs = [(images[row].shown, source) for row, source in sources.items()]
        edits = [Edit(image=shown.image, source=source.image, mask=source.alpha) for shown, source in pairs]
        if edits:
            values[list(sources)] = METRICS["ssim_outside"].score(_with(batch, list(sources), edits=tuple(edits)))
        return values

    def _diversity(self, batch: Batch, images: Sequence[Judged]) -> FloatArray:
        """Diversity within each group of samples; NaN for images in none."""
        values = np.full(len(images), np.nan)
        for group in {judged.group for judged in images} - {None}:
            rows = [row for row, judged in enumerate(images) if judged.group == group]
            values[rows] = METRICS["diversity"].score(_with(batch, rows))
        return values


def _with(batch: Batch, rows: list[int], edits: tuple[Edit, ...] | None = None) -> Batch:
    """The batch of these images alone, with what the metrics of pixels and of samples need."""
    assert batch.prompts is not None
    return Batch(
        generated={name: values[rows] for name, values in batch.generated.items()},
        references=batch.references,
        pairs=batch.pairs[rows],
        prompts=tuple(batch.prompts[row] for row in rows),
        subject_index=batch.subject_index,
        class_index=batch.class_index,
        edits=edits,
    )
