"""Scoring weights under the names of other programs, as timm and open_clip name them: a table of names for each."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Rules = tuple[tuple[str, str | None], ...]

# Patterns that names begin with, and what stands in their place; the first that fits renames, the rest of the name
# stays. None drops the tensor: heads, buffers, and what only training needs.
_LAYER = r"(?:vit\.|dinov2\.)?encoder\.layer\.(\d+)\."
_EMBEDDINGS = r"(?:vit\.|dinov2\.)?embeddings\."
TRANSFORMERS_VIT: Rules = (  # ViTModel, such as facebook/dino-vits16, and Dinov2Model
    (r"(?:vit\.)?pooler\.", None),
    (r"classifier\.", None),
    (rf"{_EMBEDDINGS}mask_token$", None),
    (rf"{_EMBEDDINGS}cls_token$", "cls_token"),
    (rf"{_EMBEDDINGS}position_embeddings$", "pos_embed"),
    (rf"{_EMBEDDINGS}patch_embeddings\.projection\.", "patch_embed.proj."),
    (rf"{_LAYER}attention\.attention\.(query|key|value)\.", r"blocks.\1.attn.\2."),
    (rf"{_LAYER}attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (rf"{_LAYER}intermediate\.dense\.", r"blocks.\1.mlp.fc1."),
    (rf"{_LAYER}output\.dense\.", r"blocks.\1.mlp.fc2."),
    (rf"{_LAYER}(?:layernorm_before|norm1)\.", r"blocks.\1.norm1."),
    (rf"{_LAYER}(?:layernorm_after|norm2)\.", r"blocks.\1.norm2."),
    (rf"{_LAYER}layer_scale(\d)\.lambda1$", r"blocks.\1.ls\2.gamma"),
    (rf"{_LAYER}mlp\.", r"blocks.\1.mlp."),
    (r"(?:vit\.|dinov2\.)?layernorm\.", "norm."),
)
_TEXT, _TEXT_BLOCK = r"text_model\.encoder\.layers\.(\d+)\.", r"transformer.resblocks.\1."
_VISION, _VISION_BLOCK = r"vision_model\.encoder\.layers\.(\d+)\.", r"visual.transformer.resblocks.\1."
_CLIP_LAYER = (
    (r"self_attn\.(q|k|v)_proj\.", r"attn.\2."),
    (r"self_attn\.out_proj\.", "attn.out_proj."),
    (r"layer_norm(\d)\.", r"ln_\2."),
    (r"mlp\.fc1\.", "mlp.c_fc."),
    (r"mlp\.fc2\.", "mlp.c_proj."),
)
TRANSFORMERS_CLIP: Rules = (  # CLIPModel, such as openai/clip-vit-base-patch32
    (r".*position_ids$", None),
    (r"text_projection\.weight$", "text_projection"),
    (r"visual_projection\.weight$", "visual.proj"),
    (r"text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"text_model\.final_layer_norm\.", "ln_final."),
    (r"vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
    (r"vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
    (r"vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"vision_model\.post_layernorm\.", "visual.ln_post."),
    *((_TEXT + old, _TEXT_BLOCK + new) for old, new in _CLIP_LAYER),
    *((_VISION + old, _VISION_BLOCK + new) for old, new in _CLIP_LAYER),
)
FACEBOOK_VIT: Rules = (  # DINO's training checkpoint, its teacher; and DINOv2's network
    (r"(?:teacher\.)?(?:module\.)?backbone\.mask_token$", None),
    (r"(?:teacher\.)?(?:module\.)?backbone\.", ""),
    (r"(?:teacher\.)?(?:module\.)?(?:dino_|ibot_)?head\.", None),
    (r"student\.", None),
    (r"mask_token$", None),
)
# A name that tells the format, the end of one; the format, and its rules
FORMATS: tuple[tuple[str, str, Rules], ...] = (
    ("embeddings.patch_embeddings.projection.weight", "a ViTModel of transformers", TRANSFORMERS_VIT),
    ("vision_model.embeddings.patch_embedding.weight", "a CLIPModel of transformers", TRANSFORMERS_CLIP),
    ("patch_embed.proj.weight", "a network of Facebook's DINO", FACEBOOK_VIT),
)
TRANSPOSED = ("text_projection", "visual.proj")  # as matrices, where transformers has layers
# The three parts of attention, in this order, that timm and open_clip keep as one tensor
FUSED = ((("query", "key", "value"), ".qkv."), (("q", "k", "v"), ".in_proj_"))


def plain_weights(content: Any) -> tuple[Any, str]:
    """The tensors of a file by timm's or open_clip's names, and the format they came in, "" for theirs.

    Of a training checkpoint of DINO it is the teacher, which is what its authors publish and measure.
    """
    if isinstance(content, Mapping) and isinstance(content.get("teacher"), Mapping):
        content = content["teacher"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        return content, ""
    for mark, name, rules in FORMATS:
        if any(key.endswith(mark) for key in content):
            renamed = _renamed(content, rules)
            return (content, "") if renamed.keys() == content.keys() else (_fused(renamed), name)
    return content, ""


def _renamed(state: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    compiled = [(re.compile(old), new) for old, new in rules]
    result = {}
    for name, value in state.items():
        match, new = next(((fit, new) for old, new in compiled if (fit := old.match(name))), (None, ""))
        if match is None:
            result[name] = value
        elif new is not None:
            plain = match.expand(new) + name[match.end() :]
            result[plain] = value.T if plain in TRANSPOSED and "." in name else value
    return result


def _fused(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parts of attention joined; a part that has no others stays, and is named as too much."""
    result = dict(state)
    for parts, joined in FUSED:
        for name in state:
            head, mark, end = name.partition(f".attn.{parts[0]}.")
            names = [f"{head}.attn.{part}.{end}" for part in parts]
            if mark and all(one in result for one in names):
                result[f"{head}.attn{joined}{end}"] = torch.cat([result.pop(one) for one in names])
    return result
