"""From a prompt and a subject's word to token ids: the templates, repetition, truncation."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal, Self, TypeAlias

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from bdkit.models.preprocessing import SubjectPixels
from bdkit.utils.errors import InputError
from bdkit.utils.io import check_unicode

Lost: TypeAlias = dict[str, list[str]]
"""The texts that the model does not get to see, by why."""

TOKEN_AND_NOUN = ("{0} {1}", "{} {}")
"""The two places of a benchmark's template, "a {} {} in the jungle": a method's own token, and the class noun."""


@dataclass(frozen=True, kw_only=True)
class PromptTemplate:
    """Where the subject vectors stand in a prompt.

    Args:
        vectors: "place", right before the subject's word; "position", at a fixed token position, whatever the prompt;
            "end", behind all of it.
        tail: what follows the prompt when there are vectors; ``{noun}`` stands for the subject's word. Never cut.
        prompt_reps: how often the text is repeated, ", " between; None: as often as the model's own default says.
    """

    vectors: Literal["place", "position", "end"]
    tail: str = ""
    prompt_reps: int | None = None


PROMPT_TEMPLATES = {
    # "a red <vectors> dog in the snow": what the mini model is trained with
    "place": PromptTemplate(vectors="place"),
    # "a <vectors> dog swimming, a dog swimming, ...": the public code, what the public weights are trained with
    "public": PromptTemplate(vectors="position", prompt_reps=20),
    # "[text prompt], the [subject text] is [subject prompt]" (Sec. 3.1)
    "paper": PromptTemplate(vectors="end", tail=", the {noun} is", prompt_reps=1),
}


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """How a model was trained to be asked; kept with its weights.

    Args:
        template: name in `PROMPT_TEMPLATES`.
        ctx_begin_pos: where the subject vectors begin in the template "public", the begin-of-text token counted.
        pixels: how a subject's image becomes the image encoder's input.
        subject_text: whether the multimodal encoder reads the class noun; without it an empty text.
    """

    template: str = "place"
    ctx_begin_pos: int = 2
    pixels: SubjectPixels = field(default_factory=SubjectPixels)
    subject_text: bool = True

    def __post_init__(self) -> None:
        find_template(self.template)

    @classmethod
    def from_json(cls, content: Mapping[str, Any] | None) -> Self:
        """The inverse of ``asdict``; None, of a record without them, gives the defaults."""
        if content is None:
            return cls()
        pixels = dict(content["pixels"])
        pixels |= {name: tuple(pixels[name]) for name in ("mean", "std")}
        return cls(**{**content, "pixels": SubjectPixels(**pixels)})


def find_template(name: str) -> PromptTemplate:
    """A template by its name; InputError tells the names that there are."""
    if name not in PROMPT_TEMPLATES:
        raise InputError(f"unknown prompt template {name!r}; use {', '.join(PROMPT_TEMPLATES)}")
    return PROMPT_TEMPLATES[name]


def subject_template(prompt: str) -> str:
    """The prompt with ``{}`` where the subject goes, or with no place for one: how every prompt is read.

    DreamBench's ``{0} {1}``, and ``{} {}``, stand for a method's own token and the class noun: one place. No other
    brace means anything, so it is refused.
    """
    pair = next((pair for pair in TOKEN_AND_NOUN if pair in prompt), "{}")
    template = prompt.replace(pair, "{}", 1)
    if "{" in (rest := template.replace("{}", "")) or "}" in rest:
        raise InputError(
            f"the prompt {prompt!r} has a brace that means nothing; write {{}} where the subject goes, as in "
            "'a {} in the snow', and no other brace"
        )
    if template.count("{}") > 1:
        raise InputError(f"the prompt {prompt!r} has {template.count('{}')} places for a subject; use one {{}}")
    return template


def one_placeholder(prompt_template: str) -> str:
    """ "a {} {} in the jungle" -> "a {} in the jungle" (`subject_template`); a template without a place is refused."""
    template = subject_template(prompt_template)
    if "{}" not in template:
        raise InputError(
            f"the prompt {prompt_template!r} needs {{}} where the subject goes, as in 'a {{}} in the snow'"
        )
    return template


def check_words(class_noun: str) -> None:
    """Refuses a class word that says nothing."""
    if not class_noun.strip():
        raise InputError("the class word is empty; say what the subject is, such as 'dog'")


def split_prompt(prompt: str, class_noun: str | None) -> tuple[str, str]:
    """The text before and after the subject's place; the class noun opens the second part."""
    check_unicode(prompt, "the prompt")
    check_unicode(class_noun or "", "the class word")
    template = subject_template(prompt)
    if class_noun is None:
        if "{}" in template:
            raise InputError(f"the prompt {prompt!r} has a place for a subject, but no subject was given")
        return prompt, ""
    check_words(class_noun)
    template = template if "{}" in template else f"a {{}} {template}".strip()
    before, after = template.split("{}")
    return before.strip(), f"{class_noun} {after.strip()}".strip()


def text_list(texts: str | Sequence[str], what: str) -> list[str]:
    """Texts given alone or one after another, as a list; InputError for anything else."""
    several = [texts] if isinstance(texts, str) else _sequence(texts, f"{what} is text")
    if wrong := [text for text in several if not isinstance(text, str)]:
        raise InputError(f"{what} is text, not {wrong[0]!r}")
    return several


def _sequence(values: Any, what: str) -> list[Any]:
    if isinstance(values, Iterable):
        return list(values)
    raise InputError(f"{what}, one or a list, not {values!r}")


def one_each(
    prompt: str | Sequence[str],
    class_noun: str | Sequence[str] | None,
    seeds: Sequence[int] | None,
    *batched: Tensor | None,
) -> tuple[list[str], list[str] | None, list[int]]:
    """Prompts, class nouns and seeds (default 0, 1, ...), one an image; ``batched`` is what else has one an image."""
    prompts = text_list(prompt, "a prompt")
    nouns = None if class_noun is None else text_list(class_noun, "a class word")
    numbers = None if seeds is None else _sequence(seeds, "seeds are whole numbers")
    if numbers is not None and not all(isinstance(seed, Integral) for seed in numbers):
        raise InputError(f"seeds are whole numbers, such as [0, 1], not {seeds!r}")
    count = max([1, *(len(part) for part in (prompts, seeds, nouns, *batched) if part is not None)])
    prompts = prompts * count if len(prompts) == 1 else prompts
    nouns = nouns * count if nouns is not None and len(nouns) == 1 else nouns
    seeds = list(seeds) if seeds is not None else list(range(count))
    if len(prompts) != count or len(seeds) != count or (nouns is not None and len(nouns) != count):
        raise InputError(
            f"{len(prompts)} prompts, {len(seeds)} seeds and {len(nouns or [])} target subjects do not fit"
        )
    return prompts, nouns, seeds


def tokenize(
    tokenizer: CLIPTokenizer,
    prompts: Sequence[str],
    class_nouns: Sequence[str] | None,
    length: int,
    *,
    template: str = "place",
    queries: int = 0,
    position: int = 2,
    prompt_reps: int = 1,
    what: str = "the prompt",
) -> tuple[Tensor, Tensor, Lost]:
    """Token ids (B, length), the mask of the subject vectors' places (B, length), and the texts that are lost.

    Only the text itself counts as cut off, not its repetitions.

    Args:
        length: positions of the text encoder.
        queries: subject vectors; 0 for plain text.
        position: where the vectors of a "position" template begin, the begin-of-text token counted.
        what: the prompts' name in a warning.
    """
    chosen, room = find_template(template), length - 2 - queries
    nouns: Sequence[str | None] = class_nouns or [None] * len(prompts)
    special = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    rows, cuts, unknown = [], [], []
    prompt_reps = min(prompt_reps, length)  # a repetition has at least one token
    for prompt, noun in zip(prompts, nouns, strict=True):
        prefix, suffix, cut = _pieces(tokenizer, prompt, noun, chosen, room, queries, position, prompt_reps)
        rows.append(insert_placeholder_ids(prefix, suffix, queries=queries, length=length, **special))
        cuts.append(cut)
        strange = tokenizer.unk_token_id in (*prefix, *suffix)
        unknown.append(unknown_letters(tokenizer, f"{prompt} {noun or ''}") if strange else "")
    ids, mask = (torch.tensor([row[k] for row in rows]) for k in (0, 1))
    lost = {
        f"{what} is longer than {room} tokens; this is cut off": cuts,
        f"{what} has letters that the model's tokenizer does not know; they mean nothing to it": unknown,
    }
    return ids, mask, lost


def unknown_letters(tokenizer: Any, text: str) -> str:
    """The letters of ``text`` that the tokenizer can only write as its unknown token, spaces between."""
    ids = {letter: tokenizer(letter, add_special_tokens=False, verbose=False).input_ids for letter in text}
    return " ".join(letter for letter, tokens in ids.items() if tokenizer.unk_token_id in tokens)


def _pieces(
    tokenizer: CLIPTokenizer,
    prompt: str,
    class_noun: str | None,
    template: PromptTemplate,
    room: int,
    queries: int,
    position: int,
    prompt_reps: int,
) -> tuple[list[int], list[int], str]:
    """Token ids before and after the subject vectors, and the text that was cut off."""

    def ids(text: str) -> list[int]:
        return write_out(tokenizer, tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    before, after = split_prompt(prompt, class_noun)
    whole = f"{before} {after}".strip()
    if template.vectors == "place" or (class_noun is None and not queries):
        prefix, suffix = ids(before), ids(after)
        lost = tokenizer.decode((prefix + suffix)[room:])
        if prompt_reps > 1:
            suffix = ids(", ".join([after] + [whole] * (prompt_reps - 1)))
        return prefix, suffix, lost
    tail = ids(template.tail.format(noun=class_noun)) if class_noun and queries else []
    room -= len(tail)
    lost = tokenizer.decode(ids(whole)[room:])
    tokens = ids(", ".join([whole] * prompt_reps))[:room] + tail
    cut = len(tokens) if template.vectors == "end" else position - 1
    return tokens[:cut], tokens[cut:], lost


def write_out(tokenizer: CLIPTokenizer, ids: Sequence[int]) -> list[int]:
    """Token ids with all vectors of a learned word: "<*>" of three becomes "<*> <*>_1 <*>_2", as in diffusers."""
    added = tokenizer.added_tokens_encoder
    further: dict[int, list[int]] = {}
    for name, number in added.items():
        while f"{name}_{len(further.get(number, ())) + 1}" in added:
            further.setdefault(number, []).append(added[f"{name}_{len(further.get(number, ())) + 1}"])
    return [number for one in ids for number in (one, *further.get(one, ()))]


def insert_placeholder_ids(
    prefix: list[int], suffix: list[int], *, bos: int, eos: int, pad: int, queries: int, length: int
) -> tuple[list[int], list[bool]]:
    """``[BOS] prefix <queries> suffix [EOS] pad`` in ``length`` positions, cut at its end, and the queries' mask."""
    room = length - 2 - queries
    prefix, suffix = prefix[:room], suffix[: max(0, room - len(prefix))]
    ids = [bos, *prefix, *([eos] * queries), *suffix, eos]
    mask = [False] * (1 + len(prefix)) + [True] * queries
    return ids + [pad] * (length - len(ids)), mask + [False] * (length - len(mask))


def warn_of_lost(lost: Mapping[str, Sequence[str]], stacklevel: int = 3) -> None:
    """One warning for all that is lost."""
    parts = []
    for why, texts in lost.items():
        named = " and ".join(repr(text) for text in dict.fromkeys(filter(None, texts)))
        if named:
            parts.append(f"{why}: {named}")
    if parts:
        warnings.warn("; ".join(parts), stacklevel=stacklevel)
