"""Edits of an image by a subject or by words (Sec. 3.3): prompt-to-prompt, inversion and a local blend together."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from bdkit.editing.edit_presets import PRESETS, EditConfig, find_preset
from bdkit.editing.inversion import Inversion, invert
from bdkit.editing.local_blend import BlendMask, LocalBlend
from bdkit.editing.outlines import keep_outside, outline_mask
from bdkit.editing.prompt_to_prompt import EditAttention, prompt_to_prompt
from bdkit.models.blip_diffusion import BlipDiffusion, require_blip_diffusion
from bdkit.models.latent_diffusion import LatentDiffusion, latent_factor
from bdkit.models.preprocessing import as_image, centre_crop
from bdkit.utils.errors import InputError

CONFIDENT = 0.5  # CLIPSeg's confidence above which a pixel is the subject's
GAP = 2


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One edit that is asked for.

    Args:
        source: the image to edit; None: it is generated.
        source_prompt: describes the source; braces mark the word that is edited: ``a {cat} on a sofa``.
        target_prompt: what it shall be: ``a {} dog on a sofa`` with a subject, ``a dog on a sofa`` without.
        subject_embeddings: (1, Q, D), of the target's subject; None: a fine-tuned model's own, where the target has
            ``{}``.
        mask: bright where the edit goes, instead of the mask that the settings describe.
        seed: of a generated source and of a stochastic scheduler.
        equalizer: factor of words of the target, see `prompt_to_prompt`.
        inversion: of the source, where it is known already.
    """

    source: Any = None
    source_prompt: str
    target_prompt: str
    subject_embeddings: Tensor | None = None
    mask: Image.Image | None = None
    seed: int = 0
    equalizer: Mapping[str, float] | None = None
    inversion: Inversion | None = None

    @property
    def edited_word(self) -> str | None:
        """The word in braces; None without one."""
        return edited_word(self.source_prompt)

    @property
    def plain_source_prompt(self) -> str:
        return re.sub(r"[{}]", "", self.source_prompt)

    def words(self) -> tuple[list[str], list[str]]:
        """Words of the source and of the target that differ, the marked one and the subject's own among them."""
        before, after = self.plain_source_prompt.split(), self.target_prompt.replace("{}", " ").split()
        ours, theirs = list[str](), list[str]()
        for tag, i, j, k, m in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
            if tag != "equal":
                ours += before[i:j]
                theirs += after[k:m]
        marked = self.edited_word
        ours = [marked] if marked else ours
        if "{}" in self.target_prompt:
            after_subject = self.target_prompt.split("{}")[1].strip()
            whole = marked and re.match(rf"{re.escape(marked)}(?!\w)", after_subject)  # a word may be two, "teddy bear"
            noun = [marked] if marked and whole else after_subject.split()[:1]
            theirs = [*theirs, *(word for word in noun if word not in theirs)]
        elif not theirs and marked:
            theirs = [marked]
        return [_bare(word) for word in ours], [_bare(word) for word in theirs]


@dataclass(frozen=True, kw_only=True)
class EditResult:
    """What an edit gives; images of the model's resolution.

    Args:
        mask: white where the image may differ from the source; None: everywhere.
        attention: of source and target.
        inversion: of a real image.
    """

    image: Image.Image
    source: Image.Image
    mask: Image.Image | None
    attention: EditAttention
    inversion: Inversion | None = None

    def strip(self, *more: Image.Image) -> Image.Image:
        """Source, mask, further images (such as the subject's) and result, side by side."""
        images = [self.source, *([self.mask] if self.mask is not None else []), *more, self.image]
        width, height = self.image.size
        sheet = Image.new("RGB", (len(images) * (width + GAP) - GAP, height), "white")
        for column, image in enumerate(images):
            sheet.paste(centre_crop(image, min(width, height)), (column * (width + GAP), 0))
        return sheet


def edit(
    model: LatentDiffusion,
    source: Any,
    source_prompt: str,
    target_prompt: str,
    subject_images: Any = None,
    edited_word: str | None = None,
    *,
    subject_noun: str | None = None,
    subject_embeddings: Tensor | None = None,
    mask: Image.Image | str | None = None,
    preset: str | EditConfig = "fixed",
    seed: int = 0,
    equalizer: Mapping[str, float] | None = None,
    inversion: Inversion | None = None,
    **settings: Any,
) -> EditResult:
    """Edits an image: the edited word's region becomes a subject, or what other words say.

    Args:
        model: a BLIP-Diffusion, zero-shot or fine-tuned; without a subject any Stable Diffusion v1.
        source: image, cropped to the model's resolution; None: generated from ``seed``.
        source_prompt, target_prompt: see `Edit`; for a virtual try-on the subject is the garment:
            ``a woman in a {dress}``, ``a woman in a {} dress``.
        subject_images: one or more images of the subject; none, where the model is fine-tuned to it.
        edited_word: marks the word as the braces do.
        subject_noun: class word of the subject's images; None: the word after ``{}``.
        subject_embeddings: (1, Q, D) in place of the images.
        mask: bright where the edit goes; or a name, such as "attention", see `EditConfig`.
        preset: name in `PRESETS`, or settings.
        equalizer, inversion: see `Edit`.
        settings: fields of `EditConfig` in place of the preset's.
    """
    if edited_word is not None and "{" not in source_prompt:
        if not re.search(rf"(?<!\w){re.escape(edited_word)}(?!\w)", source_prompt):
            raise InputError(f"the word {edited_word!r} is not in {source_prompt!r}")
        source_prompt = re.sub(rf"(?<!\w)({re.escape(edited_word)})(?!\w)", r"{\1}", source_prompt, count=1)
    if isinstance(mask, str):
        settings["mask"], mask = mask, None
    config = replace(find_preset(preset), **settings)
    if subject_embeddings is None and subject_images is not None:
        noun = subject_noun or subject_word(target_prompt)
        subject_embeddings = require_blip_diffusion(model).mean_subjects(subject_images, noun)
    request = Edit(
        source=source,
        source_prompt=source_prompt,
        target_prompt=target_prompt,
        subject_embeddings=subject_embeddings,
        mask=mask,
        seed=seed,
        equalizer=equalizer,
        inversion=inversion,
    )
    return edit_batch(model, [request], config)[0]


def edit_batch(model: LatentDiffusion, edits: Sequence[Edit], config: EditConfig | None = None) -> list[EditResult]:
    """Makes several edits together: all of real images, or all of generated ones; equalizers one an edit or none."""
    config = config or PRESETS["fixed"]
    real = [request.source is not None for request in edits]
    if not edits or any(real) != all(real):
        raise InputError("a batch of edits has only real sources, or only generated ones")
    if any(request.equalizer != edits[0].equalizer for request in edits):
        raise InputError("the edits of a batch have one equalizer")
    defaults, side = model.defaults, model.resolution
    steps = config.num_inference_steps or defaults.num_inference_steps
    scale = defaults.guidance_scale if config.guidance_scale is None else config.guidance_scale
    negative = defaults.negative_prompt if config.negative_prompt is None else config.negative_prompt
    embeddings = _embeddings(model, edits)
    sources = [centre_crop(as_image(request.source), side) if all(real) else None for request in edits]
    inversions = [
        request.inversion
        or invert(
            model,
            source,
            _inverted_prompt(request, config),
            config.inversion,
            steps,
            guidance_scale=scale,
            source_guidance_scale=config.source_guidance_scale,
            negative_prompt=negative,
            reconstruct=False,
        )
        for request, source in zip(edits, sources, strict=True)
        if source is not None
    ]
    shared: dict[str, Any] = {
        "seed": [request.seed for request in edits],
        "inversion": inversions or None,
        "guidance_scale": scale,
        "num_inference_steps": inversions[0].steps if inversions else steps,
        "negative_prompt": negative,
    }
    if config.mask == "clipseg":
        shown = sources
        if not all(real):
            alone = prompt_to_prompt(model, [[request.plain_source_prompt] for request in edits], **shared)
            shown = [images[0] for images in alone]
        edits = _with_clipseg_masks(edits, shown, model)
    blends = [_local_blend(request, config, side) for request in edits]
    images, attention = prompt_to_prompt(
        model,
        [[request.plain_source_prompt, request.target_prompt] for request in edits],
        mode=config.mode,
        cross_replace_steps=config.cross_replace_steps,
        self_replace_steps=config.self_replace_steps,
        self_max_queries=config.self_max_queries,
        equalizer=edits[0].equalizer,
        local_blend=blends,
        subject_embeddings=embeddings,
        return_attention=True,
        original=config.original,
        **shared,
    )
    results = []
    for k, (pair, maps) in enumerate(zip(images, attention, strict=True)):
        source, mask, image = sources[k] or pair[0], _pixel_mask(blends[k], maps, pair[1].size), pair[1]
        if mask is not None and config.paste:
            factor = latent_factor(model.vae)
            if config.mask == "outlines" and edits[k].mask is None:
                mask = outline_mask([source, image], mask, image.height / maps.cross_maps.shape[1])
                image = keep_outside(source, image, mask, factor / 8)
            else:  # half a latent more, for what the autoencoder draws there
                image = keep_outside(source, image, mask.filter(ImageFilter.MaxFilter(factor // 2 * 2 + 1)), factor / 4)
        inversion = inversions[k] if inversions else None
        results.append(EditResult(image=image, source=source, mask=mask, attention=maps, inversion=inversion))
    return results


def edited_word(source_prompt: str) -> str | None:
    """The word in braces of ``a {cat} on a sofa``; None without one."""
    marked = re.findall(r"\{([^{}]*)\}", source_prompt)
    if len(marked) > 1 or source_prompt.count("{") != len(marked) or source_prompt.count("}") != len(marked):
        raise InputError(f"the prompt {source_prompt!r} needs one word in braces, such as 'a {{cat}} on a sofa'")
    if marked and not marked[0].strip():
        raise InputError(f"the braces in {source_prompt!r} are empty; put the word to edit there, such as {{cat}}")
    return marked[0].strip() if marked else None


def subject_word(target_prompt: str) -> str:
    """The word after ``{}``."""
    match = re.search(r"\{\}\s*([\w'-]+)", target_prompt)
    if not match:
        raise InputError(f"the prompt {target_prompt!r} needs a {{}} right before the subject's word")
    return match[1]


def _embeddings(model: LatentDiffusion, edits: Sequence[Edit]) -> Tensor | None:
    """(n, Q, D): one for each target with ``{}``."""
    found = []
    for request in edits:
        if "{}" not in request.target_prompt:
            if request.subject_embeddings is not None:
                raise InputError(f"the prompt {request.target_prompt!r} has no {{}} for the subject")
            continue
        own = model.subject_embeddings if isinstance(model, BlipDiffusion) else None
        embeddings = own if request.subject_embeddings is None else request.subject_embeddings
        if embeddings is None:
            raise InputError(
                f"the prompt {request.target_prompt!r} has a place for a subject, but no subject was given"
            )
        found.append(embeddings)
    return torch.cat(found) if found else None


def _inverted_prompt(request: Edit, config: EditConfig) -> str:
    word = request.edited_word
    if word is None or not config.first_letter:
        return request.plain_source_prompt
    return request.source_prompt.replace(f"{{{word}}}", word[0])


def _with_clipseg_masks(edits: Sequence[Edit], shown: Sequence[Any], model: LatentDiffusion) -> list[Edit]:
    """The edits with masks of CLIPSeg, where they have none."""
    from bdkit.training.preparation.segmentation import CLIPSEG, clipseg

    masked = []
    for request, image in zip(edits, shown, strict=True):
        word = request.edited_word
        if request.mask is None:
            if word is None:
                raise InputError(f"mask 'clipseg' looks for the edited word; mark it in {request.source_prompt!r}")
            sure = clipseg(CLIPSEG, str(model.device))([image], [word])[0]
            request = replace(request, mask=Image.fromarray((sure > CONFIDENT).astype(np.uint8) * 255))
        masked.append(request)
    return masked


def _local_blend(request: Edit, config: EditConfig, side: int) -> LocalBlend | None:
    if request.mask is not None:
        return LocalBlend(mask=centre_crop(request.mask, side), start=config.start)
    ours, theirs = request.words()
    if config.mask == "none" or not (ours or theirs):
        return None
    words = [tuple(ours), tuple(theirs) if config.target_region else ()]
    return LocalBlend(words=words, threshold=config.threshold, start=config.start, smooth=config.smooth)


def _pixel_mask(blend: LocalBlend | None, attention: EditAttention, size: tuple[int, int]) -> Image.Image | None:
    """The mask of the last step, at the image's size."""
    if blend is None:
        return None
    maps = None if blend.mask is not None else attention.cross_maps
    mask = BlendMask(blend, attention.prompts)(maps, size[1], size[0])[0, 0]
    return Image.fromarray(mask.cpu().numpy().astype(np.uint8) * 255)


def _bare(word: str) -> str:
    """A word without the punctuation around it."""
    return word if word == "{}" else word.strip(".,;:!?\"'()")
