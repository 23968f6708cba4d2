"""`bdkit generate`: a subject in new contexts, from a fine-tuned folder or zero-shot from images."""

import argparse
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from bdkit.checkpoints.adapters import is_adapter, learned_words, load_drawable
from bdkit.checkpoints.load import checkpoint_hash
from bdkit.commands.control import ControlFlags, control_record, make_control
from bdkit.commands.loading import ModelFlags
from bdkit.commands.outputs import check_free
from bdkit.methods.base import check_class_noun, make_scheduler
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.prompts import split_prompt
from bdkit.models.subjects import group_subjects, mean_subjects
from bdkit.utils.config import add_dataclass_arguments, config_from_args, parse_numbers
from bdkit.utils.env import device_name, library_versions, pick_device
from bdkit.utils.errors import InputError
from bdkit.utils.images import list_images, read_image, write_png
from bdkit.utils.io import file_hash, read_json, write_json

CHUNK = 4  # images drawn together; fixed, so that a resumed run makes the same bytes
RUN_FILE = "run.json"


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(ControlFlags, ModelFlags):
    """What is drawn.

    prompt: what to draw, with {} where the subject goes, such as "a {} in the snow"
    out: folder for the images and their run.json
    model: folder or id of a model, the name of a shipped one, or what `bdkit finetune` wrote
    images: folder with images of the subject, for zero-shot
    subject: class word of the subject, such as dog
    target_subject: class word in the prompt, when another than the subject's
    seeds: one image a seed, such as 0-3,7
    negative_prompt: what not to draw; none: the model's own
    guidance_scale: how strictly to follow the prompt; none: the model's own
    num_inference_steps: denoising steps; none: the model's own
    scheduler: name of a diffusers scheduler class, such as DDIMScheduler; none: the model's own
    prompt_reps: how often the text is repeated; none: the model's own
    template: where the subject's vectors stand, place, public or paper; none: as the model was trained
    height: in pixels; none: the model's own
    width: in pixels; none: the model's own
    reference_weights: how much each image of --images counts, in the order of their names
    dtype: of the computation: float32, float16 or bfloat16
    cpu_offload: keep on the GPU only the part that is at work
    """

    prompt: str
    out: Path
    images: Path | None = None
    subject: str | None = None
    target_subject: str | None = None
    seeds: str = "0"
    negative_prompt: str | None = None
    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    scheduler: str | None = None
    prompt_reps: int | None = None
    template: Literal["place", "public", "paper"] | None = None
    height: int | None = None
    width: int | None = None
    reference_weights: tuple[float, ...] = ()
    cpu_offload: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.prompt.strip():
            raise InputError("the prompt is empty; say what to draw, such as 'a {} in the snow'")
        if self.num_inference_steps is not None and self.num_inference_steps < 1:
            raise InputError(f"num_inference_steps is {self.num_inference_steps}; use at least 1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `GenerateConfig`."""
    add_dataclass_arguments(parser, GenerateConfig)
    parser.add_argument("--overwrite", action="store_true", help="draw again what --out already holds")


def run(args: argparse.Namespace) -> int:
    """Draws the images that are not there yet."""
    config = config_from_args(GenerateConfig, args)
    seeds = parse_numbers(config.seeds)
    check_free(config.out, overwrite=True)
    references = list_images(config.images) if config.images else []
    pictures = [read_image(path) for path in references]
    model = load_drawable(config.model, config.options)
    class_noun = _class_noun(config, model)
    scheduler = make_scheduler(config.scheduler, model)
    split_prompt(config.prompt, config.target_subject or class_noun)
    record = {
        "settings": _drawn_settings(config),
        "checkpoint": checkpoint_hash(config.model),
        "references": {path.name: file_hash(path) for path in references},
        "structures": control_record(config),
    }
    if is_adapter(Path(config.model)):
        record["base_checkpoint"] = model.record["finetuned"]["checkpoint"]
    todo = _open_chunks(config.out, seeds, record, args.overwrite)
    if not todo:
        print(f"All {len(seeds)} images are already in {config.out}.")
        return 0
    height, width = config.height or model.resolution, config.width or model.resolution
    control = make_control(config, config.model, height, width)
    device = torch.device(pick_device())
    if config.cpu_offload and device.type != "cpu":
        model.enable_cpu_offload(device)
    else:
        model.to(device)
    embeddings = None
    if pictures:
        assert class_noun is not None
        embeddings = mean_subjects(model, group_subjects(pictures, class_noun, config.reference_weights or None))
    elif model.subject_embeddings is not None:
        embeddings = model.subject_embeddings
    started = False
    bar = tqdm(total=sum(map(len, todo)), desc=config.prompt, unit=" images", dynamic_ncols=True)
    for chunk in todo:
        drawn = model(
            config.prompt,
            source_subject=class_noun,
            target_subject=config.target_subject,
            subject_embeddings=embeddings,
            negative_prompt=config.negative_prompt,
            guidance_scale=config.guidance_scale,
            num_inference_steps=config.num_inference_steps,
            scheduler=scheduler,
            prompt_reps=config.prompt_reps,
            template=config.template,
            height=config.height,
            width=config.width,
            seeds=chunk,
            control=control,
        )
        if not started:
            _start(config.out, record, args.overwrite)
            started = True
        for seed, picture in zip(chunk, drawn, strict=True):
            if not _path(config.out, seed).exists():
                write_png(picture, _path(config.out, seed))
        bar.update(len(chunk))
    bar.close()
    write_json(
        {
            **record,
            "model": model.settings(),
            "seeds": [int(path.stem) for path in _finished(config.out)],
            "device": device_name(),
            "libraries": library_versions(),
        },
        config.out / RUN_FILE,
    )
    print(f"The images are in {config.out}.")
    return 0


def _drawn_settings(config: GenerateConfig) -> dict[str, Any]:
    """What an image depends on, as JSON holds it; images are named by their hashes elsewhere."""
    settings = {k: v for k, v in asdict(config).items() if k not in ("seeds", "out", "images", "control")}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}


def _class_noun(config: GenerateConfig, model: BlipDiffusion) -> str | None:
    """The subject's class word, after all that can be wrong about the subject was checked.

    Of a subject that was learned as words, these, where the prompt has a place for them; else the prompt is literal.
    """
    words = learned_words(model)
    if words is not None:
        _check_learned(config, words, model.record["finetuned"]["class_noun"])
        return words if "{}" in config.prompt else None
    known = model.record.get("class_nouns")
    for word in (config.subject, config.target_subject):
        if word is not None:
            check_class_noun(word, known)
    cached = model.subject_class
    if config.images:
        if model.subject_embeddings is not None:
            raise InputError(
                f"{config.model} already holds a subject ({cached or 'class unknown'}); leave --images out, or use "
                "--model mini"
            )
        if config.subject is None:
            raise InputError("--images needs --subject, the class word of what they show, such as --subject dog")
        return config.subject
    if cached is not None and config.subject not in (None, cached):
        raise InputError(
            f"{config.model} holds a {cached}, not a {config.subject}; leave --subject out, "
            f"or say --target-subject {config.subject}"
        )
    if model.subject_embeddings is not None and cached is None and config.subject is None:
        raise InputError(f"{config.model} holds a fine-tuned subject, but not its class word; name it with --subject")
    if cached is None and config.subject is None and "{}" in config.prompt:
        raise InputError("the prompt has a place for a subject; give --images and --subject, or a fine-tuned --model")
    return cached or config.subject


def _check_learned(config: GenerateConfig, words: str, class_noun: str) -> None:
    """Raises InputError for another subject than the one that `words` stand for."""
    if config.images:
        raise InputError(
            f"{config.model} already holds a subject ({class_noun}); leave --images out, or use --model mini"
        )
    if config.subject not in (None, class_noun):
        raise InputError(f"{config.model} holds a {class_noun}, not a {config.subject}; leave --subject out")
    if config.target_subject is not None:
        raise InputError(f"{config.model} draws its subject by the words {words!r}; leave --target-subject out")


def _open_chunks(out: Path, seeds: list[int], record: dict[str, Any], overwrite: bool) -> list[list[int]]:
    """The fixed chunks of seeds that hold a missing image.

    Raises InputError when `out` holds images of other settings and `overwrite` is False.
    """
    there = read_json(out / RUN_FILE) if (out / RUN_FILE).exists() else {}
    same = all(there.get(key) == value for key, value in record.items())
    if not same and not overwrite and _finished(out):
        raise InputError(f"{out} holds images of another command; choose another --out, or add --overwrite")
    chunks = [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]
    return [chunk for chunk in chunks if overwrite or not all(_path(out, seed).exists() for seed in chunk)]


def _start(out: Path, record: dict[str, Any], overwrite: bool) -> None:
    """Writes the run record; with `overwrite` the images that an earlier record stood for go first."""
    if overwrite and (out / RUN_FILE).exists():
        for path in _finished(out):
            path.unlink()
    write_json(record, out / RUN_FILE)


def _finished(out: Path) -> list[Path]:
    return sorted(path for path in out.glob("*.png") if re.fullmatch(r"\d{5,}", path.stem))


def _path(out: Path, seed: int) -> Path:
    return out / f"{seed:05d}.png"
