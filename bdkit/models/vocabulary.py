"""Tokenizers for models trained from scratch: the stock CLIP and BERT classes over a vocabulary of our own."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers.pre_tokenizers import ByteLevel
from transformers import BertTokenizer, CLIPTokenizer

RARE_TOKEN = "sks"  # DreamBooth's identifier: one token that no caption uses
PLACEHOLDER_TOKEN = "<*>"  # Textual Inversion's


def clip_tokenizer(words: Sequence[str], max_length: int) -> CLIPTokenizer:
    """Byte-level BPE with end-of-word marks: each of ``words`` (and the rare token) is one token, other text is bytes.

    Args:
        words: lower-case words, sorted so that the ids are the same everywhere.
        max_length: positions of the text encoder (``model_max_length``).
    """
    alphabet = sorted(ByteLevel.alphabet())
    vocab = {symbol: index for index, symbol in enumerate([*alphabet, *(f"{a}</w>" for a in alphabet)])}
    merges: list[str] = []
    for word in sorted({*words, RARE_TOKEN}):
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        left = pieces[0]
        for right in pieces[1:]:
            pair = f"{left} {right}"
            left += right
            if pair not in merges:
                merges.append(pair)
            vocab.setdefault(left, len(vocab))
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=[tuple(m.split(" ")) for m in merges], model_max_length=max_length)


def bert_tokenizer(words: Sequence[str], max_length: int) -> BertTokenizer:
    """Word-piece tokenizer of the Q-Former with [DEC] as its beginning of a generated text (Sec. 3.1, ITG)."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    entries = dict.fromkeys([*pieces, ",", ".", "-", *sorted(words)])
    vocab = {piece: index for index, piece in enumerate(entries)}
    tokenizer = BertTokenizer(vocab=vocab, model_max_length=max_length)
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    return tokenizer
