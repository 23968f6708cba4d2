"""Prompt-to-prompt's attention control (arXiv 2208.01626, Alg. 1) as attention processors of a U-Net.

A batch is [negative rows; one row a prompt], all prompts of an edit from one latent; only the prompts' rows are
controlled. Every way to edit cross-attention is one affine map from the source's attention and the target's own:

    new[target] = source @ mixer + target * own        (mixer (L, L), own (L,) by U-Net call)

so a map is computed only in the layers and calls where it is edited or stored; everything else stays with the
processor that was installed before (scaled-dot-product attention). Self-attention is replaced without a map: the
target's values are attended by the source's queries and keys.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor

from bdkit.editing.alignment import Steps, refine_mapper, replace_mapper, step_range
from bdkit.editing.prompt_tokens import PromptTokens
from bdkit.utils.errors import InputError


class AttentionStore:
    """Adds up the cross-attention maps of the U-Net's deepest level with attention; changes nothing.

    These are, as `layers` says, what the originals take at 512 pixels: the five layers of 16 x 16. The maps are those
    *after* editing, averaged over heads and layers.

    Args:
        sources: for each row the number of its source's row, its own for a source.
        storing: False: no map is kept, so none is computed for it.
    """

    def __init__(self, sources: Sequence[int], *, storing: bool = True) -> None:
        self.sources = list(sources)
        self.targets = [row for row, source in enumerate(self.sources) if row != source]
        self.storing = storing
        self.layers: list[str] = []
        self.call = 0  # index of the U-Net call; set by the denoising loop
        self.total: Tensor | None = None

    @property
    def edits_cross(self) -> bool:
        """Whether the present U-Net call has its cross-attention edited."""
        return False

    def replaces_self(self, queries: int) -> bool:
        """Whether the present call's self-attention of so many queries is the source's."""
        return False

    def edit(self, maps: Tensor) -> Tensor:
        """Maps (rows, heads, queries, L) with the targets' ones edited."""
        return maps

    def store(self, maps: Tensor) -> None:
        """Adds one layer's maps (rows, heads, queries, L) to the sum."""
        mean = maps.float().mean(dim=1) / len(self.layers)
        self.total = mean if self.total is None else self.total + mean

    def maps(self, height: int, width: int) -> Tensor:
        """The stored maps summed over the calls so far, (rows, h, w, L) float32, for latents of height x width."""
        if self.total is None:
            raise InputError("no attention was stored; the U-Net has not run, or storing is off")
        h, w = level_size(height, width, self.total.shape[1])
        return self.total.unflatten(1, (h, w))


class AttentionEdit(AttentionStore):
    """Base of the edits: targets take their source's attention during a share of the U-Net's calls.

    Args:
        sources: see `AttentionStore`.
        mapper: (targets, L, L) [source token, target token], how a new map is made of the source's.
        own: (targets, L), the share of its own map that goes into a token's new map.
        schedule: (calls, targets, L), how much of the new map a call takes; the rest is the target's own.
        self_calls: first and last (exclusive) call whose self-attention is replaced.
        self_max_queries: self-attention is replaced in layers of at most so many queries.
    """

    def __init__(
        self,
        sources: Sequence[int],
        mapper: Tensor,
        own: Tensor,
        schedule: Tensor,
        *,
        self_calls: tuple[int, int],
        self_max_queries: int = 32**2,
        storing: bool = True,
    ) -> None:
        super().__init__(sources, storing=storing)
        self.mapper, self.own, self.schedule = mapper, own, schedule
        self.self_calls, self.self_max_queries = self_calls, self_max_queries
        self._mixed: tuple[Any, Tensor, Tensor] | None = None

    @property
    def edits_cross(self) -> bool:
        return bool(self.targets) and self.call < len(self.schedule) and bool(self.schedule[self.call].any())

    def replaces_self(self, queries: int) -> bool:
        first, last = self.self_calls
        return bool(self.targets) and first <= self.call < last and queries <= self.self_max_queries

    def edit(self, maps: Tensor) -> Tensor:
        if not self.edits_cross:
            return maps
        mixer, own = self._mix(maps)
        edited = maps.clone()
        sources = [self.sources[row] for row in self.targets]
        edited[self.targets] = maps[sources] @ mixer + maps[self.targets] * own
        return edited

    def _mix(self, like: Tensor) -> tuple[Tensor, Tensor]:
        key = (self.call, like.device, like.dtype)
        if self._mixed is None or self._mixed[0] != key:
            share = self.schedule[self.call][:, None, :]
            mixer, own = self.mapper * share, self.own[:, None, :] * share + 1 - share
            self._mixed = (key, mixer.to(like)[:, None], own.to(like)[:, None])
        return self._mixed[1:]


class AttentionReplace(AttentionEdit):
    """Word swap: every token of a target takes the map of the source's word in its place (Sec. 3.2).

    Args:
        prompts: one a row; a target has as many words as its source.
        sources: see `AttentionStore`.
        schedule: see `replacement_schedule`.
        self_replace_steps: share of the steps whose self-attention is replaced, or (start, end).
        original: see `bdkit.editing.alignment`.
    """

    def __init__(
        self,
        prompts: Sequence[PromptTokens],
        sources: Sequence[int],
        schedule: Tensor,
        self_replace_steps: Steps,
        *,
        original: bool = False,
        **settings: Any,
    ) -> None:
        pairs = [replace_mapper(prompts[s], prompts[t], original=original) for t, s in enumerate(sources) if t != s]
        mapper, own = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        super().__init__(
            sources, mapper, own, schedule, self_calls=_self_calls(self_replace_steps, schedule), **settings
        )


class AttentionRefine(AttentionEdit):
    """Prompt refinement: tokens that both prompts have take the source's map, new ones keep theirs (Sec. 3.2).

    The arguments are those of `AttentionReplace`; the prompts may have any number of words.
    """

    def __init__(
        self,
        prompts: Sequence[PromptTokens],
        sources: Sequence[int],
        schedule: Tensor,
        self_replace_steps: Steps,
        *,
        original: bool = False,
        **settings: Any,
    ) -> None:
        found = [refine_mapper(prompts[s], prompts[t], original=original) for t, s in enumerate(sources) if t != s]
        indices = torch.stack(found)
        known = (indices >= 0).float()
        mapper = F.one_hot(indices.clamp(min=0), indices.shape[1]).float().transpose(1, 2) * known[:, None, :]
        super().__init__(
            sources, mapper, 1 - known, schedule, self_calls=_self_calls(self_replace_steps, schedule), **settings
        )


class AttentionReweight(AttentionEdit):
    """Re-weighting: a word's map is multiplied by a factor and not renormalised (Sec. 3.2).

    Args:
        previous: the edit whose result is re-weighted; None: the source's map at the same position, whatever the
            target's words are.
        factors: (targets, L), see `equalizer_factors`.
    """

    def __init__(
        self,
        sources: Sequence[int],
        factors: Tensor,
        schedule: Tensor,
        self_replace_steps: Steps,
        previous: AttentionEdit | None = None,
        **settings: Any,
    ) -> None:
        mapper = torch.eye(factors.shape[1]).repeat(len(factors), 1, 1) if previous is None else previous.mapper
        own = torch.zeros_like(factors) if previous is None else previous.own
        super().__init__(
            sources,
            mapper * factors[:, None, :],
            own * factors,
            schedule,
            self_calls=_self_calls(self_replace_steps, schedule),
            **settings,
        )


def _self_calls(share: Steps, schedule: Tensor) -> tuple[int, int]:
    return step_range("self_replace_steps", share, len(schedule) - 1)


class ControlledAttention:
    """The processor of one attention layer; what ``control`` does not touch is left to the ``inner`` processor."""

    def __init__(self, inner: Any, control: AttentionStore, stored: bool) -> None:
        self.inner, self.control, self.stored = inner, control, stored

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **arguments: Any,
    ) -> Tensor:
        control = self.control
        cross = encoder_hidden_states is not None
        stores = cross and self.stored and control.storing
        edits = control.edits_cross if cross else control.replaces_self(hidden_states.shape[1])
        if not (stores or edits):
            return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, temb, **arguments)
        if encoder_hidden_states is None:
            result = self._with_the_sources_maps(attn, hidden_states)
        else:
            if attn.norm_cross:
                encoder_hidden_states = attn.norm_encoder_hidden_states(encoder_hidden_states)
            result = self._with_maps(attn, hidden_states, encoder_hidden_states, attention_mask, stores)
        result = result.transpose(1, 2).flatten(2).to(hidden_states.dtype)
        for layer in attn.to_out:  # projection, dropout
            result = layer(result)
        result = result + hidden_states if attn.residual_connection else result
        return result / attn.rescale_output_factor

    def _with_the_sources_maps(self, attn: Any, hidden_states: Tensor) -> Tensor:
        free = len(hidden_states) - len(self.control.sources)
        rows = [*range(free), *(free + source for source in self.control.sources)]
        query, key = (_heads(attn, attn.to_q(hidden_states))[rows], _heads(attn, attn.to_k(hidden_states))[rows])
        value = _heads(attn, attn.to_v(hidden_states))
        return F.scaled_dot_product_attention(query, key, value, scale=attn.scale)

    def _with_maps(self, attn: Any, hidden: Tensor, context: Tensor, mask: Tensor | None, stores: bool) -> Tensor:
        query, key, value = (
            _heads(attn, attn.to_q(hidden)),
            _heads(attn, attn.to_k(context)),
            _heads(attn, attn.to_v(context)),
        )
        if mask is not None:
            mask = attn.prepare_attention_mask(mask, context.shape[1], len(hidden)).unflatten(0, (len(hidden), -1))
        free = len(hidden) - len(self.control.sources)
        bias = None if mask is None else mask[free:].expand(-1, -1, query.shape[2], -1).flatten(0, 1)
        maps = attn.get_attention_scores(query[free:].flatten(0, 1), key[free:].flatten(0, 1), bias)
        maps = self.control.edit(maps.unflatten(0, (len(self.control.sources), -1)))
        if stores:
            self.control.store(maps)
        edited = maps @ value[free:]
        if not free:
            return edited
        bias = None if mask is None else mask[:free]
        plain = F.scaled_dot_product_attention(query[:free], key[:free], value[:free], bias, scale=attn.scale)
        return torch.cat([plain, edited])


def _heads(attn: Any, states: Tensor) -> Tensor:
    """(B, N, heads x d) to (B, heads, N, d)."""
    return states.unflatten(2, (attn.heads, -1)).transpose(1, 2)


@contextmanager
def contiguous_weights(unet: UNet2DConditionModel) -> Iterator[None]:
    """On a CPU, computes without channels-last weights, whatever the model has; these come back afterwards.

    torch's group normalisation loses two digits on channels-last images there, which guidance and an inversion amplify
    to 4e-3 in the latents. It costs no time.
    """
    last = [
        parameter
        for parameter in unet.parameters()
        if parameter.device.type == "cpu"
        and parameter.dim() == 4
        and parameter.is_contiguous(memory_format=torch.channels_last)
    ]
    before = [parameter.data for parameter in last]
    try:
        for parameter in last:
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
        yield
    finally:
        for parameter, data in zip(last, before, strict=True):
            parameter.data = data


@contextmanager
def attention_control(unet: UNet2DConditionModel, control: AttentionStore) -> Iterator[AttentionStore]:
    """Runs the U-Net under ``control``; the processors of before come back afterwards, also after an exception.

    The caller sets ``control.call`` before each U-Net call, whose batch ends with one row a prompt.
    """
    before = unet.attn_processors
    control.layers = stored_layers(unet)
    processors = {name: ControlledAttention(inner, control, name in control.layers) for name, inner in before.items()}
    try:
        unet.set_attn_processor(processors)
        yield control
    finally:
        unet.set_attn_processor(before)


def stored_layers(unet: UNet2DConditionModel) -> list[str]:
    """Processor names of the cross-attention whose maps are stored: the deepest level of the down and up blocks.

    In Stable Diffusion v1 these are the five layers at a quarter of the latents' side; the middle block's are left out
    unless there are no others.
    """
    count = len(unet.config.block_out_channels)
    levels: dict[int, list[str]] = {}
    for name in unet.attn_processors:
        block, number = name.split(".")[:2]
        if name.endswith("attn2.processor"):
            level = int(number) if block == "down_blocks" else count - 1 - int(number) if block == "up_blocks" else -1
            levels.setdefault(level, []).append(name)
    if not levels:
        raise InputError("the U-Net has no cross-attention to control")
    return levels[max(levels)]


def level_size(height: int, width: int, queries: int) -> tuple[int, int]:
    """Height and width of a layer of so many queries in a U-Net that halves height x width level by level."""
    while height * width > queries:
        height, width = (height + 1) // 2, (width + 1) // 2
    if height * width != queries:
        raise InputError(f"a layer of {queries} queries does not belong to latents of this size")
    return height, width
