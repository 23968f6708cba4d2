"""Which token of the source prompt each token of a target belongs to (prompt-to-prompt, arXiv 2208.01626, Sec. 3.2).

``original=True`` repeats what google/prompt-to-prompt does, faults included: words are what " " separates, an unknown
word counts as no token, subject vectors are not counted, and `replace_mapper` loses its place after a swapped word of
another number of tokens.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bdkit.editing.prompt_tokens import (
    NO_TOKEN,
    PromptTokens,
    original_words,
    positions_within,
    require_word,
    word_positions,
)
from bdkit.utils.errors import InputError

Steps = float | Sequence[float]
"""A share of the steps, 0..1, counted from the first; or (start, end)."""


def refine_mapper(source: PromptTokens, target: PromptTokens, *, original: bool = False) -> Tensor:
    """For each target token the source token it continues, -1 for a new one; (L,) int64.

    Needleman-Wunsch on token ids (gap 0, match 1, mismatch -1; a gap is preferred to a match on ties). Padding keeps
    its position.
    """
    if original:
        source, target = source.without_subject(), target.without_subject()
    theirs, ours = source.sequence, target.sequence
    best = [[0] * (len(ours) + 1) for _ in range(len(theirs) + 1)]
    for i, token in enumerate(theirs, start=1):
        for j, other in enumerate(ours, start=1):
            match = 1 if token == other != NO_TOKEN else -1
            best[i][j] = max(best[i][j - 1], best[i - 1][j], best[i - 1][j - 1] + match)
    mapper = torch.arange(target.length)
    i, j = len(theirs), len(ours)
    while j > 0:
        if i == 0 or best[i][j] == best[i][j - 1]:
            j -= 1
            mapper[j] = -1
        elif best[i][j] == best[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            mapper[j] = i
    return mapper


def replace_mapper(source: PromptTokens, target: PromptTokens, *, original: bool = False) -> tuple[Tensor, Tensor]:
    """For prompts of as many words: how a target token's map is made of the source's maps.

    A swapped word takes the maps of the word it replaces: token for token where it has as many, else each token an
    equal share of their sum. Subject vectors, and padding where the source still has words, keep their own map.

    Returns:
        (L, L) float32 [source token, target token], and (L,) float32: 1 where a token keeps its own map.
    """
    if original:
        return _original_replace_mapper(source.without_subject(), target.without_subject())
    source_words, target_words = ([m.span() for m in re.finditer(r"\S+", p.text)] for p in (source, target))
    _same_number_of_words(source, target, len(source_words), len(target_words))
    mapper, own = torch.zeros(target.length, target.length), torch.zeros(target.length)
    mapper[0, 0] = mapper[source.end, target.end] = 1
    for source_span, target_span in zip(source_words, target_words, strict=True):
        theirs, ours = positions_within(source, *source_span), positions_within(target, *target_span)
        shared = 0  # punctuation and word pieces at both ends that are the same
        while shared < min(len(theirs), len(ours)) and source.ids[theirs[shared]] == target.ids[ours[shared]]:
            shared += 1
        tail = 0
        while tail < min(len(theirs), len(ours)) - shared and (
            source.ids[theirs[-1 - tail]] == target.ids[ours[-1 - tail]]
        ):
            tail += 1
        _share(mapper, theirs[:shared], ours[:shared])
        _share(mapper, theirs[shared : len(theirs) - tail], ours[shared : len(ours) - tail])
        _share(mapper, theirs[len(theirs) - tail :], ours[len(ours) - tail :])
    for place in range(target.end + 1, target.length):
        mapper[place, place] = float(place > source.end)
    own[mapper.sum(dim=0) == 0] = 1
    return mapper, own


def _original_replace_mapper(source: PromptTokens, target: PromptTokens) -> tuple[Tensor, Tensor]:
    words, others = source.text.split(" "), target.text.split(" ")
    _same_number_of_words(source, target, len(words), len(others))
    theirs, ours = original_words(source), original_words(target)
    swaps = []
    for number, (word, other) in enumerate(zip(words, others, strict=True)):
        pair = [[place for found, place in places if found == number] for places in (theirs, ours)]
        if word != other and all(pair):
            swaps.append(pair)
    mapper = torch.zeros(target.length, target.length)
    i = j = 0
    while i < target.length and j < target.length:
        if swaps and swaps[0][0][0] == i:
            pair = swaps.pop(0)
            _share(mapper, *pair)
            i, j = i + len(pair[0]), j + len(pair[1])
        else:
            mapper[i if swaps else j, j] = 1  # the fault: behind the last swap, the same index instead of the same word
            i, j = i + 1, j + 1
    return mapper, torch.zeros(target.length)


def _share(mapper: Tensor, theirs: list[int], ours: list[int]) -> None:
    if len(theirs) == len(ours):
        mapper[theirs, ours] = 1
    elif ours:
        mapper[torch.tensor(theirs, dtype=torch.long)[:, None], torch.tensor(ours)] = 1 / len(ours)


def _same_number_of_words(source: PromptTokens, target: PromptTokens, ours: int, theirs: int) -> None:
    if ours != theirs:
        raise InputError(
            f"mode 'replace' needs prompts of as many words: {source.text!r} has {ours}, {target.text!r} has {theirs}; "
            "use mode='refine'"
        )


def equalizer_factors(
    targets: Sequence[PromptTokens], factors: Mapping[str, float], *, original: bool = False
) -> Tensor:
    """What each target token's map is multiplied by, (targets, L) float32; 1 for words that are not named.

    The original looks the words up in the first target and applies its factors to all.
    """
    rows = torch.ones(len(targets), targets[0].length)
    for word, factor in factors.items():
        if not original:
            require_word(targets, word)
        for row, target in zip(rows, targets, strict=True):
            row[_positions(targets[0] if original else target, word, original)] = float(factor)
    return rows


def replacement_schedule(
    targets: Sequence[PromptTokens],
    steps: int,
    cross_replace_steps: Steps | Mapping[str, Steps],
    original: bool = False,
) -> Tensor:
    """Share of the new map by U-Net call, target and token, (steps + 1, targets, L) float32 of 0 and 1.

    Args:
        steps: number of inference steps; a share f covers int(f (steps + 1)) calls.
        cross_replace_steps: for all tokens, or by word of the targets, ``default_`` for the rest (else all steps).
    """
    by_word = cross_replace_steps if isinstance(cross_replace_steps, Mapping) else {"default_": cross_replace_steps}
    rows = torch.zeros(steps + 1, len(targets), targets[0].length)
    start, end = step_range("cross_replace_steps", by_word.get("default_", 1.0), steps + 1)
    rows[start:end] = 1
    for word, share in by_word.items():
        if word == "default_":
            continue
        if not original:
            require_word(targets, word)
        start, end = step_range(f"cross_replace_steps of {word!r}", share, steps + 1)
        for number, target in enumerate(targets):
            places = _positions(target, word, original)
            rows[:, number, places] = 0
            rows[start:end, number, places] = 1
    return rows


def _positions(prompt: PromptTokens, word: str, original: bool) -> list[int]:
    return word_positions(prompt, word, original=original)


def step_range(name: str, share: Steps, count: int) -> tuple[int, int]:
    """First and last (exclusive) of ``count`` steps that a share, 0..1, or a pair of shares covers."""
    bounds = (0.0, share) if isinstance(share, int | float) else tuple(share)
    if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1] <= 1:
        raise InputError(f"{name} is {share}; use a share from 0 to 1, or (start, end)")
    return int(bounds[0] * count), int(bounds[1] * count)
