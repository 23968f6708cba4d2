"""`bdkit generate`: images of a subject in new contexts, from a fine-tuned folder or zero-shot from images.

examples:
  bdkit generate --images photos/ --subject dog --prompt "a {} in the snow" --seeds 0-3 --out images
  bdkit generate --model my-dog --prompt "a {} in the snow" --out images
  bdkit generate --images photos/ --subject cat --prompt "a {}" --control canny=drawing.png --out images
"""

import argparse
import re
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bdkit.checkpoints.config import CheckpointConfig, SpeedConfig
from bdkit.utils.config import add_dataclass_arguments, config_from_args, flag_of, given_fields, parse_numbers
from bdkit.utils.env import device_name, library_versions, pick_device
from bdkit.utils.errors import InputError
from bdkit.utils.images import list_images, read_image, write_png
from bdkit.utils.io import RUN_FILE, as_json, check_free, check_unicode, file_hash, holds_run, write_json
from bdkit.utils.progress import progress_bar

CHUNK = 4  # images of one batch; fixed, so that a resumed run makes the same bytes


@dataclass(frozen=True, kw_only=True)
class SubjectConfig:
    """Subject.

    images: folder with images of the subject, for zero-shot
    subject: class word of the subject, such as dog
    target_subject: class word in the prompt, if it is another than the subject's
    reference_weights: how much each image of --images counts, in the order of their names
    """

    images: Path | None = None
    subject: str | None = None
    target_subject: str | None = None
    reference_weights: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Sampling (default: the model's own settings).

    negative_prompt: what not to draw
    guidance_scale: how strictly to follow the prompt
    num_inference_steps: denoising steps
    scheduler: name of a sampler: a diffusers class such as DDIMScheduler; any other word lists them
    prompt_reps: how often the text is repeated
    template: where the subject's vectors stand in the text
    height: in pixels
    width: in pixels
    """

    negative_prompt: str | None = None
    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    scheduler: str | None = None
    prompt_reps: int | None = None
    template: Literal["place", "public", "paper"] | None = None
    height: int | None = None
    width: int | None = None


@dataclass(frozen=True, kw_only=True)
class ControlConfig:
    """Structure to keep (Sec. 4.2).

    control: structures to keep, such as canny=photo.jpg; canny, depth, hed or scribble; several with commas between
    controlnet: folder or id of the ControlNet of each; default: the model's own for canny, a shipped or public one
    control_strength: how strictly each structure is kept, 1 as it was trained, 0 not at all
    control_start: share of the steps, 0 to 1, at which each begins
    control_end: share of the steps at which each ends
    control_guided: guidance strengthens the structure, too; shipped ControlNets do so anyway
    control_ready: the images are structure maps already, such as a drawn scribble
    """

    control: tuple[str, ...] = ()
    controlnet: tuple[str, ...] = ()
    control_strength: tuple[float, ...] = (1.0,)
    control_start: tuple[float, ...] = (0.0,)
    control_end: tuple[float, ...] = (1.0,)
    control_guided: bool = False
    control_ready: bool = False

    def __post_init__(self) -> None:
        if self.controlnet and len(self.controlnet) != len(self.control):
            raise InputError(f"{len(self.controlnet)} --controlnet for {len(self.control)} --control; give as many")


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(SubjectConfig, CheckpointConfig, SamplingConfig, ControlConfig, SpeedConfig):
    """Images.

    prompt: what to draw, with {} where the subject goes, such as "a {} in the snow"
    out: folder for the images and their run.json; finished images are kept
    seeds: one image a seed, such as 0-3,7
    cpu_offload: keep on the GPU only the part of the model that is at work
    overwrite: replace the images of another command that --out holds
    """

    prompt: str
    out: Path
    seeds: str = "0"
    cpu_offload: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.prompt.strip():
            raise InputError("the prompt is empty; say what to draw, such as 'a {} in the snow'")
        for name in ("prompt", "negative_prompt", "subject", "target_subject", "model", "base"):
            check_unicode(getattr(self, name) or "", flag_of(name))
        for name, least in (("num_inference_steps", 1), ("prompt_reps", 1), ("height", 1), ("width", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}; use at least {least}")
        if self.reference_weights and not self.images:
            raise InputError("--reference-weights needs --images, whose weights they are")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `GenerateConfig`."""
    add_dataclass_arguments(parser, GenerateConfig)


def run(args: argparse.Namespace) -> int:
    """Generates the images that do not exist yet."""
    config = config_from_args(GenerateConfig, args)
    idle = [] if config.control else [flag_of(name) for name in given_fields(ControlConfig, args) if name != "control"]
    if idle:
        raise InputError(f"{' and '.join(idle)} needs --control, such as --control canny=photo.jpg")
    return generate(config)


def generate(config: GenerateConfig) -> int:
    """The same for a config."""
    from bdkit.checkpoints.adapters import load_drawable
    from bdkit.checkpoints.load import checkpoint_hash
    from bdkit.models.blip_diffusion import BlipDiffusion, require_blip_diffusion
    from bdkit.models.prompts import split_prompt, subject_template
    from bdkit.models.speed import speed_up
    from bdkit.sampling import check_guidance, make_scheduler, with_timesteps

    if config.guidance_scale is not None:
        check_guidance(config.guidance_scale)
    config = replace(config, prompt=subject_template(config.prompt))
    split_prompt(config.negative_prompt or "", None)
    seeds = parse_numbers(config.seeds)
    check_free(config.out, overwrite=True, inputs=config.images)
    references = list_images(config.images) if config.images else []
    images = [read_image(path) for path in references]
    model = load_drawable(config.model, config.options)
    class_noun = _class_noun(config, model)
    if config.template is not None and not (images or getattr(model, "subject_embeddings", None) is not None):
        raise InputError("--template places a subject's vectors, and there are none; give --images, or leave it out")
    scheduler = make_scheduler(config.scheduler, model.scheduler)
    if config.num_inference_steps is not None:
        with_timesteps(scheduler, config.num_inference_steps)
    split_prompt(config.prompt, config.target_subject or class_noun)
    height, width = model.size(config.height, config.width)
    structures = [parse_control(text) for text in config.control]
    record: dict[str, Any] = {
        "settings": _settings(config),
        "checkpoint": checkpoint_hash(config.model),
        "references": {path.name: file_hash(path) for path in references},
        "structures": {f"{i}: {kind} of {path.name}": file_hash(path) for i, (kind, path) in enumerate(structures)},
    }
    if "base_checkpoint" in model.record:
        record["base_checkpoint"] = model.record["base_checkpoint"]
    chunks = _open_chunks(config, seeds, record)
    if not chunks:
        print(f"All {len(seeds)} images are already in {config.out}.")
        return 0
    control = _make_control(config, structures, height, width, model)
    if config.cpu_offload and pick_device() != "cpu":
        model.enable_cpu_offload(pick_device())
    else:
        model.to(pick_device())
    speed_up(model, channels_last=config.channels_last, compiled=config.compile)
    subject: dict[str, Any] = {}
    if images:
        assert class_noun is not None
        weights = config.reference_weights or None
        subject["subject_embeddings"] = require_blip_diffusion(model).mean_subjects(images, class_noun, weights)
    if isinstance(model, BlipDiffusion):
        subject["template"] = config.template
    with progress_bar(total=sum(map(len, chunks)), desc=config.prompt, unit=" images") as bar:
        for chunk in chunks:
            drawn = model(
                config.prompt,
                target_subject=config.target_subject or class_noun,
                **subject,
                negative_prompt=config.negative_prompt,
                guidance_scale=config.guidance_scale,
                num_inference_steps=config.num_inference_steps,
                scheduler=scheduler,
                prompt_reps=config.prompt_reps,
                height=config.height,
                width=config.width,
                seeds=chunk,
                control=control,
            )
            if chunk is chunks[0]:  # only now: a failure before it leaves the old images alone
                _start(config, record)
            for seed, image in zip(chunk, drawn, strict=True):
                if not _path(config.out, seed).exists():
                    write_png(image, _path(config.out, seed))
            bar.update(len(chunk))
    record |= {
        "model": model.settings(),
        "seeds": [int(path.stem) for path in _finished(config.out)],
        "device": device_name(),
        "libraries": library_versions(),
    }
    write_json(record, config.out / RUN_FILE)
    print(f"The images are in {config.out}.")
    return 0


def parse_control(text: str) -> tuple[str, Path]:
    """ "canny=photo.jpg" -> ("canny", Path("photo.jpg")), a known structure and an existing file."""
    from bdkit.editing.structures import STRUCTURES

    kind, mark, name = text.partition("=")
    if not mark or not name:
        raise InputError(f"--control {text!r} names no image; write it like canny=photo.jpg")
    if kind not in STRUCTURES:
        raise InputError(f"--control {text!r}: unknown structure {kind!r}; known are {', '.join(STRUCTURES)}")
    if not Path(name).is_file():
        raise InputError(f"--control {text!r}: there is no file {name}")
    return kind, Path(name)


def _make_control(
    config: GenerateConfig, structures: list[tuple[str, Path]], height: int, width: int, model: Any
) -> Any:
    """The `StructureControl` that the flags ask for, None without any; structures are detected at the image's size."""
    from bdkit.editing.structure_control import StructureControl, default_controlnet
    from bdkit.editing.structures import structure_map

    if not structures:
        return None
    paths = list(config.controlnet) or [default_controlnet(kind, config.model, model.unet) for kind, _ in structures]
    maps = [read_image(path) for _, path in structures]
    if not config.control_ready:
        maps = [structure_map(kind, image, height, width) for (kind, _), image in zip(structures, maps, strict=True)]
    more = {"guided": True} if config.control_guided else {}
    return StructureControl.from_pretrained(
        paths, maps, strength=config.control_strength, start=config.control_start, end=config.control_end, **more
    )


def _settings(config: GenerateConfig) -> dict[str, Any]:
    """What an image depends on, as JSON holds it; input images stand elsewhere in the record, by their hashes."""
    left_out = ("seeds", "out", "images", "control", "overwrite")
    speed = [name for name in ("channels_last", "compile") if not getattr(config, name)]
    settings = {name: value for name, value in asdict(config).items() if name not in (*left_out, *speed)}
    return dict(as_json(settings))


def _class_noun(config: GenerateConfig, model: Any) -> str | None:
    """The subject's class word, after all that can be wrong about the subject was checked.

    Of a subject that was learned as words, these, where the prompt has a place for them; else the prompt is literal.
    """
    from bdkit.checkpoints.adapters import learned_words
    from bdkit.methods.base import check_class_noun
    from bdkit.models.blip_diffusion import BlipDiffusion
    from bdkit.models.prompts import check_words

    for word in (config.subject, config.target_subject):
        if word is not None:
            check_words(word)
    words = learned_words(model)
    cached = None if words is None else model.record.get("finetuned", {}).get("class_noun")
    holds_subject = words is not None
    if isinstance(model, BlipDiffusion) and words is None:
        cached, holds_subject = model.subject_class, model.subject_embeddings is not None
    if words is None:
        for word in (config.subject, config.target_subject):
            if word is not None:
                check_class_noun(word, model.record.get("class_nouns"))
    if config.images and holds_subject:
        raise InputError(
            f"{config.model} already holds a subject ({cached or 'class unknown'}); leave --images out, or use "
            "--model mini"
        )
    if config.images and config.subject is None:
        raise InputError("--images needs --subject, the class word of what they show, such as --subject dog")
    if cached is not None and config.subject not in (None, cached):
        hint = "" if words else f", or say --target-subject {config.subject}"
        raise InputError(f"{config.model} holds a {cached}, not a {config.subject}; leave --subject out{hint}")
    if words is not None:
        if config.target_subject is not None:
            raise InputError(f"{config.model} draws its subject by the words {words!r}; leave --target-subject out")
        if cached is None and config.subject is not None:
            words = f"{words} {config.subject}"
        if "{}" not in config.prompt and model.record.get("learned_token", "") not in config.prompt:
            warnings.warn(f"the prompt does not have the word {words!r} that {config.model} has learned", stacklevel=2)
        return words if "{}" in config.prompt else None
    class_noun = cached or config.subject
    if class_noun is None and holds_subject:
        raise InputError(f"{config.model} holds a fine-tuned subject, but not its class word; name it with --subject")
    if class_noun is None and "{}" in config.prompt:
        raise InputError("the prompt has a place for a subject; give --images and --subject, or a fine-tuned --model")
    return class_noun


def _open_chunks(config: GenerateConfig, seeds: list[int], record: dict[str, Any]) -> list[list[int]]:
    """The fixed chunks of seeds that lack an image; InputError when --out holds images of other settings."""
    if not config.overwrite and not holds_run(config.out, record) and _finished(config.out):
        raise InputError(f"{config.out} holds images of another command; choose another --out, or add --overwrite")
    chunks = [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]
    return [chunk for chunk in chunks if config.overwrite or not all(_path(config.out, s).exists() for s in chunk)]


def _start(config: GenerateConfig, record: dict[str, Any]) -> None:
    """Writes the run record; with --overwrite the images of the earlier record are removed first."""
    if config.overwrite and (config.out / RUN_FILE).exists():
        for path in _finished(config.out):
            path.unlink()
    write_json(record, config.out / RUN_FILE)


def _finished(out: Path) -> list[Path]:
    return sorted(path for path in out.glob("*.png") if re.fullmatch(r"\d{5,}", path.stem))


def _path(out: Path, seed: int) -> Path:
    return out / f"{seed:05d}.png"
