"""From a prompt and a subject's word to token ids: the templates, repetition, truncation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import CLIPTokenizer

from bdkit.models.text_encoder import insert_placeholder_ids
from bdkit.utils.errors import InputError

PUBLIC_NEGATIVE_PROMPT = (
    "over-exposure, under-exposure, saturated, duplicate, out of frame, lowres, cropped, worst quality, low quality, "
    "jpeg artifacts, morbid, mutilated, out of frame, ugly, bad anatomy, bad proportions, deformed, blurry, duplicate"
)
"""The negative prompt of the public examples (Sec. 4.1); none is the default."""


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
class PromptLayout:
    """What the tokens of one model have to fit into.

    Args:
        length: positions of the text encoder.
        queries: subject vectors; 0 for plain text.
        position: where the vectors of a "position" template begin, the begin-of-text token counted.
    """

    length: int
    queries: int
    position: int = 2

    @property
    def room(self) -> int:
        return self.length - 2 - self.queries


def find_template(name: str) -> PromptTemplate:
    """A template by its name; InputError tells the names that there are."""
    if name not in PROMPT_TEMPLATES:
        raise InputError(f"unknown prompt template {name!r}; use {', '.join(PROMPT_TEMPLATES)}")
    return PROMPT_TEMPLATES[name]


def split_prompt(prompt: str, class_noun: str | None) -> tuple[str, str]:
    """The text before and after the subject's place; the class noun opens the second part.

    Raises InputError for an empty prompt or more than one ``{}``.
    """
    if class_noun is None:
        if "{}" in prompt:
            raise InputError(f"the prompt {prompt!r} has a place for a subject, but no subject was given")
        return prompt, ""
    if prompt.count("{}") > 1:
        raise InputError(f"the prompt {prompt!r} has {prompt.count('{}')} places for a subject; use one {{}}")
    template = prompt if "{}" in prompt else f"a {{}} {prompt}".strip()
    before, after = template.split("{}")
    return before.strip(), f"{class_noun} {after.strip()}".strip()


def prompt_ids(
    tokenizer: CLIPTokenizer,
    prompt: str,
    class_noun: str | None,
    template: PromptTemplate,
    layout: PromptLayout,
    *,
    prompt_reps: int = 1,
) -> tuple[list[int], list[bool], str]:
    """Token ids and the mask of the subject's places, of ``layout.length`` each, and the text that was cut off.

    Only the text itself counts as cut, not its repetitions.
    """

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    before, after = split_prompt(prompt, class_noun)
    whole = f"{before} {after}".strip()
    room = layout.room
    if template.vectors == "place" or (class_noun is None and not layout.queries):
        prefix, suffix = ids(before), ids(after)
        lost = tokenizer.decode((prefix + suffix)[room:])
        if prompt_reps > 1:
            suffix = ids(", ".join([after] + [whole] * (prompt_reps - 1)))
    else:
        tail = ids(template.tail.format(noun=class_noun)) if class_noun and layout.queries else []
        room -= len(tail)
        lost = tokenizer.decode(ids(whole)[room:])
        tokens = ids(", ".join([whole] * prompt_reps))[:room] + tail
        cut = len(tokens) if template.vectors == "end" else layout.position - 1
        prefix, suffix = tokens[:cut], tokens[cut:]
    rows, mask, _ = insert_placeholder_ids(
        prefix,
        suffix,
        bos=tokenizer.bos_token_id,
        eos=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
        queries=layout.queries,
        length=layout.length,
    )
    return rows, mask, lost


def warn_of_lost(lost: Mapping[str, Sequence[str]], stacklevel: int = 3) -> None:
    """One warning for all that was cut off; ``lost`` has the texts by what they were cut from ("the prompt", ...)."""
    parts = []
    for what, texts in lost.items():
        named = " and ".join(repr(text) for text in dict.fromkeys(filter(None, texts)))
        if named:
            parts.append(f"{what}; this is cut off: {named}")
    if parts:
        warnings.warn("; ".join(parts), stacklevel=stacklevel)
