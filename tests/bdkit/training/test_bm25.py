"""BM25 over captions, against loops that follow the formula."""

import math

import numpy as np
import pytest

from bdkit.training.bm25 import bm25_neighbours
from bdkit.utils.errors import InputError

CAPTIONS = [
    "a red dog in the snow", "a red dog on the beach", "a Cat on the beach, on the sand", "a blue vase", "the vase",
    "a dog", "red red red dog", "a dog", "", "a striped cat with a red hat on the beach in the evening sun",
]  # fmt: skip


def words_of(text: str, pairs: bool) -> list[str]:
    words = text.lower().replace(",", "").split()
    return words + [" ".join(words[k : k + 2]) for k in range(len(words) - 1)] if pairs else words


def score(query: str, caption: str, pairs: bool) -> float:
    words = [words_of(text, pairs) for text in CAPTIONS]
    mean = sum(map(len, words)) / len(words)
    mine, total = words_of(caption, pairs), 0.0
    for word in set(words_of(query, pairs)):
        holding = sum(word in each for each in words)
        idf = max(0.0, math.log((len(words) - holding + 0.5) / (holding + 0.5)))
        tf = mine.count(word)
        total += idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * len(mine) / mean))
    return total


@pytest.mark.parametrize("pairs", [False, True])
def test_the_best_others_by_the_formula(pairs: bool) -> None:
    found = bm25_neighbours(CAPTIONS, 3, pairs=pairs)
    assert found.shape == (10, 3)
    for number, row in enumerate(found):
        others = [k for k in range(len(CAPTIONS)) if k != number]
        scores = {k: score(CAPTIONS[number], CAPTIONS[k], pairs) for k in others}
        expected = sorted(others, key=lambda k: (-round(scores[k], 9), k))[:3]
        assert row.tolist() == expected


def test_no_pair_is_its_own_neighbour_even_among_equal_captions() -> None:
    found = bm25_neighbours(["a dog"] * 600, 2)
    assert not (found == np.arange(600)[:, None]).any()
    assert all(len({*row}) == 2 for row in found.tolist())


def test_too_few_pairs() -> None:
    with pytest.raises(InputError, match="2 pairs are too few for 2 neighbours of each; give at least 3"):
        bm25_neighbours(["a dog", "a cat"], 2)
