"""Tokenizers of the models from scratch: ids that never move, text that comes back, unknown letters."""

from pathlib import Path

import pytest
from transformers import BertTokenizer, CLIPTokenizer

from bdkit.miniworld.captions import VOCABULARY
from bdkit.miniworld.subjects import CLASSES
from bdkit.models.tokenizers import RARE_TOKEN, bert_tokenizer, clip_tokenizer

TEXTS = ("a purple cat in the jungle", "a photo of a sks backpack, wearing a hat", "zebras & creme brulee 7", "")


@pytest.fixture(scope="module")
def clip() -> CLIPTokenizer:
    return clip_tokenizer(VOCABULARY, 48)


@pytest.fixture(scope="module")
def bert() -> BertTokenizer:
    return bert_tokenizer(VOCABULARY, 48)


def test_the_order_of_the_words_does_not_matter_and_each_is_one_token(clip: CLIPTokenizer, bert: BertTokenizer) -> None:
    shuffled = clip_tokenizer(list(reversed(VOCABULARY)), 48), bert_tokenizer(list(reversed(VOCABULARY)), 48)
    for ours, theirs in zip((clip, bert), shuffled, strict=True):
        assert ours.get_vocab() == theirs.get_vocab()
        assert [ours(t).input_ids for t in TEXTS] == [theirs(t).input_ids for t in TEXTS]
    words = [w for w in VOCABULARY if w.isalpha()]
    assert len(words) > 250
    assert [w for w in words if clip.tokenize(w) != [f"{w}</w>"]] == []
    (rare,) = clip(RARE_TOKEN, add_special_tokens=False).input_ids
    assert all(rare not in clip(word).input_ids for word in VOCABULARY if word != RARE_TOKEN)


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_from_its_ids(clip: CLIPTokenizer, text: str) -> None:
    ids = clip(text, add_special_tokens=False).input_ids
    assert clip.decode(ids).replace(" ", "") == text.replace(" ", "")
    assert clip(text).input_ids == [clip.bos_token_id, *ids, clip.eos_token_id]
    assert max([0, *ids]) < len(clip)


def test_what_is_not_ascii_is_unknown_and_leaves_the_rest_alone(clip: CLIPTokenizer) -> None:
    ids = clip("a café in the snow", add_special_tokens=False).input_ids
    words = clip("a caf in the snow", add_special_tokens=False).input_ids
    assert clip.unk_token_id in ids
    assert [i for i in ids if i != clip.unk_token_id][-3:] == words[-3:]
    assert all(symbol.isascii() for symbol in clip.get_vocab())


def test_words_of_the_qformer_are_one_piece_and_dec_is_its_own(bert: BertTokenizer) -> None:
    for word in {w for noun in CLASSES for w in noun.split()} | {w for w in VOCABULARY if w.isalpha()}:
        assert bert.tokenize(word) == [word]
    assert bert.bos_token == "[DEC]"
    assert bert.bos_token_id not in bert("a dog [DEC").input_ids
    assert len({bert.bos_token_id, bert.cls_token_id, bert.sep_token_id, bert.pad_token_id, bert.unk_token_id}) == 5
    assert bert("dog").input_ids[0] == bert.cls_token_id


def test_tokenizers_survive_saving(clip: CLIPTokenizer, bert: BertTokenizer, tmp_path: Path) -> None:
    clip.save_pretrained(tmp_path / "clip")
    bert.save_pretrained(tmp_path / "bert")
    pairs = (
        (clip, CLIPTokenizer.from_pretrained(tmp_path / "clip")),
        (bert, BertTokenizer.from_pretrained(tmp_path / "bert")),
    )
    for before, after in pairs:
        assert after.get_vocab() == before.get_vocab()
        assert [after(t).input_ids for t in (*TEXTS, *VOCABULARY)] == [
            before(t).input_ids for t in (*TEXTS, *VOCABULARY)
        ]
        assert after.model_max_length == 48
        assert (after.bos_token_id, after.pad_token_id) == (before.bos_token_id, before.pad_token_id)
