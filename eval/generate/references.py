"""What the subjects look like: the photos of a suite, or what the mini world draws."""

from pathlib import Path

import numpy as np
from PIL import Image

from bdkit.miniworld.render import Rendering, render
from bdkit.miniworld.scenes import CONTEXTS, STUDIO, sample_scene, scene_for_prompt
from bdkit.miniworld.subjects import Subject, sample_subject
from bdkit.utils.images import read_image, write_png
from bdkit.utils.io import file_hash
from bdkit.utils.seeds import derive_seed
from dreambench.photos import check_photos, photo_paths, photos_folder
from dreambench.suites import Suite, SuiteSubject
from eval.results_dir import REFERENCES, save_suite


def prepare(suite: Suite, out: Path, photos: Path | None = None) -> None:
    """Writes OUT/suite.json and the references of a procedural suite, or checks that the photos exist."""
    if suite.source == "photos":
        check_photos(photos_folder(photos), suite)
    save_suite(suite, out)
    if suite.source == "procedural":
        for subject in suite.subjects:
            paths = [out / REFERENCES / subject.name / f"{number:02d}.png" for number in range(subject.n_references)]
            if not all(path.exists() for path in paths):
                for path, image in zip(paths, draw_references(suite, subject), strict=True):
                    if not path.exists():
                        write_png(image, path)


def load_references(suite: Suite, subject: SuiteSubject, photos: Path | None = None) -> list[Image.Image]:
    """One subject's references without a results folder: drawn, or the photos of `photos` (see `photos_folder`)."""
    if suite.source == "procedural":
        return draw_references(suite, subject)
    return [read_image(path) for path in photo_paths(photos_folder(photos), subject)]


def photo_hashes(suite: Suite, photos: Path | None = None) -> dict[str, list[str]]:
    """A subject's name -> the SHA-256 of its photos; empty for a procedural suite."""
    if suite.source == "procedural":
        return {}
    folder = photos_folder(photos)
    return {one.name: [file_hash(path) for path in photo_paths(folder, one)] for one in suite.subjects}


def draw_references(suite: Suite, subject: SuiteSubject) -> list[Image.Image]:
    """A procedural subject's references: one in the studio, the others in different contexts, as it is, unchanged."""
    shown = individual(suite, subject)
    key = ("references", suite.split, suite.seed, subject.name)
    shuffled = sorted(CONTEXTS, key=lambda context: derive_seed(*key, context))
    contexts = sorted(
        [STUDIO, *shuffled[: subject.n_references - 1]], key=lambda context: derive_seed(*key, 1, context)
    )
    rng = np.random.default_rng(derive_seed(*key))
    scenes = [sample_scene(shown, rng, context=context, outfit=None, change=None) for context in contexts]
    return [Image.fromarray(render(scene).image) for scene in scenes]


def draw_ground_truth(suite: Suite, subject: SuiteSubject, prompt_template: str, seed: int) -> Image.Image:
    """The mini world's own image of a procedural subject and a prompt."""
    return Image.fromarray(render_prompt(suite, subject, prompt_template, seed).image)


def render_prompt(suite: Suite, subject: SuiteSubject, prompt_template: str, seed: int) -> Rendering:
    """The same with the subject's mask."""
    return render(scene_for_prompt(individual(suite, subject), prompt_template, seed))


def individual(suite: Suite, subject: SuiteSubject) -> Subject:
    """The mini world's individual that a procedural subject is."""
    assert suite.split is not None
    key = f"{suite.split}/{suite.seed}/{subject.name}"
    return sample_subject(subject.class_noun, key=key, split=suite.split)
