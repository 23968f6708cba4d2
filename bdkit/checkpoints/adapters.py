"""Weights on top of a model: LoRAs, learned words and Custom Diffusion's keys and values, as diffusers reads them."""

import copy
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from bdkit.checkpoints.files import (
    FINETUNED,
    KEY_VALUES,
    LORA,
    WORD,
    LoadOptions,
    adapter_file,
    first_line,
    new_folder,
    reading,
    save_tensors,
)
from bdkit.checkpoints.formats.foreign_adapters import learned_word, merge_lora
from bdkit.checkpoints.formats.lavis_format import is_lavis
from bdkit.checkpoints.formats.single_file import kind_of, read_single_file, unwrapped
from bdkit.checkpoints.hub import fetch_stable_diffusion_configs
from bdkit.checkpoints.load import from_source, load_base, model_hash, resolve, resolve_base
from bdkit.models.latent_diffusion import LatentDiffusion
from bdkit.utils.errors import InputError
from bdkit.utils.io import read_json, write_json
from bdkit.utils.tensors import read_content, read_tensors

ADAPTER = "default"
INITIAL_LORA = "gaussian"  # that of the public recipe: A from a normal distribution, B zero
LORA_B = (".lora_B.weight", ".lora.up.weight")
"""Ends of the names of the second matrices, of old and new."""
Module = TypeVar("Module", bound=nn.Module)


def save_adapter(
    folder: str | Path, files: dict[str, dict[str, Tensor]], settings: dict[str, Any], model: LatentDiffusion
) -> Path:
    """Writes a folder with the weights that go on top of ``model``, how they were made, and which model that is.

    Args:
        files: tensors by the file's name.
    """
    folder = Path(folder)
    with new_folder(folder) as temporary:
        for name, weights in files.items():
            save_tensors(weights, temporary / name, torch.float32)
        write_json({**settings, "trained_on": trained_on(model, folder)}, temporary / FINETUNED)
    return folder


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds what `save_adapter` wrote."""
    return (folder / FINETUNED).is_file() and any((folder / name).is_file() for name in (LORA, WORD, KEY_VALUES))


def load_drawable(path: str | Path, options: LoadOptions | None = None) -> LatentDiffusion:
    """Whatever `bdkit generate` draws with: `load_start`, or a model with what `save_adapter` wrote on top.

    Args:
        options: of such a folder, ``base`` is the model that it was trained on, where that has moved.
    """
    options, folder = options or LoadOptions(), Path(path)
    if not is_adapter(folder):
        return load_start(path, options)
    settings = read_json(folder / FINETUNED)
    model = _start(folder, settings, options)
    if settings.get("method") == "custom-diffusion":
        parts = {KEY_VALUES: apply_key_values, WORD: apply_word}
    else:
        parts = {LORA: apply_lora} if (folder / LORA).is_file() else {WORD: apply_word}
    states = {name: read_tensors(folder / name) for name in parts}
    try:
        for name, apply in parts.items():
            apply(model, states[name])
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{folder} does not fit {model.source}: {first_line(error)}") from None
    below = model_hash(model)
    model.record = {**model.record, "finetuned": {**settings, "checkpoint": below}, "base_checkpoint": below}
    if settings.get("checkpoint") != below:
        warnings.warn(f"{folder} was trained on other weights than those of {model.source}", stacklevel=2)
    model.source = str(path)
    return model


def load_start(path: str | Path, options: LoadOptions | None = None, *, below: str | None = None) -> LatentDiffusion:
    """What a method can start from: `load_base`, or a file (or its folder) that another program wrote.

    A file is all of a Stable Diffusion v1, or a LoRA or a learned word, which become part of the model that goes below.

    Args:
        options: ``base`` is that model; of a whole Stable Diffusion, the folder of its configs.
        below: that model, read with ``options``, in place of their ``base``.
    """
    options = options or LoadOptions()
    folder = resolve(path, local_files_only=options.local_files_only)
    file = adapter_file(folder) if folder.is_dir() else folder
    if file is None or is_adapter(folder) or is_lavis(folder):
        return load_base(path, options)
    content = unwrapped(read_content(file))
    kind = kind_of(content, file)
    if kind == "model":
        local = options.local_files_only
        base = resolve_base(options.base, local_files_only=local)
        base = base or fetch_stable_diffusion_configs(file, local_files_only=local)
        with reading(file):
            return from_source(read_single_file(content, file, base, options.dtype), path, options)
    if options.base is None and below is None:
        what = "a LoRA" if kind == "lora" else "a learned word"
        raise InputError(f"{path} is {what}, which goes on top of a model; name that model with base= or --base")
    model = load_start(below, options) if below else load_start(str(options.base), replace(options, base=None))
    base_checkpoint = model_hash(model)
    if kind == "lora":
        merge_lora(model, content, file)
    else:
        token, vectors = learned_word(content, file)
        try:
            apply_word(model, {token: vectors})
            if folder.is_dir() and (folder / KEY_VALUES).is_file():
                apply_key_values(model, read_tensors(folder / KEY_VALUES))
        except InputError as error:
            raise InputError(f"{file}: {error}") from None
        model.record = {**model.record, "learned_token": token}
    model.record = {**model.record, "base_checkpoint": base_checkpoint}
    return from_source(model, path, replace(options, base=below or options.base))


def learned_words(model: LatentDiffusion) -> str | None:
    """The words that mean the subject a model was trained on, such as "sks dog"; None where vectors do, or none is.

    Of a word that another program learned, the word alone.
    """
    made = model.record.get("finetuned") or {}
    if made.get("method") in ("dreambooth", "dreambooth-lora"):
        return f"{made['token']} {made['class_noun']}"
    if made.get("method") in ("textual-inversion", "custom-diffusion"):
        return placeholder_words(made["placeholder_token"], made["class_noun"], made["with_class_noun"])
    token: str | None = model.record.get("learned_token")
    return token


def placeholder_words(token: str, class_noun: str, with_class_noun: bool) -> str:
    """How a learned word stands in a prompt: "<*> dog", or "<*>" alone."""
    return f"{token} {class_noun}" if with_class_noun else token


def shared_copy(module: Module, apart: Sequence[Tensor] = ()) -> Module:
    """A copy of ``module`` that shares its weights, all but those ``apart``."""
    distinct = {id(weight) for weight in apart}
    weights = [weight for weight in (*module.parameters(), *module.buffers()) if id(weight) not in distinct]
    return copy.deepcopy(module, {id(weight): weight for weight in weights})


def key_values(unet: nn.Module) -> dict[str, nn.Parameter]:
    """The key and value projections of the cross-attention, by name: what Custom Diffusion trains of a U-Net."""
    return {name: p for name, p in unet.named_parameters() if re.search(r"\.attn2\.to_[kv]\.weight$", name)}


def key_value_tensors(unet: UNet2DConditionModel, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values by the names of `key_values`, as diffusers' ``load_attn_procs`` reads them.

    It wants a name for every attention; an empty tensor stands for one that was not trained.
    """
    untrained = {name: torch.empty(0) for name in unet.attn_processors if ".attn2." not in name}
    return {**untrained, **_key_value_names(values)}


def _key_value_names(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From our names of the projections to diffusers'."""
    return {re.sub(r"(to_[kv])\.", r"processor.\1_custom_diffusion.", name): value for name, value in values.items()}


def apply_key_values(model: LatentDiffusion, state: dict[str, Tensor]) -> None:
    """Puts what `key_value_tensors` gave into a model's U-Net."""
    weights = _key_value_names(key_values(model.unet))
    given = {name: value for name, value in state.items() if value.numel()}
    if {name: value.shape for name, value in given.items()} != {name: value.shape for name, value in weights.items()}:
        raise InputError("its keys and values are not those of the model's layers")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(given[name])


def with_lora(
    shared: UNet2DConditionModel,
    rank: int,
    alpha: float,
    target_modules: Sequence[str],
) -> UNet2DConditionModel:
    """A U-Net that shares another one's weights and has low-rank additions, in float32 and without effect at first.

    Args:
        target_modules: ends of the names of linear layers.
    """
    for target in target_modules:
        chosen = [part for name, part in shared.named_modules() if f".{name}".endswith(f".{target}")]
        if not chosen or not all(isinstance(part, nn.Linear) for part in chosen):
            raise InputError(
                f"target_modules has {target!r}, which names no linear layers of this U-Net; use ends of their "
                "names, such as to_q or to_out.0"
            )
    weights = [*shared.parameters(), *shared.buffers()]
    flags = [weight.requires_grad for weight in weights]
    unet = shared_copy(shared)
    with torch.random.fork_rng():
        unet.add_adapter(
            LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(target_modules), init_lora_weights=INITIAL_LORA),
            adapter_name=ADAPTER,
        )
    for weight, flag in zip(weights, flags, strict=True):
        weight.requires_grad_(flag)
    for parameter in lora_parameters(unet).values():
        parameter.data = parameter.data.float()
    return unet


def lora_parameters(unet: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of the low-rank additions, by name."""
    return {name: parameter for name, parameter in unet.named_parameters() if ".lora_" in name}


def restart_lora(unet: nn.Module, seed: int) -> None:
    """Gives the additions new random first matrices, and second ones of zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in unet.modules():
            if isinstance(layer, LoraLayer):
                layer.reset_lora_parameters(ADAPTER, INITIAL_LORA)


def lora_tensors(unet: nn.Module) -> dict[str, Tensor]:
    """The tensors of a U-Net's LoRA themselves, by diffusers' names."""
    state = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet, adapter_name=ADAPTER))
    return {f"unet.{name}": value for name, value in state.items()}


def apply_lora(model: LatentDiffusion, state: dict[str, Tensor]) -> None:
    """Puts what `lora_tensors` gave onto a model's U-Net, in float32 as it was trained."""
    before = [(weight, weight.requires_grad) for weight in model.unet.parameters()]
    with torch.random.fork_rng():
        model.unet.load_lora_adapter(dict(state), prefix="unet", adapter_name=ADAPTER)
    for weight, flag in before:
        weight.requires_grad_(flag)
    for name, parameter in model.unet.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(False)
    loaded = lora_tensors(model.unet)
    if loaded.keys() != state.keys():
        raise InputError("it has weights for layers that the model lacks")
    for name, value in state.items():  # as they are in the file, not by way of the model's own precision
        loaded[name].copy_(value)


def apply_word(model: LatentDiffusion, state: dict[str, Tensor]) -> None:
    """Teaches a model's tokenizer and text encoder a new word: its name and its vectors (N, D).

    The further vectors are words of their own, "<*>_1" and so on, as in diffusers; `tokenize` writes them out.
    """
    ((token, vectors),) = state.items()
    names = [token, *(f"{token}_{number}" for number in range(1, len(vectors)))]
    tokenizer = with_token(model.tokenizer, *names)
    embeddings = model.text_encoder.model.embeddings
    indices = torch.tensor([tokenizer.convert_tokens_to_ids(name) for name in names])
    embedding = with_rows(embeddings.token_embedding, int(indices.max()) + 1)
    if vectors.shape[1] != embedding.weight.shape[1]:
        raise InputError(
            f"the word {token!r} has vectors of {vectors.shape[1]} numbers, the text encoder of "
            f"{embedding.weight.shape[1]}; was it learned with another kind of model?"
        )
    embedding.weight[indices] = vectors.to(embedding.weight)
    model.tokenizer, embeddings.token_embedding = tokenizer, embedding
    model.text_encoder.model.config.vocab_size = embedding.num_embeddings


def with_token(tokenizer: Any, *tokens: str) -> Any:
    """A copy of a tokenizer that knows more words; InputError for one that no prompt could hold, or that it knows."""
    for token in tokens:
        if not token or token != token.strip() or {"{", "}"} & set(token) or not token.isprintable():
            raise InputError(f"the word {token!r} cannot stand in a prompt; use one without braces or spaces around it")
        if {token, f"{token}</w>"} & set(tokenizer.get_vocab()):
            raise InputError(f"the word {token!r} is in the tokenizer already; choose another")
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(list(tokens))
    return tokenizer


def with_rows(embedding: nn.Embedding, count: int) -> nn.Embedding:
    """A frozen copy of an embedding with at least ``count`` rows; new rows are zero."""
    weight = embedding.weight.detach()
    return nn.Embedding.from_pretrained(
        torch.cat([weight, weight.new_zeros(max(0, count - len(weight)), weight.shape[1])])
    )


def trained_on(model: LatentDiffusion, folder: Path) -> dict[str, str]:
    """Names of shipped models and hub ids as they are, folders relative to ``folder``."""
    named = {"model": model.source, **model.read_with}
    return {
        key: Path(os.path.relpath(Path(value).resolve(), folder.resolve())).as_posix()
        if Path(value).exists()
        else value
        for key, value in named.items()
        if value
    }


def _start(folder: Path, settings: dict[str, Any], options: LoadOptions) -> LatentDiffusion:
    """The model that an adapter goes on top of."""
    named = {
        key: str(folder / value) if (folder / value).exists() else value
        for key, value in settings.get("trained_on", {}).items()
    }
    start = options.base or named.get("model")
    if start is None:
        raise InputError(f"{folder} does not say which model it was trained on; name it with base= or --base")
    words = options.qformer_tokenizer or named.get("qformer_tokenizer")
    try:
        return load_start(start, replace(options, base=named.get("base"), qformer_tokenizer=words))
    except InputError as error:
        if options.base is not None:
            raise
        raise InputError(f"{folder} was trained on another model: {error}; or name that model with --base") from None
