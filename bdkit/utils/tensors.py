"""Files of tensors, safetensors or pickles: read without running any code of theirs, and named for what they are."""

import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from bdkit.utils.errors import InputError

AGAIN = "fetch the checkpoint again"
WRAPPERS = ("model", "state_dict")
"""Where training checkpoints keep the weights, beside the optimizer and the like."""
COMPILED = "_orig_mod."
"""What torch.compile puts into the names of parameters."""
# First bytes of files that are no weights, and what to do
NOT_WEIGHTS = (
    (
        b"version https://git-lfs",
        "a git-lfs pointer, the address of the weights and not the weights; run `git lfs pull` in its folder, or "
        "download the file itself",
    ),
    (b"<!doctype", "a web page, not weights; download the file itself (a private or gated one needs a login)"),
    (b"<html", "a web page, not weights; download the file itself (a private or gated one needs a login)"),
    (b"<?xml", "a server's message in XML, not weights; download the file again"),
    (b"gguf", "a GGUF file, quantised for other programs; give the safetensors file of the same model"),
    (b"{", "JSON text, not weights; give the safetensors file beside it"),
)


class Inert:
    """Stands for an object in a pickle that is not needed: keeps what it was made of, and does nothing."""

    def __new__(cls, *arguments: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *arguments: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


# What training checkpoints hold beside tensors. Nothing of these libraries is imported or run.
INERT = (
    "argparse.Namespace",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "omegaconf.dictconfig.DictConfig",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
    "torch.nn.modules.container.ParameterDict",
)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file by name, without the marks of a compiled or a parallel model in their names."""
    content = read_content(path)
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path} holds no tensors by name; is it the right file?")
    return plain_names(content)


def plain_names(state: Mapping[Any, Any]) -> dict[str, Any]:
    """The same under the names of the plain module: without what torch.compile and data-parallel training add."""
    names = {name: str(name).replace(COMPILED, "") for name in state}
    if names and all(name.startswith("module.") for name in names.values()):
        names = {name: plain.removeprefix("module.") for name, plain in names.items()}
    return {plain: state[name] for name, plain in names.items()}


def read_content(path: Path) -> Any:
    """Everything in a file, safetensors or pickle by its first bytes, whatever its suffix says."""
    try:
        with open(path, "rb") as file:
            head = file.read(256)
        if problem := _problem(path, head):
            raise InputError(f"{path} cannot be read: it is {problem}")
        return load_file(path) if _is_safetensors(head) else _unpickle(path)
    except InputError:
        raise
    except Exception as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} cannot be read ({line}); {AGAIN}") from None


def read_metadata(path: Path) -> dict[str, str]:
    """The texts in the header of a safetensors file; none of a pickle."""
    with open(path, "rb") as file:
        if not _is_safetensors(file.read(256)):
            return {}
    with safe_open(path, framework="pt") as opened:
        return dict(opened.metadata() or {})


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32


def _problem(path: Path, head: bytes) -> str | None:
    """What a file is, where that is no file of weights or only the beginning of one."""
    size = path.stat().st_size
    if not size:
        return f"empty; {AGAIN}"
    start = head.lstrip().lower()
    for mark, what in NOT_WEIGHTS:
        if start.startswith(mark):
            return what
    if _is_safetensors(head):
        return _cut_off(path, size)
    if head.startswith(b"PK\3\4"):
        return None if zipfile.is_zipfile(path) else f"cut off, its end is missing; {AGAIN}"
    if head.isascii() and all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        text = " ".join(head.decode().split())[:40]
        return f"text that begins {text!r}, not weights; {AGAIN}"
    return None


def _cut_off(path: Path, size: int) -> str | None:
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length)
    needed = 8 + length
    if len(header) == length:
        try:
            entries = json.loads(header)
            needed += max((entry["data_offsets"][1] for name, entry in entries.items() if name[:2] != "__"), default=0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return None  # safetensors' own message tells
    return f"cut off, {size} of {needed} bytes are here; {AGAIN}" if size < needed else None


def _unpickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([(Inert, name) for name in INERT]):
            warnings.simplefilter("ignore")  # torch's notes on old pickles are nothing a user could act on
            with open(path, "rb") as file:  # by its name, torch would take the suffix for the format
                return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} holds more than tensors, or is damaged: it is not read, as it could run code; "
            f"use a safetensors file, or {AGAIN} from a source you trust"
        ) from None
