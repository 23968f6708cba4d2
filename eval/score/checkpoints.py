"""Where the public networks' weights come from: a file, a folder, the hub's cache, or the hub."""

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bdkit.utils.errors import InputError

WEIGHTS_DIR_VARIABLE = "BDKIT_WEIGHTS_DIR"
PICKLED = (".bin", ".pt", ".pth")


@dataclass(frozen=True, kw_only=True)
class WeightsSource:
    """Where to look for weights, in this order: the file named for the network, the folder, the hub's cache, the hub.

    files: network ("dino", "clip", ...) -> a file with its weights: safetensors, or .pth, .pt, .bin of plain tensors
    folder: <repository's last name>/<file name> or <repository's last name>.safetensors; None: $BDKIT_WEIGHTS_DIR
    offline: never ask the hub
    """

    files: tuple[tuple[str, Path], ...] = ()
    folder: Path | None = None
    offline: bool = False

    def find(self, network: str, repository: str, filename: str) -> Path:
        """The weights file of a network that the hub has as `repository`/`filename`.

        Raises InputError when it is nowhere.
        """
        given = dict(self.files).get(network)
        if given is not None:
            if not given.is_file():
                raise InputError(f"the weights file {given} of {network} is not there; check the path")
            return given
        where = Path(repository).name
        folder = self.folder or os.environ.get(WEIGHTS_DIR_VARIABLE)
        for name in (f"{where}/{filename}", f"{where}.safetensors"):
            if folder and (Path(folder) / name).is_file():
                return Path(folder) / name
        cached = try_to_load_from_cache(repository, filename)
        if isinstance(cached, str):
            return Path(cached)
        reason = "--offline"
        if not self.offline:
            try:
                return Path(hf_hub_download(repository, filename, etag_timeout=5))
            except Exception as error:  # the hub's client raises many kinds, from many libraries
                reason = type(error).__name__
        raise InputError(
            f"the weights of {repository} are not here ({reason}): put {filename} in ${WEIGHTS_DIR_VARIABLE}/{where}/, "
            f"name the file (--{network}-weights), or run once with access to the Hugging Face hub"
        )


def refuse_programs(path: Path, instead: str) -> None:
    """Raises InputError for a TorchScript archive, as OpenAI published CLIP: it holds a program, which would be run.

    instead: where the same weights are as plain tensors
    """
    if path.suffix in PICKLED and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            is_program = any(Path(name).name == "constants.pkl" for name in archive.namelist())
        if is_program:
            raise InputError(
                f"{path} is a TorchScript archive, a program and not only weights, and is not run; use {instead}, the "
                "same weights as plain tensors"
            )


def load_into(network: nn.Module, path: Path) -> None:
    """Loads a file of weights, every one of them. Raises InputError when it is broken or of another network."""
    try:
        network.load_state_dict(_read(path))
    except (SafetensorError, RuntimeError, OSError, UnpicklingError, EOFError, TypeError, AttributeError) as error:
        raise InputError(
            f"the weights {path} are broken or of another network ({_first_line(error)}); download them again"
        ) from error


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix not in PICKLED:
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return " ".join((lines[0] if lines else type(error).__name__).split())[:120]
