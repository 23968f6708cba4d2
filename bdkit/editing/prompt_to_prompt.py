"""Prompt-to-prompt editing (arXiv 2208.01626): change an image by changing its prompt, zero-shot."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from bdkit.editing.alignment import Steps, equalizer_factors, replacement_schedule
from bdkit.editing.attention_control import (
    AttentionEdit,
    AttentionRefine,
    AttentionReplace,
    AttentionReweight,
    AttentionStore,
    attention_control,
    contiguous_weights,
)
from bdkit.editing.inversion import Inversion, ddim_scheduler
from bdkit.editing.local_blend import BlendMask, LocalBlend
from bdkit.editing.prompt_tokens import PromptTokens, encode_prompts
from bdkit.models.latent_diffusion import OUTPUT_TYPES, LatentDiffusion, latent_factor
from bdkit.sampling import initial_noise, make_scheduler, with_timesteps
from bdkit.utils.errors import InputError

MODES = ("refine", "replace", None)


@dataclass(frozen=True, kw_only=True)
class EditAttention:
    """What the attention of one edit was.

    Args:
        cross_maps: (prompts, h, w, L) float32, after editing, averaged over steps, heads and the layers of
            `stored_layers`; of each token's position.
        blend_masks: (blended steps, targets, H, W) bool: where the targets were kept; None without a local blend.
        prompts: tokens and their positions; see `bdkit.editing.prompt_tokens.word_positions`.
    """

    cross_maps: Tensor
    blend_masks: Tensor | None
    prompts: tuple[PromptTokens, ...]


@torch.no_grad()
def prompt_to_prompt(
    model: LatentDiffusion,
    prompts: Sequence[str] | Sequence[Sequence[str]],
    latents: Tensor | None = None,
    seed: int | Sequence[int] = 0,
    mode: str | None = "refine",
    cross_replace_steps: Steps | Mapping[str, Steps] = 0.8,
    self_replace_steps: Steps = 0.4,
    self_max_queries: int = 32**2,
    equalizer: Mapping[str, float] | None = None,
    local_blend: LocalBlend | Sequence[LocalBlend | None] | None = None,
    subject_embeddings: Tensor | None = None,
    inversion: Inversion | Sequence[Inversion] | None = None,
    guidance_scale: float = 7.5,
    num_inference_steps: int = 50,
    scheduler: Any = None,
    negative_prompt: str = "",
    output_type: str = "pil",
    return_attention: bool = False,
    *,
    original: bool = False,
) -> Any:
    """Generates or takes a source image and edits it by the targets' prompts.

    Args:
        prompts: [source, target, ...]; or a batch of edits, one such list each, which are denoised together. The
            results then come as one list an edit.
        latents: initial latents (1, C, h, w), shared by all prompts; of a batch (edits, C, h, w). None: of ``seed``.
        seed: of the initial latents and of a stochastic scheduler; one, or one an edit.
        mode: "refine" (words are added or changed), "replace" (words are swapped; as many words in both), or None: the
            cross-attention is not replaced. Without a mode and an equalizer the self-attention is not, either.
        cross_replace_steps: share of the steps, 0..1, that take the source's cross-attention; or (start, end); or such
            by word of the targets, ``default_`` for the rest.
        self_replace_steps: share of the steps, or (start, end), that take the source's self-attention.
        self_max_queries: and that in layers of at most so many latent positions.
        equalizer: factor of a target's word, {"snow": 2.0}; needs no other words. Without a mode it multiplies the
            source's attention at the same position.
        local_blend: confines the edit; one, or one an edit.
        subject_embeddings: (1, Q, D), the subject of the prompts that hold ``{}`` (right before its word), or one for
            each of these prompts.
        inversion: of a real image as the source; one, or one an edit. Its steps and scheduler are taken.
        scheduler: a name or instance for `bdkit.sampling.make_scheduler`; None: the inversion's, else the model's.
        output_type: "pil", "np" (P, H, W, 3) float32 in 0..1, "pt" (P, 3, H, W) likewise, or "latent" (P, C, h, w).
        return_attention: whether to return (images, `EditAttention`) instead of images.
        original: repeat faults of the original code; see `bdkit.editing.alignment`.
    """
    if output_type not in OUTPUT_TYPES:
        raise InputError(f"output_type {output_type!r} is not known; use 'pil', 'np', 'pt' or 'latent'")
    batched = not isinstance(prompts, str) and len(prompts) > 0 and not isinstance(prompts[0], str)
    edits: list[list[str]] = [list(edit) for edit in prompts] if batched else [list(prompts)]  # type: ignore[arg-type]
    if isinstance(prompts, str) or not all(edits):
        raise InputError("give a list of prompts, the source first")
    tokens, hidden = encode_prompts(model, [prompt for edit in edits for prompt in edit], subject_embeddings)
    starts = np.cumsum([0, *(len(edit) for edit in edits)])[:-1].tolist()
    sources = [start for start, edit in zip(starts, edits, strict=True) for _ in edit]
    inversions = _one_each("inversions", inversion, len(edits))
    steps, scheduler = _steps_and_scheduler(model, inversions, num_inference_steps, scheduler)
    noise, generators = _initial_latents(model, latents, inversions, seed, [len(edit) for edit in edits])
    scheduler.set_timesteps(steps, device=model.device)
    # the originals count in inference steps, of which a multi-step scheduler's first call is none
    steps = max(steps, len(scheduler.timesteps) - 1)
    control = make_control(
        tokens, sources, mode, steps, cross_replace_steps, self_replace_steps, self_max_queries, equalizer, original
    )
    blends = [
        None if blend is None else BlendMask(blend, tokens[start : start + len(edit)], original=original)
        for start, edit, blend in zip(starts, edits, _one_each("local blends", local_blend, len(edits)), strict=True)
    ]
    control.storing = return_attention or any(blend is not None and blend.needs_maps for blend in blends)
    _, negative = encode_prompts(model, [negative_prompt])
    result, masks = denoise_edits(
        model.unet,
        scheduler,
        noise,
        hidden,
        negative,
        control,
        steps=steps,
        guidance_scale=guidance_scale,
        blends=blends,
        inversions=inversions,
        generators=generators,
    )
    images = [result[s : s + len(edit)] for s, edit in zip(starts, edits, strict=True)]
    if output_type != "latent":
        images = [model.decode(latents_of_edit, output_type) for latents_of_edit in images]
    if not return_attention:
        return images if batched else images[0]
    maps = control.maps(*result.shape[2:]) / len(scheduler.timesteps)
    attention = [
        EditAttention(
            cross_maps=maps[start : start + len(edit)],
            blend_masks=torch.stack(mask) if mask else None,
            prompts=tuple(tokens[start : start + len(edit)]),
        )
        for start, edit, mask in zip(starts, edits, masks, strict=True)
    ]
    return (images, attention) if batched else (images[0], attention[0])


def make_control(
    prompts: Sequence[PromptTokens],
    sources: Sequence[int],
    mode: str | None,
    steps: int,
    cross_replace_steps: Steps | Mapping[str, Steps],
    self_replace_steps: Steps,
    self_max_queries: int,
    equalizer: Mapping[str, float] | None,
    original: bool = False,
) -> AttentionStore:
    """The attention control of some edits; the arguments are those of `prompt_to_prompt`.

    Args:
        prompts: of all edits.
        sources: for each prompt the number of its source.
        steps: number of inference steps.
    """
    if mode not in MODES:
        raise InputError(f"mode {mode!r} is not known; use 'refine', 'replace' or None")
    targets = [prompt for row, prompt in enumerate(prompts) if sources[row] != row]
    if not targets or (mode is None and not equalizer):
        return AttentionStore(sources)
    schedule = replacement_schedule(targets, steps, cross_replace_steps, original)
    settings = {"self_max_queries": self_max_queries}
    control: AttentionEdit | None = None
    if mode is not None:
        kind = AttentionReplace if mode == "replace" else AttentionRefine
        control = kind(prompts, sources, schedule, self_replace_steps, original=original, **settings)
    if equalizer:
        factors = equalizer_factors(targets, equalizer, original=original)
        control = AttentionReweight(sources, factors, schedule, self_replace_steps, control, **settings)
    assert control is not None
    return control


def denoise_edits(
    unet: Any,
    scheduler: Any,
    latents: Tensor,
    hidden: Tensor,
    negative: Tensor,
    control: AttentionStore,
    *,
    steps: int,
    guidance_scale: float,
    blends: Sequence[BlendMask | None],
    inversions: Sequence[Inversion | None],
    generators: list[torch.Generator] | None = None,
) -> tuple[Tensor, list[list[Tensor]]]:
    """The denoising loop of some edits under one attention control (arXiv 2208.01626, Alg. 1).

    A source that is pinned to an inverted path, or denoised without guidance, has no negative half in the batch.

    Args:
        scheduler: with its timesteps set.
        latents: (rows, C, h, w) initial latents, one row a prompt.
        hidden, negative: (rows, L, D), (1, L, D).
        steps: number of inference steps, for the start of a blend.
        blends, inversions: one an edit, or None.

    Returns:
        Latents (rows, C, h, w) float32, and for each edit the masks (targets, H, W) of its blended steps.
    """
    firsts = dict.fromkeys(control.sources)
    edits = [[row for row, source in enumerate(control.sources) if source == first] for first in firsts]
    scales = [guidance_scale] * len(latents)
    for rows, inversion in zip(edits, inversions, strict=True):
        if inversion is not None and inversion.method == "direct":
            scales[rows[0]] = 1.0
        elif inversion is not None and inversion.source_guidance_scale is not None:
            scales[rows[0]] = inversion.source_guidance_scale
    guided = [row for row, scale in enumerate(scales) if scale > 1]
    factors = torch.tensor([scales[row] for row in guided], device=latents.device)[:, None, None, None]
    masks: list[list[Tensor]] = [[] for _ in edits]
    latents = latents * scheduler.init_noise_sigma
    extra = {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
    with contiguous_weights(unet), attention_control(unet, control):
        for index, timestep in enumerate(scheduler.timesteps):
            control.call = index
            context = torch.cat([_negatives(edits, guided, negative, inversions, index).to(hidden), hidden])
            model_input = scheduler.scale_model_input(torch.cat([latents[guided], latents]), timestep)
            output = unet(model_input.to(hidden.dtype), timestep, context).sample.float()
            unguided, noise_pred = output[: len(guided)], output[len(guided) :]
            noise_pred[guided] = unguided + factors * (noise_pred[guided] - unguided)
            latents = scheduler.step(noise_pred, timestep, latents, **extra).prev_sample.float()
            for rows, inversion in zip(edits, inversions, strict=True):
                if inversion is not None and inversion.method == "direct":
                    latents[rows[0]] = inversion.latents[inversion.steps - 1 - index, 0].to(latents)
            for rows, blend, found in zip(edits, blends, masks, strict=True):
                if blend is None or len(rows) < 2 or index < int(blend.blend.start * steps):
                    continue
                maps = control.maps(*latents.shape[2:])[rows] if blend.needs_maps else None
                mask = blend(maps, *latents.shape[2:])
                source = latents[rows[:1]]
                latents[rows[1:]] = source + mask.to(latents) * (latents[rows[1:]] - source)
                found.append(mask[:, 0].cpu())
    return latents, masks


def _negatives(
    edits: list[list[int]], guided: list[int], negative: Tensor, inversions: Sequence[Inversion | None], index: int
) -> Tensor:
    """(guided rows, L, D): the negative prompt's, or what an edit's inversion found for the step."""
    chosen = []
    for rows, inversion in zip(edits, inversions, strict=True):
        found = None if inversion is None else inversion.unconditional
        chosen += [negative[0] if found is None else found[index, 0].to(negative) for row in rows if row in guided]
    return torch.stack(chosen) if chosen else negative[:0]


def _steps_and_scheduler(
    model: LatentDiffusion, inversions: Sequence[Inversion | None], steps: int, scheduler: Any
) -> tuple[int, Any]:
    given = [inversion for inversion in inversions if inversion is not None]
    scheduler = None if scheduler is None else make_scheduler(scheduler, model.scheduler)
    if given:
        if len(given) != len(inversions) or len({inversion.steps for inversion in given}) != 1:
            raise InputError("a batch of edits needs an inversion of as many steps for each of them, or none")
        if steps not in (50, given[0].steps):
            raise InputError(f"num_inference_steps is {steps}, but the inversion has {given[0].steps} steps")
        steps = given[0].steps
        scheduler = scheduler or given[0].scheduler or ddim_scheduler(model.scheduler)
        if not isinstance(scheduler, DDIMScheduler):
            raise InputError(f"an inversion is edited with a DDIMScheduler, not a {type(scheduler).__name__}")
    scheduler = scheduler or model.scheduler
    return steps, with_timesteps(scheduler, steps)


def _initial_latents(
    model: LatentDiffusion,
    latents: Tensor | None,
    inversions: Sequence[Inversion | None],
    seed: int | Sequence[int],
    counts: list[int],
) -> tuple[Tensor, list[torch.Generator]]:
    """(rows, C, h, w) float32 and a generator a row; all prompts of an edit have the same noise."""
    seeds = [seed] * len(counts) if isinstance(seed, int) else list(seed)
    if len(seeds) != len(counts):
        raise InputError(f"{len(seeds)} seeds for {len(counts)} edits; give 1 or as many")
    channels, side = model.unet.config.in_channels, model.resolution // latent_factor(model.vae)
    repeats = torch.tensor(counts)
    noise, generators = initial_noise(np.repeat(seeds, counts).tolist(), (channels, side, side))
    inverted = [inversion.latents[-1] for inversion in inversions if inversion is not None]
    if latents is None and inverted:
        latents = torch.cat(inverted)
    if latents is not None:
        if latents.dim() != 4 or tuple(latents.shape[:2]) != (len(counts), channels):
            expected = f"({len(counts)}, {channels}, h, w)"
            raise InputError(f"the initial latents have shape {tuple(latents.shape)} instead of {expected}")
        noise = latents.repeat_interleave(repeats.to(latents.device), dim=0)
    return noise.to(model.device, torch.float32), generators


def _one_each(what: str, value: Any, count: int) -> list[Any]:
    values = list(value) if isinstance(value, Sequence) else [value] * count
    if len(values) != count:
        raise InputError(f"{len(values)} {what} for {count} edits; give 1 or as many")
    return values
