"""`bdkit edit`: another subject, or other words, in an image that otherwise stays; prompt-to-prompt (Sec. 3.3).

examples:
  bdkit edit --image photo.jpg --from "a {cat} on a sofa" --subject dog --subject-images dog/ --out edited
  bdkit edit --generate-source --from "a {cat} in the snow" --model my-dog --seed 3 --out edited
  bdkit edit --image model.jpg --from "a woman in a {dress}" --subject dress --subject-images dress/ --mask region.png
  bdkit edit --generate-source --from "a cat in the snow" --reweight snow=2 --model runwayml/stable-diffusion-v1-5
"""

import argparse
import math
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bdkit.checkpoints.config import CheckpointConfig
from bdkit.utils.config import add_dataclass_arguments, config_from_args, flag_of
from bdkit.utils.env import device_name, library_versions, pick_device
from bdkit.utils.errors import InputError
from bdkit.utils.images import list_images, read_image, write_png
from bdkit.utils.io import RUN_FILE, as_json, check_free, file_hash, holds_run, write_json
from bdkit.utils.seeds import check_seed

RESULT, SOURCE, MASK, STRIP = "result.png", "source.png", "mask.png", "strip.png"
PROMPTS = {
    "source_prompt": ("--from", 'what the source shows, the word to edit in braces: "a {cat} on a sofa"'),
    "target_prompt": ("--to", 'what it shall show, such as "a dog on a sofa" (default: the subject in the braces)'),
}


@dataclass(frozen=True, kw_only=True)
class EditSubjectConfig:
    """Subject (none: plain prompt-to-prompt, by words alone).

    subject: class word of the subject, such as dog; for a virtual try-on the garment's
    subject_images: folder with images of the subject, for zero-shot; none: --model is fine-tuned to it
    """

    subject: str | None = None
    subject_images: Path | None = None


@dataclass(frozen=True, kw_only=True)
class EditSettingsConfig:
    """Settings (default: the preset's numbers and the model's own).

    preset: fixed, or lavis: what the published code does, with its faults, for comparison
    mode: refine (words are added or changed), replace (words are swapped, as many in both), none
    cross_replace_steps: share of the steps, 0 to 1, that take the source's cross-attention
    self_replace_steps: share of the steps that take the source's self-attention: its structure
    threshold: of the mask from attention, 0 to 1; lower: a larger mask
    reweight: factor of a word of the target's, such as snow=2; several with commas between
    inversion: of an image: direct, ddim, negative-prompt, null-text or fixed-point
    guidance_scale: how strictly to follow the prompt
    num_inference_steps: denoising steps
    negative_prompt: what not to draw
    """

    preset: Literal["fixed", "lavis"] = "fixed"
    mode: Literal["refine", "replace", "none"] | None = None
    cross_replace_steps: float | None = None
    self_replace_steps: float | None = None
    threshold: float | None = None
    reweight: tuple[str, ...] = ()
    inversion: str | None = None
    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    negative_prompt: str | None = None


@dataclass(frozen=True, kw_only=True)
class EditCommandConfig(EditSubjectConfig, CheckpointConfig, EditSettingsConfig):
    """Edit.

    image: the image to edit, cropped to the model's square
    generate_source: generate the source from --from instead of --image
    mask: image, bright where the edit goes; or attention (of the edited word), outlines (that, cut along the objects'
        outlines), clipseg (what shows it), none (anywhere), preset (outlines for fixed, attention for lavis)
    seed: of a generated source
    out: folder for result.png, source.png, mask.png, strip.png and run.json; a finished edit is kept
    overwrite: replace the edit of another command that --out holds
    """

    source_prompt: str
    out: Path
    target_prompt: str | None = None
    image: Path | None = None
    generate_source: bool = False
    mask: str = "preset"
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        if (self.image is None) != self.generate_source:
            raise InputError("give an --image to edit, or --generate-source to generate one from --from; not both")
        if self.subject_images and not self.subject:
            raise InputError("--subject-images needs --subject, the class word of what they show, such as dog")
        if not self.source_prompt.strip():
            raise InputError("--from is empty; say what the source shows, such as 'a {cat} on a sofa'")
        if self.target_prompt is not None and not self.target_prompt.strip():
            raise InputError("--to is empty; say what it shall show, such as 'a dog on a sofa', or leave --to out")
        if self.threshold is not None and self.mask not in ("preset", "attention", "outlines"):
            raise InputError("--threshold is of a mask from attention; leave it out, or use --mask attention")
        check_seed(self.seed)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `EditCommandConfig`; the prompts' are called --from and --to."""
    add_dataclass_arguments(parser, EditCommandConfig, skip=list(PROMPTS))
    group = parser.add_argument_group("Prompts")
    for name, (flag, text) in PROMPTS.items():
        group.add_argument(flag, dest=name, metavar="TEXT", default=argparse.SUPPRESS, help=text)


def run(args: argparse.Namespace) -> int:
    """Makes the edit, unless it is there already."""
    if not hasattr(args, "source_prompt"):
        raise InputError("--from is missing; say what the source shows, such as --from 'a {cat} on a sofa'")
    config = config_from_args(EditCommandConfig, args)
    for name in ("seed",) if config.image else ("inversion",):
        if hasattr(args, name):
            source = "--generate-source" if config.image else "an --image"
            raise InputError(f"{flag_of(name)} is of {source} alone; leave it out")
    check_free(config.out, overwrite=True)
    image = read_image(config.image) if config.image else None
    references = list_images(config.subject_images) if config.subject_images else []
    mask = _mask(config)
    factors = dict(map(parse_factor, config.reweight))

    from bdkit.checkpoints.adapters import load_drawable
    from bdkit.checkpoints.load import checkpoint_hash
    from bdkit.editing.edit import edit
    from bdkit.editing.edit_presets import settings_of
    from bdkit.sampling import check_guidance

    if config.guidance_scale is not None:
        check_guidance(config.guidance_scale)
    settings = _settings(config)
    model = load_drawable(config.model, config.options)
    target = _target_prompt(config, model)
    hashed = {path.name: path for path in (config.image, Path(config.mask) if mask else None) if path}
    record: dict[str, Any] = {
        "command": _plain(config),
        "target_prompt": target,
        "settings": as_json(settings_of(settings)),
        "checkpoint": checkpoint_hash(config.model),
        "images": {name: file_hash(path) for name, path in hashed.items()},
        "references": {path.name: file_hash(path) for path in references},
    }
    if _finished(config, record):
        print(f"The edit is already in {config.out}.")
        return 0
    model.to(pick_device())
    result = edit(
        model,
        image,
        config.source_prompt,
        target,
        [read_image(path) for path in references] or None,
        subject_noun=config.subject,
        mask=mask,
        preset=settings,
        seed=config.seed,
        equalizer=factors or None,
    )
    for path in (config.out / name for name in (RUN_FILE, MASK)):
        path.unlink(missing_ok=True)
    shown = [read_image(references[0])] if references else []
    write_png(result.image, config.out / RESULT)
    write_png(result.source, config.out / SOURCE)
    if result.mask is not None:
        write_png(result.mask, config.out / MASK)
    write_png(result.strip(*shown), config.out / STRIP)
    if result.inversion is not None:
        record["inversion"] = {
            "method": result.inversion.method,
            "unet_calls": result.inversion.unet_calls,
            "seconds": round(result.inversion.seconds, 2),
        }
    record |= {"model": model.settings(), "device": device_name(), "libraries": library_versions()}
    write_json(record, config.out / RUN_FILE)  # last: an edit without it is not finished
    print(f"The edit is in {config.out}: {RESULT}, {SOURCE}, {MASK if result.mask else 'no mask'}, {STRIP}.")
    return 0


def parse_factor(text: str) -> tuple[str, float]:
    """ "snow=2" -> ("snow", 2.0)."""
    word, mark, factor = text.rpartition("=")
    try:
        if not mark or not word.strip():
            raise ValueError
        if not math.isfinite(float(factor)):
            raise ValueError
        return word.strip(), float(factor)
    except ValueError:
        raise InputError(f"--reweight {text!r} is no word and factor; write it like snow=2") from None


def _mask(config: EditCommandConfig) -> Any:
    """The mask's image, None for one that the edit finds itself."""
    from bdkit.editing.edit_presets import MASKS

    if config.mask in ("preset", *MASKS):
        return None
    if not Path(config.mask).is_file():
        raise InputError(f"--mask {config.mask}: no such file; give an image, or {', '.join(MASKS)}")
    return read_image(config.mask)


def _settings(config: EditCommandConfig) -> Any:
    """The preset with the flags that were given."""
    from bdkit.editing.edit_presets import MASKS, PRESETS, EditConfig

    names = EditConfig.__dataclass_fields__.keys() & EditSettingsConfig.__dataclass_fields__.keys()
    given = {name: value for name in names if (value := getattr(config, name)) is not None}
    if given.get("mode") == "none":
        given["mode"] = None
    if config.mask in MASKS:
        given["mask"] = config.mask
    return replace(PRESETS[config.preset], **given)


def _target_prompt(config: EditCommandConfig, model: Any) -> str:
    """The target's prompt, with {} right before the subject's word where there are subject vectors."""
    from bdkit.checkpoints.adapters import learned_words
    from bdkit.editing.edit import edited_word
    from bdkit.methods.base import check_class_noun
    from bdkit.models.blip_diffusion import BlipDiffusion

    word, words = edited_word(config.source_prompt), learned_words(model)
    noun, vectors = config.subject, config.subject_images is not None
    if words is None and isinstance(model, BlipDiffusion) and model.subject_embeddings is not None:
        if vectors:
            raise InputError(f"{config.model} already holds a subject; leave --subject-images out, or use --model mini")
        if noun and model.subject_class not in (None, noun):
            warnings.warn(f"{config.model} holds a {model.subject_class}; it is drawn as a {noun}", stacklevel=2)
        noun, vectors = noun or model.subject_class, True
    if words is not None and vectors:
        raise InputError(f"{config.model} draws its subject by the words {words!r}; leave --subject-images out")
    learned = model.record.get("finetuned", {}).get("class_noun")
    if words is not None and config.subject and config.subject != learned:
        warnings.warn(f"{config.model} draws its subject by the words {words!r}, whatever --subject says", stacklevel=2)
    if config.subject and words is None:
        check_class_noun(config.subject, model.record.get("class_nouns"))
        if not vectors:
            raise InputError("--subject needs --subject-images, or a --model that is fine-tuned to it")
    subject = words or (f"{{}} {noun}" if vectors and noun else None)
    if vectors and not noun:
        raise InputError(f"{config.model} holds a fine-tuned subject, but not its class word; name it with --subject")
    if config.target_prompt is None:
        if subject is None:
            if config.reweight:
                return config.source_prompt.replace("{", "").replace("}", "")
            raise InputError("nothing to edit: give --to, --reweight, or --subject with --subject-images")
        if word is None:
            raise InputError(f"--from {config.source_prompt!r} marks no word; put the one to edit in braces: a {{cat}}")
        return config.source_prompt.replace(f"{{{word}}}", subject)
    target = config.target_prompt
    if subject is None:
        if "{" in target:
            raise InputError("--to has a place for a subject, but no subject was given; leave the braces out")
        return target
    if target.count("{}") != 1:
        raise InputError(f"--to {target!r} needs one {{}} where the subject goes, such as 'a {{}} on a sofa'")
    return target.replace("{}", subject)


def _finished(config: EditCommandConfig, record: dict[str, Any]) -> bool:
    """Whether --out holds this very edit; InputError when it holds another one and --overwrite is missing."""
    same = holds_run(config.out, record)
    if not same and not config.overwrite and (config.out / RUN_FILE).exists():
        raise InputError(f"{config.out} holds the edit of another command; choose another --out, or add --overwrite")
    return same and all((config.out / name).exists() for name in (RESULT, SOURCE, STRIP))


def _plain(config: EditCommandConfig) -> dict[str, Any]:
    """What an edit depends on, as JSON holds it; input images stand elsewhere in the record, by their hashes."""
    left_out = ("out", "image", "subject_images", "overwrite")
    return dict(as_json({name: value for name, value in asdict(config).items() if name not in left_out}))
