"""A prompt as tokens with their positions in the text encoder, subject vectors among them, and where its words are."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from typing import Any

import torch
from torch import Tensor

from bdkit.models.latent_diffusion import LatentDiffusion
from bdkit.models.prompts import tokenize, warn_of_lost
from bdkit.utils.errors import InputError

NO_TOKEN = -1  # a subject vector's position in `PromptTokens.sequence`: it matches nothing


@dataclass(frozen=True, kw_only=True)
class PromptTokens:
    """One prompt as the text encoder sees it, in L positions.

    Args:
        text: the prompt without its ``{}``.
        ids: (L,) token ids, any id at the subject's positions.
        subject_mask: (L,) True at the positions of the subject vectors.
        positions: of the text's tokens, ascending.
        spans: of each of these tokens, (begin, end) in ``text``.
        pieces: each of these tokens as text, in lower case.
        end: position of the end-of-text token.
    """

    text: str
    ids: tuple[int, ...]
    subject_mask: tuple[bool, ...]
    positions: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    pieces: tuple[str, ...]
    end: int

    @property
    def length(self) -> int:
        return len(self.ids)

    @property
    def sequence(self) -> list[int]:
        """Token ids from the begin-of-text to the end-of-text token, `NO_TOKEN` at the subject's positions."""
        return [NO_TOKEN if self.subject_mask[place] else self.ids[place] for place in range(self.end + 1)]

    def without_subject(self) -> "PromptTokens":
        """The same as if there were no subject vectors: what the original aligner counts."""
        kept = [token for token, subject in zip(self.ids, self.subject_mask, strict=True) if not subject]
        return replace_fields(
            self,
            ids=(*kept, *[kept[-1]] * (self.length - len(kept))),
            subject_mask=(False,) * self.length,
            positions=tuple(range(1, len(self.positions) + 1)),
            end=self.end - sum(self.subject_mask),
        )


def tokenize_prompt(model: LatentDiffusion, prompt: str, queries: int = 0) -> PromptTokens:
    """The tokens of a prompt, not repeated; text that does not fit is cut with a warning.

    Args:
        prompt: with ``{}`` right before the subject's word where there are vectors: ``a {} dog on a sofa``.
        queries: number of subject vectors; they stand where the model's prompt template wants them.
    """
    conventions = getattr(model, "conventions", None)  # a plain model has none
    noun, options = None, dict[str, Any]()
    if queries:
        parts = re.fullmatch(r"([^{}]*)\{\}\s*([\w'-]+)([^{}]*)", prompt, flags=re.DOTALL)
        if not parts:
            raise InputError(f"the prompt {prompt!r} needs one {{}}, right before the subject's word")
        prompt, noun = f"{parts[1]}{{}}{parts[3]}", parts[2]
        if conventions is not None:
            options = {"template": conventions.template, "position": conventions.ctx_begin_pos}
    tokenizer, nouns = model.tokenizer, None if noun is None else [noun]
    rows, masks, lost = tokenize(tokenizer, [prompt], nouns, model.text_encoder.max_length, queries=queries, **options)
    warn_of_lost(lost)
    ids, mask = rows[0].tolist(), masks[0].tolist()
    padding = (tokenizer.eos_token_id, tokenizer.pad_token_id)
    end = 1 + max(place for place in range(len(ids)) if mask[place] or place == 0 or ids[place] not in padding)
    free = [place for place in range(1, end) if not mask[place]]
    text = prompt if noun is None else " ".join(prompt.replace("{}", f" {noun} ").split())
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    count = min(len(free), len(encoded.input_ids))
    return PromptTokens(
        text=text,
        ids=tuple(ids),
        subject_mask=tuple(mask),
        positions=tuple(free[:count]),
        spans=tuple((begin, stop) for begin, stop in encoded.offset_mapping[:count]),
        pieces=tuple(tokenizer.decode([token]).strip() for token in encoded.input_ids[:count]),
        end=end,
    )


def encode_prompts(
    model: LatentDiffusion, prompts: Sequence[str], subject_embeddings: Tensor | None = None
) -> tuple[list[PromptTokens], Tensor]:
    """Tokens and hidden states (B, L, D) of prompts; those with ``{}`` hold a subject.

    Args:
        subject_embeddings: (1, Q, D) or one for each prompt with ``{}``.
    """
    rows = [row for row, prompt in enumerate(prompts) if "{}" in prompt]
    if subject_embeddings is None:
        tokens = [tokenize_prompt(model, prompt) for prompt in prompts]
        ids = torch.tensor([prompt.ids for prompt in tokens], device=model.device)
        return tokens, model.text_encoder(ids)
    if subject_embeddings.dim() != 3 or not rows or len(subject_embeddings) not in (1, len(rows)):
        raise InputError(
            f"subject_embeddings of shape {tuple(subject_embeddings.shape)} for {len(rows)} prompts with {{}}; "
            "give (1, queries, width), or one for each of these prompts"
        )
    queries, width = subject_embeddings.shape[1:]
    if width != model.text_encoder.model.config.hidden_size:
        raise InputError(
            f"subject_embeddings have width {width}, the text encoder {model.text_encoder.model.config.hidden_size}"
        )
    tokens = [tokenize_prompt(model, prompt, queries if "{}" in prompt else 0) for prompt in prompts]
    ids = torch.tensor([prompt.ids for prompt in tokens], device=model.device)
    mask = torch.tensor([prompt.subject_mask for prompt in tokens], device=model.device)
    vectors = subject_embeddings.new_zeros(len(prompts), queries, width)
    vectors[rows] = subject_embeddings
    return tokens, model.text_encoder(ids, vectors.to(model.device), mask)


def word_positions(prompt: PromptTokens, word: str, *, original: bool = False) -> list[int]:
    """Positions of all tokens of a word (or of several words in a row), wherever it stands in the prompt.

    Case does not count, nor does punctuation around the word. Empty when the prompt does not hold it.
    """
    if original:
        words = prompt.text.split(" ")
        return [place for number, place in original_words(prompt) if words[number] == word]
    pattern = r"\s+".join(re.escape(part) for part in word.split())
    if not pattern:
        return []
    matches = re.finditer(rf"(?<!\w){pattern}(?!\w)", prompt.text, flags=re.IGNORECASE)
    return [place for match in matches for place in positions_within(prompt, *match.span())]


def require_word(prompts: Sequence[PromptTokens], word: str) -> None:
    """Raises InputError for a word that none of the prompts holds."""
    if not any(word_positions(prompt, word) for prompt in prompts):
        texts = " or ".join(repr(text) for text in dict.fromkeys(prompt.text for prompt in prompts))
        raise InputError(f"the word {word!r} is not in {texts}")


def positions_within(prompt: PromptTokens, begin: int, end: int) -> list[int]:
    """Positions of the tokens that have a part in ``text[begin:end]``."""
    pairs = zip(prompt.positions, prompt.spans, strict=True)
    return [place for place, (first, last) in pairs if first < end and last > begin]


def original_words(prompt: PromptTokens) -> list[tuple[int, int]]:
    """(number of the word, position) of each token, by counting characters as the original does."""
    words = prompt.text.split(" ")
    number = characters = 0
    pairs = []
    for index, piece in enumerate(prompt.pieces):
        if number >= len(words):
            break
        pairs.append((number, index + 1))
        characters += len(piece.strip("#"))
        if characters >= len(words[number]):
            number, characters = number + 1, 0
    return pairs
