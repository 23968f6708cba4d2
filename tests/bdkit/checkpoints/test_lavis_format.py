"""LAVIS's format: folder and tar, both prefixes, a cached subject, and what comes from the base folder."""

import json
import shutil
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_files import assert_same

from bdkit.checkpoints.files import read_weights
from bdkit.checkpoints.formats.lavis_format import BLIP, CACHE, PROJECTION, WEIGHTS
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.utils.errors import InputError

# the base folder of these tests is made of the same weights
pytestmark = pytest.mark.filterwarnings("ignore:.*are those of the plain base model")


def test_lavis_takes_what_it_lacks_from_the_base_folder(lavis: Path, public: Path, model: BlipDiffusion) -> None:
    settings = json.loads((public / "scheduler" / "scheduler_config.json").read_text())
    (public / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings | {"steps_offset": 1}))
    shutil.rmtree(public / "qformer")  # a plain Stable Diffusion 1.5 has none: the shapes tell
    for part in ("unet", "text_encoder"):
        for path in (public / part).glob("*.safetensors"):
            path.unlink()
    loaded = BlipDiffusion.from_pretrained(lavis, base=public)
    assert_same(loaded, model)
    assert loaded.scheduler.config.steps_offset == 0  # LAVIS's own sampler
    assert loaded.multimodal_encoder.vision_model.config.num_attention_heads == 2
    assert loaded.multimodal_encoder.qformer.config.num_attention_heads == 2
    with pytest.raises(InputError, match="base= or --base"):
        BlipDiffusion.from_pretrained(lavis)
    (lavis / WEIGHTS["vae"]).unlink()
    with pytest.warns(UserWarning, match="holds no vae weights; those of"):
        assert_same(BlipDiffusion.from_pretrained(lavis, base=public), model)


def test_both_prefixes_of_lavis_and_its_unused_heads(lavis: Path, public: Path, model: BlipDiffusion) -> None:
    state = torch.load(lavis / BLIP, weights_only=True)
    assert any(name.startswith("Qformer.bert.") for name in state)
    renamed = {name.replace("Qformer.", "text_model."): value for name, value in state.items()}
    for name in ("text_model.cls.predictions.bias", "vision_proj.weight", "text_proj.bias", "itm_head.weight", "temp"):
        renamed[name] = torch.zeros(2)
    torch.save(renamed, lavis / BLIP)
    loaded = BlipDiffusion.from_pretrained(lavis, base=public)
    assert_same(loaded, model)
    torch.save(renamed | {"surprise": torch.zeros(1)}, lavis / BLIP)
    with pytest.raises(InputError, match="unexpected keys surprise"):
        BlipDiffusion.from_pretrained(lavis, base=public)


def test_a_fine_tuned_cache_becomes_the_subject(lavis: Path, public: Path) -> None:
    cache = torch.randn(1, 16, 128, generator=torch.Generator().manual_seed(0))
    (lavis / CACHE).parent.mkdir()
    torch.save(torch.nn.Parameter(cache), lavis / CACHE)
    loaded = BlipDiffusion.from_pretrained(lavis, base=public)
    assert torch.equal(loaded.subject_embeddings, cache)
    call = {"num_inference_steps": 1, "output_type": "latent"}
    drawn = loaded("in the snow", source_subject="dog", **call)
    assert torch.equal(drawn, loaded("in the snow", source_subject="dog", subject_embeddings=cache, **call))
    with pytest.raises(InputError, match="give source_subject or target_subject"):
        loaded("in the snow", **call)
    torch.save(cache[:, :3], lavis / CACHE)
    with pytest.raises(InputError, match=r"has shape \(1, 3, 128\), not \(1, 16, 128\)"):
        BlipDiffusion.from_pretrained(lavis, base=public)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_lavis_tar_is_read(mode: Any, lavis: Path, public: Path, model: BlipDiffusion, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "blip-diffusion.tar", mode) as archive:
        archive.add(lavis, "blip-diffusion")
    assert_same(BlipDiffusion.from_pretrained(tmp_path / "blip-diffusion.tar", base=public), model)


@pytest.mark.parametrize("name", ["../escaped.txt", "/tmp/escaped.txt", "a/../../escaped.txt"])
def test_a_tar_that_points_outside_is_refused(name: str, public: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        member = tarfile.TarInfo(name)
        member.size = 2
        archive.addfile(member, BytesIO(b"no"))
    before = sorted(tmp_path.parent.iterdir())
    with pytest.raises(InputError, match="points outside of it"):
        BlipDiffusion.from_pretrained(tmp_path / "evil.tar", base=public)
    with tarfile.open(tmp_path / "link.tar", "w") as archive:
        member = tarfile.TarInfo("blip_model")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(member)
    with pytest.raises(InputError, match="points outside of it"):
        BlipDiffusion.from_pretrained(tmp_path / "link.tar", base=public)
    assert sorted(tmp_path.parent.iterdir()) == before


def lavis_names(layers: int, blocks: int) -> dict[str, str]:
    """LAVIS's name of every parameter by the public one, as the published converter lists them."""
    names = {
        "query_tokens": "query_tokens",
        "visual_encoder.embeddings.class_embedding": "visual_encoder.class_embedding",
        "visual_encoder.embeddings.position_embedding": "visual_encoder.positional_embedding",
        "visual_encoder.embeddings.patch_embedding.weight": "visual_encoder.conv1.weight",
        "embeddings.position_ids": "Qformer.bert.embeddings.position_ids",
    }
    for kind in ("word_embeddings.weight", "position_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias"):
        names[f"embeddings.{kind}"] = f"Qformer.bert.embeddings.{kind}"
    for end in ("weight", "bias"):
        names[f"visual_encoder.pre_layernorm.{end}"] = f"visual_encoder.ln_pre.{end}"
        names[f"visual_encoder.post_layernorm.{end}"] = f"ln_vision.{end}"
        for k in range(layers):
            ours, theirs = f"encoder.layer.{k}", f"Qformer.bert.encoder.layer.{k}"
            for attention in ("attention", "crossattention"):
                for head in ("query", "key", "value"):
                    names[f"{ours}.{attention}.attention.{head}.{end}"] = f"{theirs}.{attention}.self.{head}.{end}"
                for out in ("dense", "LayerNorm"):
                    names[f"{ours}.{attention}.output.{out}.{end}"] = f"{theirs}.{attention}.output.{out}.{end}"
            for same in ("intermediate.dense", "intermediate_query.dense"):
                names[f"{ours}.{same}.{end}"] = f"{theirs}.{same}.{end}"
            for same in ("output.dense", "output.LayerNorm", "output_query.dense", "output_query.LayerNorm"):
                names[f"{ours}.{same}.{end}"] = f"{theirs}.{same}.{end}"
        for k in range(blocks):
            ours, theirs = f"visual_encoder.encoder.layers.{k}", f"visual_encoder.transformer.resblocks.{k}"
            names[f"{ours}.layer_norm1.{end}"] = f"{theirs}.ln_1.{end}"
            names[f"{ours}.layer_norm2.{end}"] = f"{theirs}.ln_2.{end}"
            names[f"{ours}.self_attn.qkv.{end}"] = f"{theirs}.attn.in_proj_{end}"
            names[f"{ours}.self_attn.projection.{end}"] = f"{theirs}.attn.out_proj.{end}"
            names[f"{ours}.mlp.fc1.{end}"] = f"{theirs}.mlp.c_fc.{end}"
            names[f"{ours}.mlp.fc2.{end}"] = f"{theirs}.mlp.c_proj.{end}"
    return names


def test_what_is_written_has_lavis_own_names(lavis: Path, public: Path) -> None:
    qformer = read_weights(public / "qformer", "qformer")
    blip, names = torch.load(lavis / BLIP, weights_only=True), lavis_names(layers=2, blocks=2)
    assert set(names.values()) == blip.keys()
    for ours, theirs in names.items():
        assert torch.equal(qformer[ours].flatten(), blip[theirs].flatten()), ours
    assert blip["visual_encoder.class_embedding"].shape == (128,)
    assert blip["visual_encoder.positional_embedding"].shape == (17, 128)
    projection = torch.load(lavis / PROJECTION, weights_only=True)
    ends = [f"{part}.{end}" for part in ("dense1", "dense2", "LayerNorm") for end in ("weight", "bias")]
    assert projection.keys() == set(ends)
    assert all(torch.equal(projection[end], qformer[f"proj_layer.{end}"]) for end in ends)
    assert names.keys() | {f"proj_layer.{end}" for end in ends} == qformer.keys()
    vae = torch.load(lavis / WEIGHTS["vae"], weights_only=True)
    heads = {f"encoder.mid_block.attentions.0.{name}.weight" for name in ("query", "key", "value", "proj_attn")}
    assert heads <= vae.keys()
    assert not [name for name in vae if ".to_" in name]
    text = torch.load(lavis / WEIGHTS["text_encoder"], weights_only=True)
    assert all(name.startswith("text_model.") for name in text)
