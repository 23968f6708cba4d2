"""Names of parameters in the three formats, and what has to be split, joined or reshaped between them."""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]
Rules = tuple[tuple[str, str], ...]

# Beginnings of names, in two formats; {} stands for anything, and a rule without "." at its end is a whole name. The
# first rule that fits renames, the rest of the name stays. Read from right to left, the same rules are the inverse.
PUBLIC_TO_OURS: Rules = (
    ("embeddings.LayerNorm.", "qformer.embeddings.layernorm."),
    ("embeddings.", "qformer.embeddings."),
    ("encoder.", "qformer.encoder."),
    ("proj_layer.LayerNorm.", "projection.layer_norm."),
    ("proj_layer.", "projection."),
    ("visual_encoder.embeddings.position_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual_encoder.pre_layernorm.", "vision_model.pre_layrnorm."),
    ("visual_encoder.{}.self_attn.projection.", "vision_model.{}.self_attn.out_proj."),
    ("visual_encoder.", "vision_model."),
)
_BLOCK, _LAYER = "visual_encoder.transformer.resblocks.{}", "visual_encoder.encoder.layers.{}"
LAVIS_TO_PUBLIC: Rules = (  # of blip_model, the Q-Former's prefix taken off
    ("ln_vision.", "visual_encoder.post_layernorm."),
    ("visual_encoder.class_embedding", "visual_encoder.embeddings.class_embedding"),
    ("visual_encoder.positional_embedding", "visual_encoder.embeddings.position_embedding"),
    ("visual_encoder.conv1.", "visual_encoder.embeddings.patch_embedding."),
    ("visual_encoder.ln_pre.", "visual_encoder.pre_layernorm."),
    (f"{_BLOCK}.ln_1.", f"{_LAYER}.layer_norm1."),
    (f"{_BLOCK}.ln_2.", f"{_LAYER}.layer_norm2."),
    (f"{_BLOCK}.attn.in_proj_", f"{_LAYER}.self_attn.qkv."),
    (f"{_BLOCK}.attn.out_proj.", f"{_LAYER}.self_attn.projection."),
    (f"{_BLOCK}.mlp.c_fc.", f"{_LAYER}.mlp.fc1."),
    (f"{_BLOCK}.mlp.c_proj.", f"{_LAYER}.mlp.fc2."),
    ("bert.{}attention.self.", "{}attention.attention."),
    ("bert.embeddings.", "embeddings."),
    ("bert.encoder.", "encoder."),
)
OLD_VAE: Rules = (  # attention before diffusers 0.17, in Stable Diffusion 1's files and in LAVIS's
    ("{}.attentions.{}.query.", "{}.attentions.{}.to_q."),
    ("{}.attentions.{}.key.", "{}.attentions.{}.to_k."),
    ("{}.attentions.{}.value.", "{}.attentions.{}.to_v."),
    ("{}.attentions.{}.proj_attn.", "{}.attentions.{}.to_out.0."),
)
_FUSED = re.compile(r"^(.*\.self_attn)\.qkv\.(weight|bias)$")
_SPLIT = re.compile(r"^(.*\.self_attn)\.([qkv])_proj\.(weight|bias)$")
# Heads of stage 1 and buffers: in the files, but no part of the model
_UNUSED_PUBLIC = re.compile(r"(^|\.)position_ids$")
_UNUSED_LAVIS = re.compile(r"(^|\.)position_ids$|^bert\.pooler\.|^cls\.|^(vision_proj|text_proj|itm_head)\.|^temp$")


def _renamed(state: Mapping[str, Tensor], rules: Rules, *, inverse: bool = False) -> State:
    """The state with new names; a name that no rule fits stays as it is."""
    compiled = []
    for rule in rules:
        old, new = reversed(rule) if inverse else rule
        end = "" if old.endswith((".", "_")) else "$"
        compiled.append((re.compile("(.+?)".join(map(re.escape, old.split("{}"))) + end), new))
    result: State = {}
    for name, value in state.items():
        fits = ((pattern.match(name), new) for pattern, new in compiled)
        match, new = next((fit for fit in fits if fit[0]), (None, ""))
        result[name if match is None else new.format(*match.groups()) + name[match.end() :]] = value
    return result


def public_to_ours(state: Mapping[str, Tensor]) -> State:
    """The public qformer/ as `MultimodalEncoder` names it: fused attention split, embeddings without the batch axis."""
    used = {name: value for name, value in state.items() if not _UNUSED_PUBLIC.search(name)}
    ours: State = {}
    for name, value in _renamed(used, PUBLIC_TO_OURS).items():
        fused = _FUSED.match(name)
        if fused and value.shape[0] % 3 == 0:
            for letter, third in zip("qkv", value.chunk(3), strict=True):
                ours[f"{fused[1]}.{letter}_proj.{fused[2]}"] = third
        elif name.startswith("vision_model.embeddings.") and "patch" not in name:
            ours[name] = value.flatten() if name.endswith("class_embedding") else value.flatten(0, -2)
        else:
            ours[name] = value
    return ours


def ours_to_public(state: Mapping[str, Tensor]) -> State:
    """The inverse of `public_to_ours`, with the buffer ``embeddings.position_ids`` that the public files hold."""
    public: State = {}
    thirds: dict[str, dict[str, Tensor]] = {}
    for name, value in _renamed(state, PUBLIC_TO_OURS, inverse=True).items():
        split = _SPLIT.match(name)
        if split and name.startswith("visual_encoder."):
            thirds.setdefault(f"{split[1]}.qkv.{split[3]}", {})[split[2]] = value
        elif name == "visual_encoder.embeddings.class_embedding":
            public[name] = value.view(1, 1, -1)
        elif name == "visual_encoder.embeddings.position_embedding":
            public[name] = value.unsqueeze(0)
        else:
            public[name] = value
    for name, third in thirds.items():
        public[name] = torch.cat([third[letter] for letter in "qkv"])
    positions = public["embeddings.position_embeddings.weight"].shape[0]
    return {**public, "embeddings.position_ids": torch.arange(positions).unsqueeze(0)}


def lavis_to_public(blip: Mapping[str, Tensor], projection: Mapping[str, Tensor]) -> State:
    """LAVIS's blip_model (prefix ``Qformer.`` or ``text_model.``) and proj_layer as the public qformer/."""
    bare = {re.sub(r"^(Qformer|text_model)\.", "", name): value for name, value in blip.items()}
    used = {name: value for name, value in bare.items() if not _UNUSED_LAVIS.search(name)}
    return _renamed(used, LAVIS_TO_PUBLIC) | {f"proj_layer.{name}": value for name, value in projection.items()}


def public_to_lavis(state: Mapping[str, Tensor]) -> tuple[State, State]:
    """The inverse of `lavis_to_public`: blip_model with the prefix ``Qformer.``, and proj_layer."""
    head = "proj_layer."
    projection = {name.removeprefix(head): value for name, value in state.items() if name.startswith(head)}
    rest = {name: value for name, value in state.items() if not name.startswith(head)}
    blip: State = {}
    for name, value in _renamed(rest, LAVIS_TO_PUBLIC, inverse=True).items():
        visual = name in ("visual_encoder.class_embedding", "visual_encoder.positional_embedding")
        prefix = "Qformer." if name.startswith("bert.") else ""
        blip[prefix + name] = value.flatten(0, -2).squeeze(0) if visual else value
    return blip, projection


def text_from_file(state: Mapping[str, Tensor]) -> State:
    """A text encoder's file, with or without the prefix ``text_model.``, as today's `CLIPTextModel` names it."""
    bare = {name.removeprefix("text_model."): value for name, value in state.items()}
    return {name: value for name, value in bare.items() if not name.endswith("position_ids")}


def text_to_file(state: Mapping[str, Tensor]) -> State:
    """As every older `CLIPTextModel` names it, with the buffer of positions."""
    positions = state["embeddings.position_embedding.weight"].shape[0]
    buffer = {"embeddings.position_ids": torch.arange(positions).unsqueeze(0)}
    return {f"text_model.{name}": value for name, value in (dict(state) | buffer).items()}


def vae_from_file(state: Mapping[str, Tensor]) -> State:
    """Stable Diffusion 1's names of the VAE's attention as today's; 1x1 convolutions become matrices."""
    renamed = _renamed(state, OLD_VAE)
    return {k: v[:, :, 0, 0] if ".attentions." in k and v.dim() == 4 else v for k, v in renamed.items()}


def vae_to_old_file(state: Mapping[str, Tensor]) -> State:
    """Today's names of the VAE's attention as Stable Diffusion 1's files and LAVIS have them."""
    return _renamed(state, OLD_VAE, inverse=True)


FROM_FILE: dict[str, Callable[[Mapping[str, Tensor]], State]] = {
    "vae": vae_from_file,
    "unet": dict,
    "text_encoder": text_from_file,
    "qformer": public_to_ours,
}
"""What turns a part's file in the public format into a state dict of ours."""
