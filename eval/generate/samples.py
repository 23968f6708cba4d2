"""What a model in training draws or writes, and its scores: always of the same images, with the same seeds."""

import math
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from diffusers import ControlNetModel
from PIL import Image

from bdkit.editing.structure_control import StructureControl
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.latent_diffusion import LatentDiffusion
from bdkit.models.preprocessing import centre_crop
from bdkit.models.prompts import subject_template
from bdkit.training.pretraining.multimodal_representation import MultimodalRepresentation
from bdkit.training.shards.read import Shards
from bdkit.training.shards.samples import PairSamples
from bdkit.utils.edges import canny
from bdkit.utils.env import pick_device
from bdkit.utils.errors import InputError
from bdkit.utils.images import write_png
from dreambench.photos import photos_folder
from dreambench.registry import load_suite
from dreambench.suites import Suite
from eval.generate.references import load_references, prepare
from eval.report.grid import image_grid, spread
from eval.results_dir import ImageId
from eval.score.edit_metrics import edge_f1, strong_edges
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


class ControlSamples:
    """Draws by the edges of a few images with a ControlNet in training: edges | drawn | image; scored by `edge_f1`."""

    def __init__(self, net: ControlNetModel, model: LatentDiffusion, shards: Shards, count: int = 6) -> None:
        self.net, self.model = net, model
        self.records = [shards[number] for number in spread(range(len(shards)), count)]

    @torch.no_grad()
    def __call__(self, folder: Path) -> tuple[Image.Image, dict[str, float]]:
        """The grid, with the captions, and the mean F1 of the edges of what was drawn and of the image."""
        size = self.model.resolution
        images = [centre_crop(Image.fromarray(record.image()), size) for record in self.records]
        edges = [Image.fromarray(canny(np.asarray(image))) for image in images]
        captions = [re.sub("[{}]", "", record.details["caption"] or "") for record in self.records]
        drawn = self.model(
            captions,
            seeds=range(len(captions)),
            control=StructureControl(self.net, edges),
            num_inference_steps=min(STEPS, self.model.defaults.num_inference_steps),
        )
        pairs = [[strong_edges(np.asarray(image)) for image in pair] for pair in zip(images, drawn, strict=True)]
        rows = [list(row) for row in zip(edges, drawn, images, strict=True)]
        return image_grid(rows, lines=captions), {"edge_f1": fmean(edge_f1(*pair) for pair in pairs)}


class CaptionSamples:
    """The captions that stage 1 writes of a few images; how often it finds an image's caption, and the reverse."""

    def __init__(
        self, module: MultimodalRepresentation, pairs: PairSamples, shards: Shards, count: int = 64, shown: int = 6
    ) -> None:
        self.module, self.shown = module, shown
        self.pairs = replace(pairs, config=replace(pairs.config, min_crop=1.0))  # the middle of each image
        self.records = [shards[number] for number in spread(range(len(shards)), count)]

    @torch.no_grad()
    def __call__(self, folder: Path) -> tuple[Image.Image, dict[str, float]]:
        """Images under the captions written of them, and both shares; of equal captions each is right."""
        samples = [self.pairs(record, np.random.default_rng(0)) for record in self.records]
        pixels, ids, mask = (part.to(self.module.temperature.device) for part in self.pairs.collate(samples))
        tokens = self.module.encoder.encode_image(pixels)
        queries, words = self.module.features(tokens, ids, mask)
        similarity = torch.einsum("bqd,wd->bwq", queries, words).amax(-1)
        right = (ids[:, None] == ids[None]).all(-1)
        found = {"caption_found": similarity, "image_found": similarity.T}
        shares = {name: right.gather(1, x.argmax(1, keepdim=True)).float().mean().item() for name, x in found.items()}
        tokenizer = self.pairs.tokenizer
        written = self.module.write_words(tokens[: self.shown], tokenizer.sep_token_id)
        texts = tokenizer.batch_decode(written, skip_special_tokens=True)
        images = [Image.fromarray(image) for image, _ in samples[: self.shown]]
        return image_grid([images], columns=texts, tile=192), shares
