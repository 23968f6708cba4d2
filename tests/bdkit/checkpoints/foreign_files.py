"""Files as other programs write them, made of the tiny model's own weights or of random ones."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel

from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.latent_diffusion import LatentDiffusion

State = dict[str, Tensor]
LAYERS = 1  # layers_per_block of the tiny model, in U-Net and autoencoder
WHOLE = (
    *(("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2")),
    *(("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"), ("conv_out", "out.2")),
    *(("mid_block.resnets.0", "middle_block.0"), ("mid_block.attentions.0", "middle_block.1")),
    ("mid_block.resnets.1", "middle_block.2"),
)
RESNET = (
    *(("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("time_emb_proj", "emb_layers.1"), ("norm2", "out_layers.0")),
    *(("conv2", "out_layers.3"), ("conv_shortcut", "skip_connection")),
)
ATTENTION = (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out"))


def stable_diffusion(model: LatentDiffusion, folder: Path) -> Path:
    """A plain Stable Diffusion of the parts of any model."""
    names = ("vae", "unet", "text_encoder", "tokenizer", "scheduler", "defaults")
    return LatentDiffusion(**{name: getattr(model, name) for name in names}).save_pretrained(folder)


def ldm_state(model: LatentDiffusion) -> State:
    """All of a Stable Diffusion under the names of CompVis's code, as in v1-5-pruned.ckpt."""
    state = {f"model.diffusion_model.{_unet_name(key)}": value for key, value in model.unet.state_dict().items()}
    for key, value in model.vae.state_dict().items():
        name = _vae_name(key, len(model.vae.config.up_block_types))
        matrix = ".attn_1." in name and value.dim() == 2
        state[f"first_stage_model.{name}"] = value[:, :, None, None] if matrix else value
    text = model.text_encoder.model.state_dict()
    state |= {f"cond_stage_model.transformer.text_model.{key}": value for key, value in text.items()}
    return {key: value.clone().contiguous() for key, value in state.items()} | {"betas": torch.zeros(1000)}


def _unet_name(key: str) -> str:
    resnet = "resnets" in key
    key = next((key.replace(old, new) for old, new in WHOLE if key.startswith(f"{old}.")), key)
    if match := re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(conv\.)?", key):
        side, block, kind, number = match[1], int(match[2]), match[3], int(match[4])
        stem = "input_blocks" if side == "down" else "output_blocks"
        place = 1 + block * (LAYERS + 1) + number if side == "down" else block * (LAYERS + 1) + number
        inner = {"resnets": "0.", "attentions": "1.", "downsamplers": "0.op.", "upsamplers": "1.conv."}[kind]
        place += {"downsamplers": LAYERS, "upsamplers": LAYERS}.get(kind, 0)
        key = f"{stem}.{place}.{inner}{key[match.end() :]}"
    return _replaced(key, RESNET) if resnet else key


def _vae_name(key: str, blocks: int) -> str:
    if match := re.search(r"(down|up)_blocks\.(\d+)\.(resnets\.(\d+)|(down|up)samplers\.0)\.", key):
        number = int(match[2]) if match[1] == "down" else blocks - 1 - int(match[2])
        inner = f"block.{match[4]}" if match[4] else f"{match[1]}sample"
        key = f"{key[: match.start()]}{match[1]}.{number}.{inner}.{key[match.end() :]}"
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", key)
    if "mid_block.attentions.0." in key:
        key = _replaced(key.replace("mid_block.attentions.0.", "mid.attn_1."), ATTENTION)
    return key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")


def _replaced(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    return next((key.replace(f".{old}.", f".{new}.") for old, new in rules if f".{old}." in key), key)


def random_loras(folder: Path, rank: int = 3, alpha: float = 6.0) -> dict[str, State]:
    """A LoRA on attention and feed-forward layers of a folder's U-Net and text encoder, by peft's names."""
    models = {
        "unet": UNet2DConditionModel.from_pretrained(folder / "unet", local_files_only=True),
        "text_encoder": CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True),
    }
    targets = {
        "unet": ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in"],
        "text_encoder": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1"],
    }
    states = {}
    for part, model in models.items():
        model.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets[part]))
        state = get_peft_model_state_dict(model, adapter_name="default")
        generator = torch.Generator().manual_seed(len(part))
        states[part] = {name: torch.randn(v.shape, generator=generator) * 0.1 for name, v in sorted(state.items())}
    return states


def save_diffusers_lora(states: Mapping[str, State], folder: Path, alpha: float | None, rank: int = 3) -> Path:
    """As diffusers' training scripts save it; its alpha stands in the header of the file, where it is not the rank."""
    settings = {
        part: None if alpha is None else {"r": rank, "lora_alpha": alpha, "target_modules": _modules(state)}
        for part, state in states.items()
    }
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=convert_state_dict_to_diffusers(states["unet"]),
        text_encoder_lora_layers=convert_state_dict_to_diffusers(states["text_encoder"]),
        unet_lora_adapter_metadata=settings["unet"],
        text_encoder_lora_adapter_metadata=settings["text_encoder"],
    )
    return folder / "pytorch_lora_weights.safetensors"


def _modules(state: State) -> list[str]:
    return sorted({name.partition(".lora_")[0] for name in state})


def save_kohya_lora(states: Mapping[str, State], path: Path, alpha: float) -> Path:
    """As kohya's sd-scripts save it, with an alpha for each layer."""
    result = {}
    for part, prefix in (("unet", "lora_unet_"), ("text_encoder", "lora_te_text_model_")):
        for name, value in states[part].items():
            module, _, end = name.rpartition(".lora_")
            new = prefix + module.removeprefix("text_model.").replace(".", "_")
            result[f"{new}.lora_{'down' if end.startswith('A') else 'up'}.weight"] = value
            result[f"{new}.alpha"] = torch.tensor(alpha)
    save_file(result, path, metadata={"ss_network_module": "networks.lora"})
    return path


def assert_same(left: BlipDiffusion, right: BlipDiffusion, tolerance: float = 0.0) -> None:
    ours, theirs = left.state_dict(), right.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.allclose(value, theirs[name], rtol=tolerance, atol=tolerance), name
