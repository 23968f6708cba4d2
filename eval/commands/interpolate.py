"""`bdkit interpolate`: images between two subjects, zero-shot, as a strip and a GIF.

examples:
  bdkit interpolate photos-of-my-dog photos-of-your-dog --subject dog --out between
  bdkit interpolate mini/dog mini/dog6 --prompt "a {} in the snow" --out between
  bdkit interpolate mini/dog mini/cat --steps 13 --out between
"""

import argparse
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from bdkit.checkpoints.config import CheckpointConfig
from bdkit.utils.config import add_dataclass_arguments, config_from_args
from bdkit.utils.errors import InputError
from bdkit.utils.seeds import check_seed

MOST_STEPS = 100  # a strip of more cannot be looked at


@dataclass(frozen=True, kw_only=True)
class InterpolateConfig(CheckpointConfig):
    """Images between two subjects.

    first: folder with images of one subject, or one of a suite's, such as mini/dog
    second: the same of the other
    subject: class word of both, or of each with a comma between; of a suite's subject: its own
    prompt: what to draw, with {} where the subject goes
    steps: number of images, both ends included
    path: how the 16 vectors move: spherical keeps their length, linear does not
    seed: of the noise that all images start from
    guidance_scale: how strictly to follow the prompt; none: the model's own
    num_inference_steps: denoising steps; none: the model's own
    out: folder for the images, strip.png, walk.gif and run.json; the same command makes all of them again
    overwrite: replace what --out holds
    """

    first: str = field(metadata={"positional": True})
    second: str = field(metadata={"positional": True})
    out: Path
    subject: tuple[str, ...] = ()
    prompt: str = "a {}"
    steps: int = 9
    path: Literal["spherical", "linear"] = "spherical"
    seed: int = 0
    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if len(self.subject) > 2:
            raise InputError(f"--subject names {len(self.subject)} class words; give one, or one for each subject")
        if self.steps < 2:
            raise InputError(f"--steps {self.steps} leaves no room for both subjects; use at least 2")
        check_seed(self.seed)
        if self.steps > MOST_STEPS:
            raise InputError(f"--steps {self.steps} is more than a strip can show; use at most {MOST_STEPS}")
        if self.prompt.count("{}") != 1:
            raise InputError(
                f"--prompt {self.prompt!r} needs one {{}} where the subject goes, such as 'a {{}} in snow'"
            )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `InterpolateConfig`."""
    add_dataclass_arguments(parser, InterpolateConfig)


def run(args: argparse.Namespace) -> int:
    """Draws the walk."""
    config = config_from_args(InterpolateConfig, args)
    words = [*config.subject, *config.subject][:2] if config.subject else [None, None]
    subjects = [find_subject(name, word) for name, word in zip((config.first, config.second), words, strict=True)]

    from bdkit.checkpoints.adapters import load_drawable
    from bdkit.checkpoints.load import checkpoint_hash
    from bdkit.editing.interpolation import gif, strip, walk
    from bdkit.methods.base import check_class_noun
    from bdkit.models.blip_diffusion import require_blip_diffusion
    from bdkit.utils.env import commit, device_name, library_versions, pick_device
    from bdkit.utils.images import write_png
    from bdkit.utils.io import RUN_FILE, as_json, check_free, holds_run, remove_unfinished, write_bytes, write_json

    settings = {name: value for name, value in asdict(config).items() if name not in ("out", "overwrite")}
    record: dict[str, Any] = {
        "settings": as_json(settings),
        "checkpoint": checkpoint_hash(config.model),
        "subjects": [{key: value for key, value in s.items() if key != "images"} for s in subjects],
    }
    check_free(config.out, overwrite=config.overwrite or holds_run(config.out, record))
    model = require_blip_diffusion(load_drawable(config.model, config.options))
    for subject in subjects:
        check_class_noun(subject["class_noun"], model.record.get("class_nouns"))
    model.to(pick_device())
    first, second = (model.mean_subjects(subject["images"], subject["class_noun"]) for subject in subjects)
    images = walk(
        model,
        first,
        second,
        config.prompt,
        [subject["class_noun"] for subject in subjects],
        steps=config.steps,
        path=config.path,
        seed=config.seed,
        guidance_scale=config.guidance_scale,
        num_inference_steps=config.num_inference_steps,
    )
    remove_unfinished(config.out)
    write_json(record, config.out / RUN_FILE)  # first: a run that is killed from here on can be repeated
    for number, image in enumerate(images):
        write_png(image, config.out / f"{number:02d}.png")
    write_png(strip(images), config.out / "strip.png")
    write_bytes(gif(images), config.out / "walk.gif")
    record |= {
        "model": model.settings(),
        "device": device_name(),
        "libraries": library_versions(),
        "commit": commit(),
    }
    write_json(record, config.out / RUN_FILE)
    print(f"The images are in {config.out}.")
    return 0


def find_subject(name: str, class_noun: str | None) -> dict[str, Any]:
    """A subject's images, class noun, and what the run's record says of it.

    Args:
        name: a folder of images, or SUITE/SUBJECT.
        class_noun: needed for a folder; a suite's subject has its own.
    """
    from bdkit.utils.images import list_images, read_image
    from bdkit.utils.io import file_hash

    suite_name, mark, subject_name = name.rpartition("/")
    if Path(name).is_dir() or not mark or not suite_name.startswith(("mini", "dreambench")):
        paths = list_images(Path(name))
        if class_noun is None:
            raise InputError(f"--subject is missing: the class word of what the images in {name} show, such as dog")
        references: dict[str, str] = {path.name: file_hash(path) for path in paths}
        images: list[Image.Image] = [read_image(path) for path in paths]
        return {"name": name, "class_noun": class_noun, "references": references, "images": images}
    from dreambench.registry import load_suite
    from eval.generate.references import load_references

    suite = load_suite(suite_name)
    known = {subject.name: subject for subject in suite.subjects}
    if subject_name not in known:
        raise InputError(f"{suite_name} has no subject {subject_name!r}; it has {', '.join(known)}")
    subject = known[subject_name]
    noun = class_noun or subject.class_noun
    return {"name": name, "class_noun": noun, "suite": suite.hash, "images": load_references(suite, subject)}
