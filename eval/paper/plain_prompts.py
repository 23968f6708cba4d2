"""Prompts without a subject, and their images: of a suite's class nouns, and captions of the mini world's scenes.

An image's noise follows from its prompt alone, so two models draw the same prompt from the same noise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bdkit.miniworld.captions import caption_template
from bdkit.miniworld.render import render
from bdkit.miniworld.scenes import STUDIO, Scene
from bdkit.miniworld.truth import truth
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.latent_diffusion import LatentDiffusion
from bdkit.models.prompts import one_placeholder
from bdkit.training.pretraining.corpus import CorpusConfig, corpus_scene
from bdkit.utils.images import read_image, write_png
from bdkit.utils.io import remove_unfinished, safe_name
from bdkit.utils.progress import progress_bar
from bdkit.utils.seeds import derive_seed
from dreambench.registry import class_nouns
from dreambench.suites import Suite
from eval.score.metrics import expected_output

BATCH = 16  # images together; fixed, so that a resumed run makes the same bytes
READ = 256  # images in memory
SUITE, CAPTION = "suite", "caption"
# Scenes as stage 2's corpus has them: a third of live subjects, outfits on half of these, changes on a quarter
SCENES = CorpusConfig(live_share=1 / 3, outfit_share=0.5, change_share=0.25)

Draw = Callable[[list[str], list[str], list[int]], list[Image.Image]]
"""Templates with one {}, their class nouns and seeds -> an image each."""


@dataclass(frozen=True, kw_only=True)
class PlainPrompt:
    """One text without a subject.

    kind: "suite", a suite's prompt with a class noun of it, or "caption", of a scene of the mini world
    name: of its files
    template: with one {} for the class noun
    expected: what the classifier must find: output -> index; () for a suite of photos
    """

    kind: str
    name: str
    template: str
    class_noun: str
    expected: tuple[tuple[str, int], ...] = ()

    @property
    def text(self) -> str:
        """As CLIP-T reads it."""
        return self.template.replace("{}", self.class_noun)

    def seed(self, seed_set: int, sample: int) -> int:
        """Of the noise."""
        return derive_seed("plain prompt", self.name, self.text, seed_set, sample)


def suite_prompts(suite: Suite) -> list[PlainPrompt]:
    """Every prompt of a suite with every class noun that it has there, once each."""
    nouns, prompts = list(class_nouns()), []
    for subject in {subject.class_noun: subject for subject in suite.subjects}.values():
        for prompt in suite.prompts(subject):
            expected: tuple[tuple[str, int], ...] = ()
            if suite.source == "procedural":
                expected = (("class", nouns.index(subject.class_noun)), expected_output(prompt))
            prompts.append(
                PlainPrompt(
                    kind=SUITE,
                    name=f"{safe_name(subject.class_noun)}-{prompt.index:02d}",
                    template=one_placeholder(prompt.template),
                    class_noun=subject.class_noun,
                    expected=expected,
                )
            )
    return prompts


def caption_prompts(split: str, count: int) -> list[PlainPrompt]:
    """Captions of scenes of a split's individuals, worded as those that the base learned from."""
    prompts = []
    for number in range(count):
        scene, rng = _scene(split, number)
        template, noun = caption_template(scene, rng), scene.subject.class_noun
        name = f"caption-{number:05d}"
        prompts.append(
            PlainPrompt(kind=CAPTION, name=name, template=template, class_noun=noun, expected=_expected(scene))
        )
    return prompts


def render_scenes(folder: Path, split: str, count: int, *, reference: bool) -> list[Path]:
    """The mini world's own images, on disk, of the captions' scenes, or of as many others like them."""
    paths = [folder / f"caption-{number:05d}-0.png" for number in range(count)]
    for number, path in enumerate(paths):
        if not path.exists():
            scene, _ = _scene(split, number, reference=reference)
            write_png(Image.fromarray(render(scene).image), path)
    return paths


def _scene(split: str, number: int, *, reference: bool = False) -> tuple[Scene, np.random.Generator]:
    """A caption's scene, or one that the Fréchet distance compares with; those of no other split, and of no corpus."""
    seed = derive_seed("plain scenes", split, "references" if reference else "captions")
    return corpus_scene(CorpusConfig(**{**vars(SCENES), "split": split, "seed": seed}), number)


def _expected(scene: Scene) -> tuple[tuple[str, int], ...]:
    """The class, and the outfit, change or context that every caption of the scene names."""
    facts, outputs = truth(scene), ["class"]
    if scene.outfit or scene.change:
        outputs.append("outfit" if scene.outfit else "change")
    elif scene.context != STUDIO:
        outputs.append("context")
    return tuple((name, int(facts[f"{name}_index"])) for name in outputs)


def make_images(
    folder: Path,
    prompts: Sequence[PlainPrompt],
    samples: int,
    seed_set: int,
    draw: Callable[[], Draw],
    *,
    show_progress: bool = True,
) -> list[Path]:
    """Draws the images that a folder lacks, in fixed batches, and returns all: of each prompt its samples.

    draw: makes what draws; called when the first image is missing
    """
    items = [(prompt, sample) for prompt in prompts for sample in range(samples)]
    paths = [folder / f"{prompt.name}-{sample}.png" for prompt, sample in items]
    drawer: Draw | None = None
    remove_unfinished(folder)
    with progress_bar(total=len(items), desc=folder.name, unit=" images", show=show_progress) as bar:
        for start in range(0, len(items), BATCH):
            batch = slice(start, start + BATCH)
            if not all(path.exists() for path in paths[batch]):
                drawer = drawer or draw()
                images = drawer(
                    [prompt.template for prompt, _ in items[batch]],
                    [prompt.class_noun for prompt, _ in items[batch]],
                    [prompt.seed(seed_set, sample) for prompt, sample in items[batch]],
                )
                for image, path in zip(images, paths[batch], strict=True):
                    write_png(image, path)
            bar.update(len(items[batch]))
    return paths


def plain_draw(model: LatentDiffusion, subjects: Mapping[str, Tensor] | None = None) -> Draw:
    """Draws with a model: plain text-to-image, or with the vectors (1, Q, D) of a subject of each class noun."""
    if isinstance(model, BlipDiffusion):
        model.subject_embeddings = None  # of a fine-tuned model

    def draw(templates: list[str], nouns: list[str], seeds: list[int]) -> list[Image.Image]:
        given: dict[str, Any] = (
            {} if subjects is None else {"subject_embeddings": torch.cat([subjects[noun] for noun in nouns])}
        )
        images: list[Image.Image] = model(templates, target_subject=nouns, seeds=seeds, **given)
        return images

    return draw


def in_parts(paths: Sequence[Path], embed: Callable[[list[Image.Image]], np.ndarray]) -> np.ndarray:
    """What `embed` gives for images on disk, (n, d), with a few hundred in memory at a time."""
    parts = (paths[start : start + READ] for start in range(0, len(paths), READ))
    return np.concatenate([embed([read_image(path) for path in part]) for part in parts])
