"""`bdkit attention`: where each of a subject's vectors and each word looks, as a figure and a table.

examples:
  bdkit attention mini/dog --prompt "a {} in the snow" --out attention
  bdkit attention my-photos --subject dog --prompt "a {} on a sofa" --image photo.jpg --mask mask.png --out attention
"""

import argparse
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from bdkit.checkpoints.config import CheckpointConfig
from bdkit.utils.config import add_dataclass_arguments, config_from_args
from bdkit.utils.errors import InputError
from bdkit.utils.seeds import check_seed
from eval.commands.interpolate import find_subject


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(CheckpointConfig):
    """Attention.

    who: folder with images of the subject, or one of a suite's, such as mini/dog
    subject: class word of the subject; of a suite's subject: its own
    prompt: what the image shows, with {} where the subject is
    image: the image that is looked at; default: the mini world's own, with its true mask, for a mini suite's subject
        and a prompt of DreamBench; else one that the model generates
    mask: the subject in --image, white where it is
    steps: number of timesteps, evenly spaced
    seed: of the image, where it is drawn, and of the noise that is added to it
    out: folder for attention.png, attention.csv, image.png and run.json; the same command makes all of them again
    overwrite: replace what --out holds
    """

    who: str = field(metadata={"positional": True, "metavar": "SUBJECT"})
    out: Path
    subject: str | None = None
    prompt: str = "a {} in the snow"
    image: Path | None = None
    mask: Path | None = None
    steps: int = 10
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.prompt.count("{}") != 1:
            raise InputError(f"--prompt {self.prompt!r} needs one {{}} where the subject is, such as 'a {{}}'")
        check_seed(self.seed)
        if self.mask is not None and self.image is None:
            raise InputError("--mask belongs to an image; give that with --image")
        if not 1 <= self.steps <= 1000:
            raise InputError(f"--steps is {self.steps}; use 1 to 1000")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `AttentionConfig`."""
    add_dataclass_arguments(parser, AttentionConfig)


def run(args: argparse.Namespace) -> int:
    """Looks, and writes what it sees."""
    config = config_from_args(AttentionConfig, args)
    subject = find_subject(config.who, config.subject)

    import pandas as pd

    from bdkit.checkpoints.adapters import load_drawable
    from bdkit.checkpoints.load import checkpoint_hash
    from bdkit.editing.attention_maps import attention_maps, figure, mean_by_token, table
    from bdkit.methods.base import check_class_noun
    from bdkit.models.blip_diffusion import require_blip_diffusion
    from bdkit.utils.env import commit, device_name, library_versions, pick_device
    from bdkit.utils.images import read_image, write_png
    from bdkit.utils.io import (
        RUN_FILE,
        as_json,
        check_free,
        file_hash,
        holds_run,
        remove_unfinished,
        write_json,
        write_text,
    )

    image = None if config.image is None else read_image(config.image)
    mask = None if config.mask is None else read_image(config.mask)
    settings = {name: value for name, value in asdict(config).items() if name not in ("out", "overwrite")}
    record: dict[str, Any] = {
        "settings": as_json(settings),
        "checkpoint": checkpoint_hash(config.model),
        "subject": {key: value for key, value in subject.items() if key != "images"},
        "image": {path.name: file_hash(path) for path in (config.image, config.mask) if path is not None},
    }
    check_free(config.out, overwrite=config.overwrite or holds_run(config.out, record))
    if image is None:
        image, mask = draw_scene(config.who, config.prompt, config.seed)
    model = require_blip_diffusion(load_drawable(config.model, config.options))
    noun = subject["class_noun"]
    check_class_noun(noun, model.record.get("class_nouns"))
    model.to(pick_device())
    vectors = model.mean_subjects(subject["images"], noun)
    if image is None:
        (image,) = model(config.prompt, subject_embeddings=vectors, target_subject=noun, seeds=[config.seed])
    prompt = " ".join(config.prompt.replace("{}", f" {{}} {noun} ").split())
    found = attention_maps(model, image, prompt, vectors, steps=config.steps, seed=config.seed)
    rows = table(found, mask)
    means = pd.DataFrame(mean_by_token(rows)).drop(columns=["layer", "timestep"])
    remove_unfinished(config.out)
    write_json(record, config.out / RUN_FILE)  # first: a run that is killed from here on can be repeated
    write_png(image, config.out / "image.png")
    write_png(figure(found, image, mask), config.out / "attention.png")
    write_text(pd.DataFrame(rows).to_csv(index=False, float_format="%.4f"), config.out / "attention.csv")
    record |= {
        "model": model.settings(),
        "device": device_name(),
        "libraries": library_versions(),
        "commit": commit(),
    }
    write_json(record, config.out / RUN_FILE)
    print(means.dropna(axis=1, how="all").round(3).to_string(index=False))
    print(f"The figure is in {config.out}.")
    return 0


def draw_scene(name: str, prompt: str, seed: int) -> tuple[Image.Image | None, Image.Image | None]:
    """The mini world's image and mask of a DreamBench prompt, of a subject like mini/dog; else None."""
    from bdkit.miniworld.scenes import PROMPT_PARTS
    from dreambench.registry import load_suite
    from eval.generate.references import render_prompt

    suite_name, mark, subject_name = name.rpartition("/")
    template = prompt.replace("{}", "{} {}")
    if Path(name).is_dir() or not mark or not suite_name.startswith("mini") or template not in PROMPT_PARTS:
        return None, None
    suite = load_suite(suite_name)
    subject = next(subject for subject in suite.subjects if subject.name == subject_name)
    drawn = render_prompt(suite, subject, template, seed)
    return Image.fromarray(drawn.image), Image.fromarray(drawn.alpha)
