"""Tokenizers for models trained from scratch: the stock CLIP and BERT classes over a vocabulary of our own."""

import re
from collections.abc import Sequence

from transformers import BertTokenizer, CLIPTokenizer

from bdkit.models.configs import RARE_TOKEN

PRINTABLE = [chr(code) for code in range(33, 127)]


def clip_tokenizer(words: Sequence[str], max_length: int) -> CLIPTokenizer:
    """Byte-level BPE with end-of-word marks: each of ``words`` (and the rare token) is one token.

    Other words are spelt in printable ASCII; what lies outside it becomes the unknown token.

    Args:
        words: lower-case words, sorted so that the ids are the same everywhere; what a hyphen joins counts as words.
        max_length: positions of the text encoder (``model_max_length``).
    """
    alphabet = [symbol for symbol in PRINTABLE if symbol == symbol.lower()]  # CLIP's tokenizer makes all lower case
    vocab = {symbol: index for index, symbol in enumerate([*alphabet, *(f"{a}</w>" for a in alphabet)])}
    merges: list[tuple[str, str]] = []
    pieces = {part for word in {*words, RARE_TOKEN} for part in re.findall("[a-z]+", word)}
    splits = [[*piece[:-1], f"{piece[-1]}</w>"] for piece in sorted(pieces)]
    for split in splits:
        while len(split) > 1:  # each merge goes through all words at once, as the tokenizer will apply it
            pair = (split[0], split[1])
            merges.append(pair)
            vocab.setdefault(pair[0] + pair[1], len(vocab))
            for other in splits:
                _merge(other, pair)
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=list(dict.fromkeys(merges)), model_max_length=max_length)


def _merge(symbols: list[str], pair: tuple[str, str]) -> None:
    index = 0
    while index < len(symbols) - 1:
        if (symbols[index], symbols[index + 1]) == pair:
            symbols[index : index + 2] = [pair[0] + pair[1]]
        index += 1


def bert_tokenizer(words: Sequence[str], max_length: int) -> BertTokenizer:
    """Word-piece tokenizer of the Q-Former with [DEC] as its beginning of a generated text (Sec. 3.1, ITG)."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    entries = dict.fromkeys([*pieces, ",", ".", "-", *sorted(words)])
    vocab = {piece: index for index, piece in enumerate(entries)}
    tokenizer = BertTokenizer(vocab=vocab, model_max_length=max_length)
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    return tokenizer
