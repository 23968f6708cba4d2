"""What a model in training draws of held-out subjects, and its scores: always the same subjects, prompts and seeds."""

import math
from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image

from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.prompts import subject_template
from bdkit.utils.env import pick_device
from bdkit.utils.errors import InputError
from bdkit.utils.images import write_png
from dreambench.photos import photos_folder
from dreambench.registry import load_suite
from dreambench.suites import Suite
from eval.generate.references import load_references, prepare
from eval.report.grid import image_grid
from eval.results_dir import ImageId
from eval.score.score import Evaluators, ScoreOptions, load_evaluators, score_folder

METHOD = "zero-shot"
METRICS = ("dino", "clip_i", "clip_t")
STEPS = 20  # of the sampler, at most: samples are looked at, not published


def small_suite(name: str, photos: Path | None, subjects: int = 4, prompts: int = 4) -> Suite:
    """A few subjects and prompts of a suite, one image each; InputError when its photos are missing."""
    suite = load_suite(name, photos).limited(subjects=subjects, prompts=prompts, samples=1)
    if suite.source == "photos":
        photos_folder(photos)
    return suite


class SuiteSamples:
    """Draws a suite zero-shot with a model, and scores it where the evaluators can be had.

    Args:
        protocol: of the scores; None: that of the suite.
    """

    def __init__(
        self, model: BlipDiffusion, *, suite: Suite, photos: Path | None = None, protocol: str | None = None
    ) -> None:
        self.model, self.suite, self.photos = model, suite, photos
        protocol = protocol or ("mini" if suite.source == "procedural" else "dreambench")
        self.evaluators: Evaluators | None = None
        with suppress(InputError):  # no weights of DINO and CLIP here: a grid without scores
            self.evaluators = load_evaluators(protocol, pick_device())

    @torch.no_grad()
    def __call__(self, folder: Path) -> tuple[Image.Image, dict[str, float]]:
        """Writes the images as a results folder; returns their grid and the mean scores."""
        prepare(self.suite, folder, self.photos)
        rows, lines = [], []
        for subject in self.suite.subjects:
            references = load_references(self.suite, subject, self.photos)
            vectors = self.model.mean_subjects(references, subject.class_noun)
            images = references[:1]
            for prompt in self.suite.prompts(subject):
                one = ImageId(METHOD, 0, subject.name, prompt.index, 0)
                (image,) = self.model(
                    subject_template(prompt.template),
                    subject_embeddings=vectors,
                    target_subject=subject.class_noun,
                    seeds=[one.seed(self.suite.name)],
                    num_inference_steps=min(STEPS, self.model.defaults.num_inference_steps),
                )
                write_png(image, one.path(folder))
                images.append(image)
            rows.append(images)
            lines.append("; ".join(prompt.text(subject.class_noun) for prompt in self.suite.prompts(subject)))
        return image_grid(rows, lines=lines), self._scores(folder)

    def _scores(self, folder: Path) -> dict[str, float]:
        if self.evaluators is None:
            return {}
        options = ScoreOptions(workers=0)
        frame = score_folder(folder, self.evaluators, photos=self.photos, options=options, show_progress=False)
        means = frame[frame["method"] == METHOD].groupby("metric")["value"].mean()
        return {name: float(means[name]) for name in METRICS if name in means and math.isfinite(means[name])}
