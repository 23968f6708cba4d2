"""Neighbours by their captions: Okapi's BM25 over all pairs, as Re-Imagen retrieves them (arXiv 2209.14491)."""

import itertools
import re
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from bdkit.utils.errors import InputError

CHUNK = 256  # queries that are scored together


def bm25_neighbours(
    captions: Sequence[str], count: int, *, pairs: bool = False, k1: float = 1.2, b: float = 0.75
) -> np.ndarray:
    """The most similar other captions of each, best first: indices (N, count) int64, never its own.

    A caption's score for a query is the sum, over the query's different words, of idf x tf (k1 + 1) / (tf + k1 (1 - b +
    b length / mean length)), with idf = ln((N - n + 1/2) / (n + 1/2)), at least 0: words in more than half of the
    captions count nothing. Equal scores: the one that comes first.

    Args:
        pairs: two words that follow each other count as a word, too: "red with blue" is not "blue with red".

    Raises:
        InputError: fewer than ``count`` + 1 captions.
    """
    if len(captions) <= count:
        raise InputError(f"{len(captions)} pairs are too few for {count} neighbours of each; give at least {count + 1}")
    numbers: dict[str, int] = {}
    words = [[numbers.setdefault(word, len(numbers)) for word in _words(caption, pairs)] for caption in captions]
    lengths = np.array([len(each) for each in words])
    rows, columns = np.repeat(np.arange(len(words)), lengths), np.array([w for each in words for w in each], dtype=int)
    counts = csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(words), max(1, len(numbers))))
    counts.sum_duplicates()
    holding = np.bincount(counts.indices, minlength=counts.shape[1])
    idf = np.maximum(0, np.log((len(words) - holding + 0.5) / (holding + 0.5)))
    row_of = np.repeat(np.arange(len(words)), np.diff(counts.indptr))
    length = k1 * (1 - b + b * lengths / max(1.0, lengths.mean()))
    weights = counts.copy()
    weights.data = idf[counts.indices] * counts.data * (k1 + 1) / (counts.data + length[row_of])
    weights.eliminate_zeros()
    queries = counts.copy()
    queries.data[:] = 1
    found, by_word = np.empty((len(words), count), dtype=np.int64), weights.T.tocsr()
    for start in range(0, len(words), CHUNK):
        scores = (queries[start : start + CHUNK] @ by_word).toarray()
        scores[np.arange(len(scores)), np.arange(start, start + len(scores))] = -1
        least = np.partition(scores, -count, axis=1)[:, -count]
        for number, (row, bound) in enumerate(zip(scores, least, strict=True), start):
            best = np.flatnonzero(row >= bound)
            found[number] = best[np.argsort(-row[best], kind="stable")[:count]]
    return found


def _words(caption: str, pairs: bool) -> list[str]:
    words: list[str] = re.findall(r"\w+", caption.lower())
    return words + [f"{one} {other}" for one, other in itertools.pairwise(words)] if pairs else words
