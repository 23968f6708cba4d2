"""Checkpoints by their hub id; only what is needed is fetched, and the cache alone serves offline."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from bdkit.checkpoints.files import ADAPTER_FILES, STEMS, VARIANTS, has_weights
from bdkit.utils.errors import InputError

CONFIG_PARTS = ("image_processor", "scheduler", "tokenizer", "qformer_tokenizer")
WEIGHT_PARTS = ("qformer", "text_encoder", "unet", "vae")
CONFIG_PATTERNS = (
    *("model_index.json", "bdkit.json", "subject.safetensors"),
    *(f"{part}/{name}" for part in (*CONFIG_PARTS, *WEIGHT_PARTS) for name in ("*.json", "*.txt")),
)
SAFE_PATTERNS = tuple(f"{part}/*.safetensors" for part in WEIGHT_PARTS)
SKIPPED = ("*.fp16*", "*.bf16*", "*ema.*", "*ema-*", "*.msgpack", "*.h5", "*.onnx*")
# For the parts that have none of the above, in this order
MORE_WEIGHTS = (
    ("*.bin", "*.bin.index.json"),
    *(
        (f"*{variant}[.-]*{kind}", f"*.{kind}.index{variant}.json")
        for variant in VARIANTS
        for kind in ("safetensors", "bin")
    ),
)
SD15_IDS = (
    *("stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5"),
    "CompVis/stable-diffusion-v1-4",
)
BERT_IDS = ("bert-base-uncased", "google-bert/bert-base-uncased")
BERT_PATTERNS = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def is_hub_id(name: str) -> bool:
    """Whether a text has the form of "owner/name" and is no folder here."""
    return bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name)) and not Path(name).exists()


def fetch(
    repo_id: str, patterns: Sequence[str], *, skipped: Sequence[str] = SKIPPED, local_files_only: bool = False
) -> Path:
    """The folder of a hub repository's files in the cache, downloaded unless they are there."""
    try:
        return Path(
            snapshot_download(
                repo_id, allow_patterns=list(patterns), ignore_patterns=list(skipped), local_files_only=local_files_only
            )
        )
    except LocalEntryNotFoundError:
        raise InputError(
            f"{repo_id!r} is no folder here, not in the Hugging Face cache, and the hub cannot be reached; "
            "give a folder, or run once with a network"
        ) from None
    except RepositoryNotFoundError:
        raise InputError(f"the hub has no model {repo_id!r}, or it is private; check the name") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{repo_id!r} cannot be fetched from the hub: {line}") from None


def fetch_checkpoint(repo_id: str, *, local_files_only: bool = False) -> Path:
    """A whole checkpoint; ``.bin`` weights and half precision only for the parts that have no others."""
    patterns = [*CONFIG_PATTERNS, *SAFE_PATTERNS, *ADAPTER_FILES]
    folder = fetch(repo_id, patterns, local_files_only=local_files_only)
    _fetch_more(repo_id, folder, [folder / part for part in WEIGHT_PARTS if (folder / part).is_dir()], local_files_only)
    return folder


def fetch_controlnet(repo_id: str, *, local_files_only: bool = False) -> Path:
    """A ControlNet's repository, or the controlnet/ of a model's."""
    patterns = ("config.json", "*.index.json", "controlnet/*.json")
    folder = fetch(repo_id, patterns, local_files_only=local_files_only)
    place = folder if (folder / "config.json").is_file() else folder / "controlnet"
    relative = "" if place == folder else "controlnet/"
    fetch(repo_id, [f"{relative}{STEMS['controlnet']}*.safetensors"], local_files_only=local_files_only)
    _fetch_more(repo_id, folder, [place], local_files_only)
    return folder


def _fetch_more(repo_id: str, folder: Path, places: Sequence[Path], local_files_only: bool) -> None:
    """The weights of the folders that lack any, in the order of `MORE_WEIGHTS`."""
    for names in MORE_WEIGHTS:
        lacking = [place for place in places if not has_weights(place, place.name if place != folder else "controlnet")]
        if not lacking:
            return
        skipped = SKIPPED if names == MORE_WEIGHTS[0] else SKIPPED[-3:]
        more = [(place.relative_to(folder) / name).as_posix() for place in lacking for name in names]
        fetch(repo_id, more, skipped=skipped, local_files_only=local_files_only)


def fetch_configs(repo_id: str, *, local_files_only: bool = False) -> Path:
    """Configs, tokenizers and scheduler alone, no weights."""
    return fetch(repo_id, CONFIG_PATTERNS, local_files_only=local_files_only)


def fetch_stable_diffusion_configs(path: Path, *, local_files_only: bool = False) -> Path:
    """Stable Diffusion 1.5's configs, tokenizer and scheduler, for the file ``path`` of its weights."""
    for only_local, repo_id in (*((True, name) for name in SD15_IDS), (local_files_only, SD15_IDS[0])):
        try:
            folder = fetch_configs(repo_id, local_files_only=only_local)
        except InputError:
            continue
        if (folder / "unet" / "config.json").exists() and (folder / "tokenizer").is_dir():
            return folder
    raise InputError(
        f"{path} holds weights alone, and {SD15_IDS[0]} is not in the Hugging Face cache and cannot be fetched; name a "
        "Stable Diffusion 1.5 folder with base= or --base, for its configs and tokenizer"
    )


def fetch_bert_tokenizer(*, local_files_only: bool = False) -> Path:
    """The folder of bert-base-uncased's tokenizer."""
    for only_local, repo_id in ((True, BERT_IDS[0]), (True, BERT_IDS[1]), (local_files_only, BERT_IDS[1])):
        try:
            folder = fetch(repo_id, BERT_PATTERNS, local_files_only=only_local)
        except InputError:
            continue
        if (folder / "vocab.txt").exists() or (folder / "tokenizer.json").exists():
            return folder
    raise InputError(
        "this checkpoint holds no BERT tokenizer, and bert-base-uncased is not in the Hugging Face cache and cannot "
        "be fetched; give its folder (vocab.txt is enough) with qformer_tokenizer= or --qformer-tokenizer"
    )
