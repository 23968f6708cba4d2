"""Words, their tokens, and the alignment of two prompts; golden/ holds what the original codes computed."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bdkit.checkpoints.tokenizers import load_clip_tokenizer
from bdkit.editing.alignment import (
    equalizer_factors,
    refine_mapper,
    replace_mapper,
    replacement_schedule,
)
from bdkit.editing.prompt_tokens import PromptTokens, encode_prompts, tokenize_prompt, word_positions
from bdkit.testing.tiny_model import tiny_model
from bdkit.utils.errors import InputError

GOLDEN = Path(__file__).parent / "golden"
RECORDED = json.loads((GOLDEN / "alignment.json").read_text())
CASES: dict[str, Any] = RECORDED["cases"]


@pytest.fixture(scope="module")
def model() -> SimpleNamespace:
    """As much of a full-size model as reads a prompt; "squirrel" and "watercolor" are two tokens."""
    return SimpleNamespace(
        tokenizer=load_clip_tokenizer(GOLDEN / "tokenizer"), text_encoder=SimpleNamespace(max_length=77)
    )


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "alignment.npz") as file:
        return {key: file[key].astype(np.float32) for key in file.files}


def read(model: Any, *prompts: str, queries: int = 0) -> list[PromptTokens]:
    return [tokenize_prompt(model, prompt, queries if "{}" in prompt else 0) for prompt in prompts]


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_originals_alignment(model: Any, golden: dict[str, np.ndarray], name: str) -> None:
    case = CASES[name]
    source, *targets = read(model, *case["prompts"])
    for prefix in ("mapper", "prev_mapper"):
        expected = golden.get(f"{name}/{prefix}")
        if expected is None:
            continue
        if expected.ndim == 3:
            mapper = torch.stack([replace_mapper(source, target, original=True)[0] for target in targets])
        else:
            mapper = torch.stack([refine_mapper(source, target, original=True) for target in targets])
            assert np.array_equal((mapper >= 0).float(), golden[f"{name}/{prefix.replace('mapper', 'alphas')}"])
            assert torch.equal(mapper, torch.stack([refine_mapper(source, target) for target in targets]))
        assert np.array_equal(mapper.float(), expected)
    for original in (False, True):
        schedule = replacement_schedule(targets, 8, case["cross_replace_steps"], original)
        assert np.array_equal(schedule, golden[f"{name}/cross_replace_alpha"])
        named = case.get("equalizer", {"words": [], "values": []})
        factors = dict(zip(named["words"], named["values"], strict=True))
        factors |= {case["word"]: case["value"]} if "word" in case else {}
        if factors:
            assert np.array_equal(equalizer_factors(targets, factors, original=original), golden[f"{name}/equalizer"])


def test_word_positions_of_the_original_prompts(model: Any) -> None:
    for prompt, words in RECORDED["word_positions"].items():
        tokens = tokenize_prompt(model, prompt)
        for word, positions in words.items():
            assert word_positions(tokens, word) == positions
            assert word_positions(tokens, word, original=True) == positions


def test_punctuation_case_and_several_words(model: Any) -> None:
    (tokens,) = read(model, "A Squirrel, (burger)! a squirrel's  burger")
    assert [tokens.pieces[place - 1] for place in word_positions(tokens, "squirrel")] == ["squ", "irrel"] * 2
    assert len(word_positions(tokens, "burger")) == 2
    assert word_positions(tokens, "squirrel's burger") == [*range(tokens.end - 5, tokens.end)]
    assert word_positions(tokens, "urger") == []
    assert word_positions(tokens, "burger", original=True) == []  # "(burger)!" is its word


def test_replace_keeps_the_words_after_a_swap_of_another_length(model: Any) -> None:
    source, target = read(model, "a squirrel eating a burger", "a lion eating a burger")
    mapper, own = replace_mapper(source, target)
    pairs = {place: mapper[:, place].nonzero().flatten().tolist() for place in range(target.end + 1)}
    assert pairs == {0: [0], 1: [1], 2: [2, 3], 3: [4], 4: [5], 5: [6], 6: [7]}
    assert own.nonzero().flatten().tolist() == [7]  # padding where the source still has its end
    assert torch.equal(mapper[8:, 8:], torch.eye(69))
    wrong, none = replace_mapper(source, target, original=True)
    assert wrong[:, 3].nonzero().flatten().tolist() == [3]
    assert not none.any()
    back, _ = replace_mapper(target, source)
    assert back[2, 2] == back[2, 3] == 0.5
    assert back[3, 4] == 1


def test_replace_leaves_shared_punctuation_alone(model: Any) -> None:
    source, target = read(model, "(a squirrel, eating", "(a lion, eating")
    mapper, _ = replace_mapper(source, target)
    assert mapper[:, 3].nonzero().flatten().tolist() == [3, 4]
    assert mapper[:, 4].nonzero().flatten().tolist() == [5]


def test_replace_wants_as_many_words(model: Any) -> None:
    with pytest.raises(InputError, match="as many words"):
        replace_mapper(*read(model, "a cat", "a big cat"))


def test_the_subjects_positions_are_new_and_shift_the_words() -> None:
    model = tiny_model()
    vectors = torch.zeros(1, 4, 32)
    (source, target), hidden = encode_prompts(model, ["a cat on the beach", "a {} dog on the beach"], vectors)
    assert hidden.shape == (2, 20, 32)
    assert target.text == "a dog on the beach"
    assert target.subject_mask == (False, False, *[True] * 4, *[False] * 14)
    assert word_positions(target, "dog") == [6]
    assert refine_mapper(source, target)[:11].tolist() == [0, 1, -1, -1, -1, -1, -1, 3, 4, 5, 6]
    assert refine_mapper(source, target, original=True)[:7].tolist() == [0, 1, -1, 3, 4, 5, 6]
    mapper, own = replace_mapper(source, target)
    assert own[:8].tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
    assert mapper[2, 6] == mapper[3, 7] == mapper[6, 10] == 1


def test_the_place_of_the_subject_follows_the_model() -> None:
    model = tiny_model()
    public = SimpleNamespace(
        tokenizer=model.tokenizer,
        text_encoder=model.text_encoder,
        conventions=SimpleNamespace(template="public", ctx_begin_pos=2),
    )
    ours, theirs = (tokenize_prompt(one, "a photo of a {} dog, wet", 4) for one in (model, public))
    assert ours.subject_mask.index(True) == 5
    assert theirs.subject_mask.index(True) == 2
    assert word_positions(ours, "dog") == word_positions(theirs, "dog") == [9]
    assert word_positions(ours, "photo") == [2]
    assert word_positions(theirs, "photo") == [6]


def test_a_long_prompt_is_cut_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="cut off"):
        tokens = tokenize_prompt(tiny_model(), "a dog " * 12)
    assert tokens.end == tokens.length - 1
    assert len(tokens.positions) == 18


@pytest.mark.parametrize("prompt", ["a dog", "a {} {} dog", "a dog {}", "a {} , dog"])
def test_a_subject_needs_its_word(prompt: str) -> None:
    with pytest.raises(InputError, match="right before the subject's word"):
        tokenize_prompt(tiny_model(), prompt, 4)
