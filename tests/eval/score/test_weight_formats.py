"""Scoring weights as transformers and Facebook have them give the embeddings of timm and open_clip."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from bdkit.utils.errors import InputError
from eval.score import weights
from eval.score.weights import WeightsSource, load_into

LAYERS, WIDTH, SIDE = 2, 64, 32
PIXELS = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def seeded(model: Any) -> Any:
    """Random weights, norms and biases, too, so that each counts."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return model.eval()


def unit(rows: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(rows.detach(), dim=1).numpy()


def timm_vit(name: str = "vit_small_patch16_224.dino", side: int = SIDE) -> Any:
    sizes = {"depth": LAYERS, "embed_dim": WIDTH, "num_heads": 2, "img_size": side, "num_classes": 0}
    return timm.create_model(name, pretrained=False, **sizes).eval()


def transformers_vit(patch: int = 16) -> ViTModel:
    config = ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=4 * WIDTH,
        image_size=SIDE, patch_size=patch, layer_norm_eps=1e-6,
    )  # fmt: skip
    return seeded(ViTModel(config))


def small_clip() -> Any:
    """open_clip's ViT with QuickGELU, as OpenAI's weights need it, in another size."""
    config = {
        "embed_dim": 32,
        "quick_gelu": True,
        "vision_cfg": {"image_size": SIDE, "layers": LAYERS, "width": WIDTH, "head_width": 32, "patch_size": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 100, "width": WIDTH, "heads": 2, "layers": LAYERS},
    }
    return open_clip.CLIP(**config).eval()


def transformers_clip() -> CLIPModel:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
    special = {"bos_token_id": 98, "eos_token_id": 99, "pad_token_id": 99}
    text = {**sizes, **special, "intermediate_size": 4 * WIDTH, "vocab_size": 100, "max_position_embeddings": 16}
    vision = {**sizes, "intermediate_size": 4 * WIDTH, "image_size": SIDE, "patch_size": 16}
    return seeded(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)))


@pytest.mark.parametrize("patch", [8, 16])
@pytest.mark.parametrize("form", ["safetensors", "bin", "classifier", "compiled"])
def test_a_vit_of_transformers(patch: int, form: str, tmp_path: Path) -> None:
    """facebook/dino-vits16, -vits8, -vitb16, -vitb8."""
    theirs = transformers_vit(patch)
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    if form == "bin":
        path = tmp_path / "pytorch_model.bin"
        torch.save(state, path)
    elif form != "safetensors":
        prefix = "vit." if form == "classifier" else "_orig_mod."
        state = {f"{prefix}{name}": value for name, value in state.items()}
        save_file({**state, "classifier.weight": torch.zeros(3)} if form == "classifier" else state, path)
    ours = timm_vit(name=f"vit_small_patch{patch}_224.dino")
    load_into(ours, path)
    np.testing.assert_allclose(unit(ours(PIXELS)), unit(theirs(PIXELS).last_hidden_state[:, 0]), atol=1e-6)


def test_a_dinov2_of_transformers(tmp_path: Path) -> None:
    config = Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=4
    )
    theirs = seeded(Dinov2Model(config))
    theirs.save_pretrained(tmp_path)
    ours = timm_vit(name="vit_small_patch14_dinov2.lvd142m", side=28)
    load_into(ours, tmp_path / "model.safetensors")
    pixels = PIXELS[:, :, :28, :28]
    np.testing.assert_allclose(unit(ours(pixels)), unit(theirs(pixels).last_hidden_state[:, 0]), atol=1e-6)


@pytest.mark.parametrize("prefix", ["backbone.", "module.backbone."])
def test_facebooks_training_checkpoint_gives_its_teacher(prefix: str, tmp_path: Path) -> None:
    reference = seeded(timm_vit())
    teacher = {f"{prefix}{name}": value for name, value in reference.state_dict().items()}
    teacher |= {f"{prefix.replace('backbone', 'head')}mlp.0.weight": torch.zeros(2, 2)}
    student = {f"module.{name.removeprefix('module.')}": torch.zeros_like(value) for name, value in teacher.items()}
    content = {"student": student, "teacher": teacher, "epoch": 800, "args": argparse.Namespace(arch="vit_small")}
    torch.save(content, tmp_path / "dino_deitsmall16_pretrain_full_checkpoint.pth")
    torch.save({f"teacher.{name}": value for name, value in teacher.items()}, tmp_path / "flat.pth")
    for name in ("dino_deitsmall16_pretrain_full_checkpoint.pth", "flat.pth"):
        ours = timm_vit()
        load_into(ours, tmp_path / name)
        np.testing.assert_array_equal(unit(ours(PIXELS)), unit(reference(PIXELS)))


def test_a_clip_of_transformers(tmp_path: Path) -> None:
    """openai/clip-vit-base-patch32, -large-patch14."""
    theirs = transformers_clip()
    theirs.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    old = {**state, "text_model.embeddings.position_ids": torch.arange(16)[None]}
    torch.save({**old, "vision_model.embeddings.position_ids": torch.arange(5)[None]}, tmp_path / "pytorch_model.bin")
    words = torch.tensor([[98, 5, 6, 99] + [0] * 12, [98, 7, 99] + [0] * 13])
    for name in ("model.safetensors", "pytorch_model.bin"):
        ours = small_clip()
        load_into(ours, tmp_path / name)
        expected = theirs.visual_projection(theirs.vision_model(PIXELS).pooler_output)
        np.testing.assert_allclose(unit(ours.encode_image(PIXELS)), unit(expected), atol=1e-6)
        hidden = theirs.text_model(input_ids=words).last_hidden_state
        expected = theirs.text_projection(hidden[torch.arange(2), words.argmax(dim=1)])
        np.testing.assert_allclose(unit(ours.encode_text(words)), unit(expected), atol=1e-6)
        assert ours.logit_scale == theirs.logit_scale


def test_weights_of_another_size_are_named(tmp_path: Path) -> None:
    transformers_vit(8).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"a ViTModel of transformers of another size.*pos_embed") as caught:
        load_into(timm_vit(), tmp_path / "model.safetensors")
    assert "\n" not in str(caught.value)
    (tmp_path / "pointer.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(InputError, match="git-lfs pointer"):
        load_into(timm_vit(), tmp_path / "pointer.pth")


def test_where_such_weights_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ("dino", "timm/vit_small_patch16_224.dino", "model.safetensors")
    monkeypatch.delenv("BDKIT_WEIGHTS_DIR", raising=False)
    cached = {("facebook/dino-vits16", "pytorch_model.bin"): str(tmp_path / "cached.bin")}
    monkeypatch.setattr(weights, "try_to_load_from_cache", lambda *key: cached.get(key))
    source = WeightsSource(folder=tmp_path, offline=True)
    assert source.find(*wanted) == tmp_path / "cached.bin"
    inside = tmp_path / "dino-vits16" / "pytorch_model.bin"
    inside.parent.mkdir()
    inside.touch()
    assert source.find(*wanted) == inside
    assert replace(source, files=(("dino", inside.parent),)).find(*wanted) == inside
    with pytest.raises(InputError, match=r"the weights file .*/model\.safetensors of dino is not there"):
        replace(source, files=(("dino", tmp_path),)).find(*wanted)
