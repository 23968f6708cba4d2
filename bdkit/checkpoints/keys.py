"""Names of parameters in the three layouts, and what has to be split, joined or reshaped between them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]
Rules = tuple[tuple[str, str], ...]

# public diffusers qformer/ -> bdkit's multimodal encoder; first match wins, the rest of a name stays
_PUBLIC_TO_OURS: Rules = (
    (r"^query_tokens$", "query_tokens"),
    (r"^embeddings\.LayerNorm\.", "qformer.embeddings.layernorm."),
    (r"^embeddings\.", "qformer.embeddings."),
    (r"^encoder\.", "qformer.encoder."),
    (r"^proj_layer\.LayerNorm\.", "projection.layer_norm."),
    (r"^proj_layer\.", "projection."),
    (r"^visual_encoder\.embeddings\.position_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual_encoder\.pre_layernorm\.", "vision_model.pre_layrnorm."),
    (r"^visual_encoder\.(.*)\.self_attn\.projection\.", r"vision_model.\1.self_attn.out_proj."),
    (r"^visual_encoder\.", "vision_model."),
)
_OURS_TO_PUBLIC: Rules = (
    (r"^query_tokens$", "query_tokens"),
    (r"^qformer\.embeddings\.layernorm\.", "embeddings.LayerNorm."),
    (r"^qformer\.", ""),
    (r"^projection\.layer_norm\.", "proj_layer.LayerNorm."),
    (r"^projection\.", "proj_layer."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual_encoder.embeddings.position_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "visual_encoder.pre_layernorm."),
    (r"^vision_model\.", "visual_encoder."),
)
# LAVIS's blip_model (the Q-Former's prefix taken off) -> public diffusers qformer/
_LAVIS_TO_PUBLIC: Rules = (
    (r"^query_tokens$", "query_tokens"),
    (r"^ln_vision\.", "visual_encoder.post_layernorm."),
    (r"^visual_encoder\.class_embedding$", "visual_encoder.embeddings.class_embedding"),
    (r"^visual_encoder\.positional_embedding$", "visual_encoder.embeddings.position_embedding"),
    (r"^visual_encoder\.conv1\.", "visual_encoder.embeddings.patch_embedding."),
    (r"^visual_encoder\.ln_pre\.", "visual_encoder.pre_layernorm."),
    (r"^visual_encoder\.transformer\.resblocks\.(\d+)\.ln_", r"visual_encoder.encoder.layers.\1.layer_norm"),
    (
        r"^visual_encoder\.transformer\.resblocks\.(\d+)\.attn\.in_proj_",
        r"visual_encoder.encoder.layers.\1.self_attn.qkv.",
    ),
    (
        r"^visual_encoder\.transformer\.resblocks\.(\d+)\.attn\.out_proj\.",
        r"visual_encoder.encoder.layers.\1.self_attn.projection.",
    ),
    (r"^visual_encoder\.transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"visual_encoder.encoder.layers.\1.mlp.fc1."),
    (r"^visual_encoder\.transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"visual_encoder.encoder.layers.\1.mlp.fc2."),
    (r"^bert\.(.*(?:attention|crossattention))\.self\.", r"\1.attention."),
    (r"^bert\.", ""),
)
_PUBLIC_TO_LAVIS: Rules = (
    (r"^query_tokens$", "query_tokens"),
    (r"^visual_encoder\.post_layernorm\.", "ln_vision."),
    (r"^visual_encoder\.embeddings\.class_embedding$", "visual_encoder.class_embedding"),
    (r"^visual_encoder\.embeddings\.position_embedding$", "visual_encoder.positional_embedding"),
    (r"^visual_encoder\.embeddings\.patch_embedding\.", "visual_encoder.conv1."),
    (r"^visual_encoder\.pre_layernorm\.", "visual_encoder.ln_pre."),
    (r"^visual_encoder\.encoder\.layers\.(\d+)\.layer_norm", r"visual_encoder.transformer.resblocks.\1.ln_"),
    (
        r"^visual_encoder\.encoder\.layers\.(\d+)\.self_attn\.qkv\.",
        r"visual_encoder.transformer.resblocks.\1.attn.in_proj_",
    ),
    (
        r"^visual_encoder\.encoder\.layers\.(\d+)\.self_attn\.projection\.",
        r"visual_encoder.transformer.resblocks.\1.attn.out_proj.",
    ),
    (r"^visual_encoder\.encoder\.layers\.(\d+)\.mlp\.fc1\.", r"visual_encoder.transformer.resblocks.\1.mlp.c_fc."),
    (r"^visual_encoder\.encoder\.layers\.(\d+)\.mlp\.fc2\.", r"visual_encoder.transformer.resblocks.\1.mlp.c_proj."),
    (r"^(encoder\..*\.(?:attention|crossattention))\.attention\.", r"Qformer.bert.\1.self."),
    (r"^(embeddings|encoder)\.", r"Qformer.bert.\1."),
)
# Attention of the VAE before diffusers 0.17, in Stable Diffusion 1's files and in LAVIS's
_OLD_VAE: Rules = (
    (r"(\.attentions\.\d+)\.query\.", r"\1.to_q."),
    (r"(\.attentions\.\d+)\.key\.", r"\1.to_k."),
    (r"(\.attentions\.\d+)\.value\.", r"\1.to_v."),
    (r"(\.attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
)
_NEW_VAE: Rules = (
    (r"(\.attentions\.\d+)\.to_q\.", r"\1.query."),
    (r"(\.attentions\.\d+)\.to_k\.", r"\1.key."),
    (r"(\.attentions\.\d+)\.to_v\.", r"\1.value."),
    (r"(\.attentions\.\d+)\.to_out\.0\.", r"\1.proj_attn."),
)
_FUSED = re.compile(r"^(.*\.self_attn)\.qkv\.(weight|bias)$")
_SPLIT = re.compile(r"^(.*\.self_attn)\.([qkv])_proj\.(weight|bias)$")
# Heads of stage 1 and buffers: in the files, but no part of the model
_UNUSED_PUBLIC = re.compile(r"(^|\.)position_ids$")
_UNUSED_LAVIS = re.compile(r"(^|\.)position_ids$|^bert\.pooler\.|^cls\.|^(vision_proj|text_proj|itm_head)\.|^temp$")


def _rename(names: Iterable[str], rules: Rules) -> dict[str, str]:
    """New names by old ones; a name that no rule knows stays as it is."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    renamed = {}
    for name in names:
        pattern, replacement = next(((p, r) for p, r in compiled if p.search(name)), (None, ""))
        renamed[name] = pattern.sub(replacement, name, count=1) if pattern else name
    return renamed


def _mapped(state: Mapping[str, Tensor], rules: Rules) -> State:
    names = _rename(state, rules)
    return {names[name]: value for name, value in state.items()}


def public_to_ours(state: Mapping[str, Tensor]) -> State:
    """The public qformer/ as `MultimodalEncoder` names it: fused attention split, embeddings without the batch axis."""
    used = {name: value for name, value in state.items() if not _UNUSED_PUBLIC.search(name)}
    ours: State = {}
    for name, value in _mapped(used, _PUBLIC_TO_OURS).items():
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
    for name, value in _mapped(state, _OURS_TO_PUBLIC).items():
        split = _SPLIT.match(name)
        if split and name.startswith("visual_encoder."):
            thirds.setdefault(f"{split[1]}.qkv.{split[3]}", {})[split[2]] = value
        elif name.endswith((".self_attn.out_proj.weight", ".self_attn.out_proj.bias")):
            public[name.replace("out_proj", "projection")] = value
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
    return _mapped(used, _LAVIS_TO_PUBLIC) | {f"proj_layer.{name}": value for name, value in projection.items()}


def public_to_lavis(state: Mapping[str, Tensor]) -> tuple[State, State]:
    """The inverse of `lavis_to_public`: blip_model with the prefix ``Qformer.``, and proj_layer."""
    head = "proj_layer."
    projection = {name.removeprefix(head): value for name, value in state.items() if name.startswith(head)}
    blip = _mapped({k: v for k, v in state.items() if not k.startswith(head)}, _PUBLIC_TO_LAVIS)
    visual = ("visual_encoder.class_embedding", "visual_encoder.positional_embedding")
    return {k: v.flatten(0, -2).squeeze(0) if k in visual else v for k, v in blip.items()}, projection


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
    renamed = _mapped(state, _OLD_VAE)
    return {k: v[:, :, 0, 0] if ".attentions." in k and v.dim() == 4 else v for k, v in renamed.items()}


def vae_to_old_file(state: Mapping[str, Tensor]) -> State:
    """Today's names of the VAE's attention as Stable Diffusion 1's files and LAVIS have them."""
    return _mapped(state, _NEW_VAE)


def unchanged(state: Mapping[str, Tensor]) -> State:
    """The names as they are."""
    return dict(state)


FROM_FILE: dict[str, Callable[[Mapping[str, Tensor]], State]] = {
    "vae": vae_from_file,
    "unet": unchanged,
    "text_encoder": text_from_file,
    "qformer": public_to_ours,
}
"""What turns a part's file in the public layout into a state dict of ours."""
