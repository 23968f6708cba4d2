"""The two tokenizers of a checkpoint, in and out; every version of transformers reads what is written."""

import json
import warnings
from pathlib import Path
from typing import Any

from transformers import BertTokenizer, CLIPTokenizer

from bdkit.checkpoints.files import LoadOptions
from bdkit.checkpoints.hub import BERT_PATTERNS, fetch, fetch_bert_tokenizer, is_hub_id
from bdkit.utils.errors import InputError

DECODER_TOKEN = "[DEC]"


def load_clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """The text encoder's tokenizer; InputError when its files are missing or damaged."""
    _check(folder, ("tokenizer.json", "vocab.json"))
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise _unreadable(folder, error) from None


def load_bert_tokenizer(options: LoadOptions, candidates: list[Path], vocab_size: int) -> BertTokenizer:
    """The Q-Former's tokenizer: bert-base-uncased with [DEC] as its begin-of-text token (30,523 tokens).

    Args:
        options: ``qformer_tokenizer`` is a folder (``vocab.txt`` is enough) or hub id; None: the first folder of
            ``candidates`` that is there, else bert-base-uncased from the hub's cache or the hub.
        vocab_size: of the Q-Former's word embeddings; another number of tokens is warned of.
    """
    choice, local_files_only = options.qformer_tokenizer, options.local_files_only
    if choice is None:
        folder = next((path for path in candidates if path.is_dir()), None)
        folder = folder or fetch_bert_tokenizer(local_files_only=local_files_only)
    elif is_hub_id(str(choice)):
        folder = fetch(str(choice), BERT_PATTERNS, local_files_only=local_files_only)
    else:
        folder = Path(choice)
    _check(folder, ("tokenizer.json", "vocab.txt"))
    try:
        tokenizer = BertTokenizer.from_pretrained(folder, local_files_only=True)
        tokenizer.add_special_tokens({"bos_token": DECODER_TOKEN})
    except Exception as error:
        raise _unreadable(folder, error) from None
    if len(tokenizer) != vocab_size:
        warnings.warn(
            f"the BERT tokenizer of {folder} has {len(tokenizer)} tokens, the Q-Former {vocab_size}: it is not the one "
            "that the weights were trained with",
            stacklevel=2,
        )
    return tokenizer


def _check(folder: Path, names: tuple[str, ...]) -> None:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; it should hold a tokenizer ({' or '.join(names)})")
    if not any((folder / name).is_file() for name in names):
        raise InputError(f"{folder} holds no tokenizer: {' and '.join(names)} are missing")


def _unreadable(folder: Path, error: Exception) -> InputError:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return InputError(f"the tokenizer in {folder} cannot be read ({line}); fetch it again")


def save_clip_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """``tokenizer.json`` as today's transformers writes it, and the ``vocab.json`` and ``merges.txt`` of before."""
    tokenizer.save_pretrained(folder)
    model = _backend(tokenizer)
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    specials = {name: str(getattr(tokenizer, name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    (folder / "special_tokens_map.json").write_text(json.dumps(specials, indent=1) + "\n")
    old = {"tokenizer_class": "CLIPTokenizer", "model_max_length": tokenizer.model_max_length, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(old | specials, indent=1) + "\n")


def save_bert_tokenizer(tokenizer: BertTokenizer, folder: Path) -> None:
    """``vocab.txt``, as bert-base-uncased comes: without [DEC], which every reader adds."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab: dict[str, int] = _backend(tokenizer)["vocab"]
    words = sorted(vocab, key=lambda word: vocab[word])
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": tokenizer.model_max_length}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def _backend(tokenizer: Any) -> dict[str, Any]:
    model: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return model
