"""Reference images and their words: which belong to which subject (Sec. 3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bdkit.models.preprocessing import AnyImage, image_list
from bdkit.models.prompts import text_list
from bdkit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One subject: its images, its category word, and how much each image counts (sum 1)."""

    images: list[AnyImage]
    noun: str
    weights: list[float]


def group_subjects(images: Any, nouns: str | Sequence[str], weights: Sequence[Any] | None = None) -> list[Subject]:
    """The subjects that reference images show.

    With one word, a flat list of images is one subject. With n words, entry k (an image or a list of them) is
    subject k; a single image, or a list of one, serves all n. With a list of lists, one word serves all.

    Args:
        weights: one number an image, in the same nesting as ``images``; by default all count alike.
    """
    entries = _entries(images)
    if not entries:
        raise InputError("no subject image was given; give at least one")
    words = text_list(nouns, "a class word")
    several = isinstance(entries[0], list) or len(words) > 1
    groups = [e if isinstance(e, list) else [e] for e in entries] if several else [entries]
    shares: list[Any] = [None] * len(groups)
    if weights is not None:
        shares = [w if isinstance(w, Sequence) else [w] for w in weights] if several else [list(weights)]
    count = max(len(groups), len(words))
    groups = groups * count if len(groups) == 1 else groups
    words = words * count if len(words) == 1 else words
    shares = shares * count if len(shares) == 1 else shares
    if not len(groups) == len(words) == len(shares) == count:
        raise InputError(
            f"{len(groups)} images but {len(words)} category words (and {len(shares)} weights); give one word, or "
            "one an image or list of images"
        )
    return [
        Subject(images=group, noun=word, weights=_normalised(share, len(group)))
        for group, word, share in zip(groups, words, shares, strict=True)
    ]


def _entries(images: Any) -> list[Any]:
    """Images, or lists of images, as a list; a batch of arrays or tensors is taken apart."""
    entries = image_list(images)
    return [list(e) if isinstance(e, list | tuple) or getattr(e, "ndim", 3) == 4 else e for e in entries]


def _normalised(weights: Sequence[float] | None, count: int) -> list[float]:
    if count == 0:
        raise InputError("no subject image was given; give at least one")
    try:
        values = [1.0] * count if weights is None else [float(weight) for weight in weights]
    except (TypeError, ValueError):
        raise InputError(f"the weights {weights!r} of the reference images are no numbers; give one an image") from None
    if len(values) != count:
        raise InputError(f"{count} reference images but {len(values)} weights; give one an image")
    if min(values) < 0 or not 0 < sum(values) < float("inf"):
        raise InputError(f"the weights {values} of the reference images must be at least 0, and not all 0")
    return [value / sum(values) for value in values]
