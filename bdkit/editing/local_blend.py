"""Local blend: the edit is confined to where the attention of chosen words lies (arXiv 2208.01626, Sec. 3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from bdkit.editing.alignment import step_range
from bdkit.editing.prompt_tokens import PromptTokens, word_positions
from bdkit.utils.errors import InputError

Words = Sequence[str | Sequence[str]]
"""For each prompt, the source first, its words; prompts without an entry have none."""


@dataclass(frozen=True, kw_only=True)
class LocalBlend:
    """Where targets may differ from the source: by words, or by a mask of the user's own.

    A latent belongs to the edit where the attention of the chosen words, 3 x 3 max-pooled, exceeds ``threshold`` of
    its largest value, in the source or in the target. An empty mask makes the target the source.

    Args:
        words: see `Words`: ``[("squirrel",), ("lion",)]``.
        threshold: 0..1; or a pair, whose second serves ``subtract``.
        start: share of the steps without blending at the beginning, 0..1 (0.2 in the null-text code).
        subtract: words, as ``words``, whose region is taken out again; not pooled.
        mask: an image, bright where the edit goes, instead of words; resized to the latents.
        smooth: interpolate the maps linearly instead of pooling them and taking the nearest value: closer to the
            subject's outline where the latents are small.

    The word ``{}`` stands for the subject's vectors.
    """

    words: Words | None = None
    threshold: float | tuple[float, float] = 0.3
    start: float = 0.0
    subtract: Words | None = None
    mask: Image.Image | None = None
    smooth: bool = False

    def __post_init__(self) -> None:
        if (self.words is None) == (self.mask is None):
            raise InputError("a local blend needs either words or a mask")
        if self.mask is not None and self.subtract is not None:
            raise InputError("subtract goes with words, not with a mask")
        if isinstance(self.words, str) or isinstance(self.subtract, str):
            raise InputError("the words of a local blend are one list a prompt, such as [('cat',), ('dog',)]")
        step_range("start of the local blend", self.start, 1)
        if not all(0 <= threshold <= 1 for threshold in self.thresholds):
            raise InputError(f"the threshold of a local blend is {self.threshold}; use 0 to 1")

    @property
    def thresholds(self) -> tuple[float, float]:
        """For ``words`` and for ``subtract``."""
        if isinstance(self.threshold, int | float):
            return float(self.threshold), float(self.threshold)
        first, second = self.threshold
        return first, second


class BlendMask:
    """A `LocalBlend` for the prompts of one edit, the source first."""

    def __init__(self, blend: LocalBlend, prompts: Sequence[PromptTokens], *, original: bool = False) -> None:
        self.blend, self.count = blend, len(prompts)
        self.words = None if blend.words is None else _chosen(blend.words, prompts, original)
        self.subtract = None if blend.subtract is None else _chosen(blend.subtract, prompts, original)

    @property
    def needs_maps(self) -> bool:
        return self.words is not None

    def __call__(self, maps: Tensor | None, height: int, width: int) -> Tensor:
        """Where each target is kept, (prompts - 1, 1, height, width) bool.

        Args:
            maps: (prompts, h, w, L) attention maps, on any scale; not needed for a mask.
        """
        if self.blend.mask is not None:
            image = self.blend.mask.convert("L").resize((width, height), Image.Resampling.BOX)
            mask = torch.from_numpy(np.asarray(image).copy()) >= 128
            return mask.expand(self.count - 1, 1, height, width)
        if maps is None or self.words is None:
            raise InputError("a local blend by words needs attention maps")
        kept, removed = self.blend.thresholds
        smooth = self.blend.smooth
        mask = _region(maps, self.words, kept, (height, width), pool=not smooth, smooth=smooth)
        mask = mask[:1] | mask[1:]
        if self.subtract is not None:
            other = _region(maps, self.subtract, removed, (height, width), pool=False, smooth=smooth)
            mask = mask & ~(other[:1] | other[1:])
        return mask


def _chosen(words: Words, prompts: Sequence[PromptTokens], original: bool) -> Tensor:
    """(prompts, L) float32: 1 at the tokens of the words."""
    if len(words) > len(prompts):
        raise InputError(f"the local blend has words for {len(words)} prompts, but there are {len(prompts)}")
    rows = torch.zeros(len(prompts), prompts[0].length)
    for row, prompt, entry in zip(rows, prompts, words, strict=False):
        for word in [entry] if isinstance(entry, str) else entry:
            if word == "{}":
                places = [place for place, subject in enumerate(prompt.subject_mask) if subject]
            else:
                places = word_positions(prompt, word, original=original)
            if not places and not original:
                raise InputError(f"the word {word!r} is not in {prompt.text!r}")
            row[places] = 1
    return rows


def _region(
    maps: Tensor, chosen: Tensor, threshold: float, size: tuple[int, int], *, pool: bool, smooth: bool
) -> Tensor:
    """(prompts, 1, *size) bool; a prompt without words has no region."""
    values = (maps * chosen.to(maps)[:, None, None, :]).sum(dim=-1)[:, None]
    if pool:
        values = F.max_pool2d(values, 3, stride=1, padding=1)
    values = F.interpolate(values, size=size, mode="bilinear" if smooth else "nearest")
    return values / values.amax(dim=(2, 3), keepdim=True) > threshold
