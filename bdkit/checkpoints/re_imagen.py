"""Re-Imagen's addition to a text-to-image model: a folder of the attention to neighbours."""

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bdkit.checkpoints.adapters import trained_on
from bdkit.checkpoints.files import RE_IMAGEN, first_line, new_folder, save_tensors
from bdkit.checkpoints.load import model_hash
from bdkit.models.configs import RetrievalConfig
from bdkit.models.latent_diffusion import LatentDiffusion
from bdkit.models.retrieval import NeighbourAttention, RetrievalUNet
from bdkit.utils.config import checked_value
from bdkit.utils.errors import InputError
from bdkit.utils.io import read_json, write_json, write_text
from bdkit.utils.tensors import read_tensors

WEIGHTS, RECORD = RE_IMAGEN, "re_imagen.json"
MINI_RE_IMAGEN = "mini-re-imagen"  # the folder of the mini model's additions, beside mini-base
TRAIN = "bdkit pretrain re-imagen --out runs/mini, or --data SHARDS --base SD15 --out re-imagen for a Stable Diffusion"


def new_retrieval_unet(model: LatentDiffusion, config: RetrievalConfig, seed: int = 0) -> RetrievalUNet:
    """Re-Imagen's U-Net over that of ``model``, whose weights it shares; at first it predicts what that one does.

    Args:
        seed: of the random weights; the process's random state stays as it is.
    """
    channels, blocks = model.unet.config.block_out_channels, len(model.unet.up_blocks)
    if not 0 <= config.up_block < blocks:
        raise InputError(f"up_block is {config.up_block}; this U-Net's are 0 to {blocks - 1}")
    receives = channels[-max(1, config.up_block)]  # what the block before it puts out
    if config.heads < 1 or receives % config.heads:
        raise InputError(f"heads is {config.heads}, which does not divide the {receives} channels of this U-Net")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        attention = NeighbourAttention(receives, channels[-1 - config.up_block], config.heads).to(model.device)
    return RetrievalUNet(model.unet, attention, config.up_block).eval()


def additions(unet: RetrievalUNet) -> dict[str, Tensor]:
    """The tensors that `new_retrieval_unet` adds, by name, themselves."""
    return {f"attention.{name}": value for name, value in unet.attention.named_parameters()}


def save_re_imagen(
    unet: RetrievalUNet,
    folder: Path,
    config: RetrievalConfig,
    record: dict[str, Any],
    model: LatentDiffusion,
    card: str = "",
    dtype: torch.dtype = torch.float16,
) -> Path:
    """Writes the additions, how they were made and for which model, and a README where ``card`` is given."""
    base = {"trained_on": trained_on(model, folder), "base_checkpoint": model_hash(model)} if model.source else {}
    with new_folder(folder) as temporary:
        save_tensors(additions(unet), temporary / WEIGHTS, dtype)
        write_json({"retrieval": asdict(config), **base, **record}, temporary / RECORD)
        if card:
            write_text(card, temporary / "README.md")
    return folder


def load_re_imagen(folder: str | Path, model: LatentDiffusion) -> RetrievalUNet:
    """Re-Imagen's U-Net over that of ``model``, with the additions of a folder that `save_re_imagen` wrote.

    Raises:
        InputError: it is no such folder, or of a model of another size.
    """
    folder = Path(folder)
    if not (folder / WEIGHTS).is_file() or not (folder / RECORD).is_file():
        raise InputError(f"{folder} holds no additions of Re-Imagen ({WEIGHTS} and {RECORD}); train some with {TRAIN}")
    record, state = read_json(folder / RECORD), read_tensors(folder / WEIGHTS)
    try:
        config = RetrievalConfig(
            **{key: checked_value(RetrievalConfig(), key, value, key) for key, value in record["retrieval"].items()}
        )
        unet = new_retrieval_unet(model, config)
        values = additions(unet)
        if values.keys() != state.keys():
            raise InputError("it has other layers than the model")
        with torch.no_grad():
            for name, value in values.items():
                value.copy_(state[name])
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{folder} does not fit {model.source or 'the model'}: {first_line(error)}") from None
    if model.source and record.get("base_checkpoint", model_hash(model)) != model_hash(model):
        warnings.warn(f"{folder} was trained on other weights than those of {model.source}", stacklevel=2)
    for value in values.values():
        value.requires_grad_(False)
    unet.attention.to(model.unet.dtype)
    return unet
