"""Files of a checkpoint: weights that cannot run code, modules filled with every key accounted for, whole folders."""

import glob
import inspect
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderTiny
from safetensors.torch import save_file
from torch import Tensor, nn

from bdkit.utils.errors import InputError
from bdkit.utils.io import read_json, write_json
from bdkit.utils.tensors import read_content, read_tensors

Module = TypeVar("Module", bound=nn.Module)
DIFFUSERS_STEM = "diffusion_pytorch_model"
STEMS = {
    **dict.fromkeys(("vae", "unet", "controlnet"), DIFFUSERS_STEM),
    **dict.fromkeys(("text_encoder", "qformer"), "model"),
}
PICKLE_STEMS = {"text_encoder": "pytorch_model", "qformer": "pytorch_model"}
VARIANTS = (".fp16", ".bf16", ".ema", ".non_ema")
"""Further weights of the same part, as files' names have them; read, in this order, where no plain ones are."""
OTHER_SUFFIXES = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5", ".onnx", ".gguf")
LORA, WORD = "pytorch_lora_weights.safetensors", "learned_embeds.safetensors"
KEY_VALUES = "pytorch_custom_diffusion_weights.safetensors"
"""Custom Diffusion's; the word that belongs to them is beside."""
ADAPTER_FILES = (
    *(LORA, "pytorch_lora_weights.bin", "adapter_model.safetensors"),
    *(WORD, "learned_embeds.bin", KEY_VALUES),
)
"""What goes on top of a model, by the names under which diffusers and peft save it in a folder."""
RE_IMAGEN = "re_imagen.safetensors"
"""What Re-Imagen adds to a model; a method draws with it."""
FINETUNED = "finetuned.json"
"""What was learned from what, beside weights in a format that has no place for it."""


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a checkpoint is read: the arguments of `BlipDiffusion.from_pretrained`, and of `bdkit.models.speed`."""

    qformer_tokenizer: str | Path | None = None
    base: str | Path | None = None
    local_files_only: bool = False
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    compiled: bool = False


def weight_files(folder: Path, part: str) -> list[Path]:
    """The weight files of a part: safetensors first, then ``.bin``, whole or in shards, then the variants."""
    stems = ((STEMS[part], "safetensors"), (PICKLE_STEMS.get(part, STEMS[part]), "bin"))
    for variant in ("", *VARIANTS):
        for stem, suffix in stems:
            for whole in (folder / f"{stem}{variant}.{suffix}", folder / f"{stem}.{suffix}.index{variant}.json"):
                if whole.is_file():
                    return [whole] if whole.suffix != ".json" else _shards(whole)
    others = sorted(path.name for path in folder.glob("*") if path.suffix in OTHER_SUFFIXES)
    beside = f"; it holds {', '.join(others[:3])}, which is not read" if others else ""
    raise InputError(f"{folder} holds no weights ({stems[0][0]}.safetensors or {stems[1][0]}.bin){beside}")


def adapter_file(folder: Path) -> Path | None:
    """The LoRA or learned word that a folder holds in place of a model; None where it holds none."""
    if not folder.is_dir() or (folder / "model_index.json").exists():
        return None
    return next((folder / name for name in ADAPTER_FILES if (folder / name).is_file()), None)


def has_weights(folder: Path, part: str) -> bool:
    """Whether a folder holds a part's weights."""
    try:
        return bool(weight_files(folder, part))
    except InputError:
        return False


def _shards(index: Path) -> list[Path]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise InputError(f"{index} has no weight_map; fetch the checkpoint again")
    files = sorted({str(name) for name in names.values()})
    for name in files:
        if Path(name).name != name:
            raise InputError(f"{index} names a file outside its folder ({name!r}); do not use this checkpoint")
        if not (index.parent / name).is_file():
            raise InputError(f"{index.parent / name} is missing; fetch the checkpoint again")
    return [index.parent / name for name in files]


def read_weights(folder: Path, part: str) -> dict[str, Tensor]:
    """All tensors of a part by name; see `weight_files` and `read_tensors`."""
    files = weight_files(folder, part)
    if ".non_ema." in files[0].name:
        warnings.warn(f"{folder} holds only weights without EMA ({files[0].name}); they are read", stacklevel=3)
    return {key: value for path in files for key, value in read_tensors(path).items()}


def read_tensor(path: Path) -> Tensor:
    """The only tensor of a pickle, bare or in a dict."""
    content = read_content(path)
    if isinstance(content, Mapping) and len(content) == 1:
        content = next(iter(content.values()))
    if not isinstance(content, Tensor):
        raise InputError(f"{path} holds no single tensor; is it the right file?")
    return content.detach()


@contextmanager
def reading(source: Path) -> Iterator[None]:
    """What the libraries cannot make of a file or folder, such as a value in a config, is an InputError that names it.

    They check little, and fail in many ways, with errors of their own too.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"{source} cannot be read ({what}); fetch or save the checkpoint again") from error


def check_numbers(kind: Callable[..., nn.Module], config: Mapping[str, Any], source: Path) -> None:
    """Raises InputError for a config with anything else where ``kind`` takes a number: it would fail in the drawing."""
    for name, parameter in inspect.signature(kind).parameters.items():
        value = config.get(name, parameter.default)
        if parameter.annotation in (int, float) and name != "sample_size" and not isinstance(value, int | float):
            raise InputError(f"{source}/config.json has {name} {value!r}, where a number belongs; fetch it again")


def fill(make: Callable[[], Module], state: Mapping[str, Tensor], source: Path, dtype: torch.dtype) -> Module:
    """A module with the weights of ``state``, in evaluation mode; it is built without memory or random numbers."""
    with reading(source), init_empty_weights(include_buffers=False):
        module = make()
    empty = module.state_dict()
    expected = {name: value.shape for name, value in empty.items()}
    quantised = [name for name, value in empty.items() if value.is_floating_point() and not _is_float(state.get(name))]
    if quantised:
        raise InputError(
            f"{source} holds whole numbers in place of weights ({quantised[0]} is {state[quantised[0]].dtype}), as a "
            "quantised model does; give the weights of the model in 16 or 32 bits"
        )
    problems = [
        *_named("missing keys", expected.keys() - state.keys()),
        *_named("unexpected keys", state.keys() - expected.keys()),
        *_named(
            "keys of another shape",
            (
                f"{name} {tuple(state[name].shape)} instead of {tuple(shape)}"
                for name, shape in expected.items()
                if name in state and state[name].shape != shape
            ),
        ),
    ]
    if problems:
        raise InputError(f"{source} does not fit its config: {'; '.join(problems)}")
    values = {
        name: value.to(dtype if value.is_floating_point() else value.dtype, copy=True).contiguous()
        for name, value in state.items()
    }
    module.load_state_dict(values, assign=True)
    return module.eval()


def _is_float(value: Tensor | None) -> bool:
    """Whether a weight is there as a number with a fraction; a missing one is not quantised either."""
    return value is None or value.is_floating_point()


def _named(what: str, names: Iterable[str]) -> list[str]:
    ordered = sorted(names)
    more = f" and {len(ordered) - 5} more" if len(ordered) > 5 else ""
    return [f"{what} {', '.join(ordered[:5])}{more}"] if ordered else []


def first_line(error: Exception) -> str:
    """The first line of an error's message, for a message of one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def save_tensors(state: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """A safetensors file; floats become ``dtype``, whole numbers stay."""
    plain = {
        k: v.detach().to("cpu", dtype if v.is_floating_point() else v.dtype).contiguous() for k, v in state.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(plain, path, metadata={"format": "pt"})


def save_diffusers_part(part: Any, folder: Path, dtype: torch.dtype) -> None:
    """A diffusers model's ``config.json`` and ``diffusion_pytorch_model.safetensors``."""
    save_diffusers_config(part, folder)
    save_tensors(part.state_dict(), folder / "diffusion_pytorch_model.safetensors", dtype)


def save_diffusers_config(part: Any, folder: Path) -> None:
    """A diffusers model's ``config.json``, without the places it came from."""
    part.save_config(folder)
    config = read_json(folder / "config.json")
    config.pop("_name_or_path", None)  # a path of this machine
    if isinstance(part, AutoencoderTiny):  # it stores a field that its own constructor refuses with a warning
        config.pop("block_out_channels", None)
    write_json(config, folder / "config.json")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary sibling that becomes ``folder`` when the block ends well, and vanishes otherwise.

    An existing ``folder`` is replaced. What a killed process left beside it is put back or removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    recover_folder(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
            folder.rename(old)
            try:
                temporary.rename(folder)
            except OSError:
                old.rename(folder)
                raise
            shutil.rmtree(old)
        else:
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def recover_folder(folder: Path) -> None:
    """Puts ``folder`` back where a process was killed while `new_folder` replaced it, and removes such leftovers."""
    for kind in ("old", "tmp"):
        for left in sorted(folder.parent.glob(f".{glob.escape(folder.name)}.*.{kind}")):
            number = left.name.split(".")[-2]
            if not number.isdecimal() or _is_running(int(number)):
                continue
            if kind == "old" and not folder.exists():
                left.rename(folder)
            else:
                shutil.rmtree(left, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
