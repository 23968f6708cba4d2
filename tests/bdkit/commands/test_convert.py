"""`bdkit convert`: the same model in each format, and the stock libraries read what was written."""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import BertTokenizer, CLIPTextModel, CLIPTokenizer

from bdkit.checkpoints.formats.lavis_format import BLIP, save_lavis
from bdkit.editing.structure_control import has_own_controlnet
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.testing.tiny_checkpoints import public_tiny_model, write_tiny_checkpoint

Call = Callable[..., str]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.parent.name}/{name}": value
        for path in sorted(folder.rglob("*.safetensors"))
        for name, value in load_file(path).items()
    }


def assert_equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(value, right[name]) for name, value in left.items())


def test_round_trip_through_every_format(public, tmp_path, run):
    run("convert", public, tmp_path / "ours")
    said = run("convert", tmp_path / "ours", tmp_path / "lavis", "--to", "lavis")
    assert "not square" in said  # LAVIS crops where diffusers squashes
    run("convert", tmp_path / "lavis", tmp_path / "again", "--to", "diffusers")
    assert_equal(tensors(tmp_path / "again"), tensors(public))
    run("convert", tmp_path / "ours", tmp_path / "back")
    assert_equal(tensors(tmp_path / "back"), tensors(public))
    ours, direct = BlipDiffusion.from_pretrained(tmp_path / "ours"), BlipDiffusion.from_pretrained(public)
    assert (ours.conventions, ours.defaults) == (direct.conventions, direct.defaults)
    assert ours.record["method_preset"] == "public"


def test_the_stock_libraries_read_each_part(public, tmp_path, run):
    run("convert", public, tmp_path / "ours")
    folder, model = tmp_path / "ours", public_tiny_model()
    parts = {
        "vae": (AutoencoderKL.from_pretrained(folder / "vae", local_files_only=True), model.vae),
        "unet": (UNet2DConditionModel.from_pretrained(folder / "unet", local_files_only=True), model.unet),
        "text": (CLIPTextModel.from_pretrained(folder / "text_encoder"), model.text_encoder.model),
        "public text": (CLIPTextModel.from_pretrained(public / "text_encoder"), model.text_encoder.model),
    }
    for name, (loaded, built) in parts.items():
        state = loaded.state_dict()
        assert state.keys() == built.state_dict().keys(), name
        assert all(torch.equal(state[key], value) for key, value in built.state_dict().items()), name
    assert PNDMScheduler.from_pretrained(folder / "scheduler").config.skip_prk_steps
    for place in (folder, public):
        tokenizer = CLIPTokenizer.from_pretrained(place / "tokenizer", local_files_only=True)
        assert tokenizer("a Dog underwater").input_ids == model.tokenizer("a dog underwater").input_ids
        assert tokenizer.pad_token_id == model.tokenizer.pad_token_id
        words = BertTokenizer.from_pretrained(place / "qformer_tokenizer", local_files_only=True)
        assert words("a dog").input_ids == model.qformer_tokenizer("a dog").input_ids


def test_half_precision_and_a_subject_without_a_word(public, tmp_path, run):
    model = BlipDiffusion.from_pretrained(public)
    model.subject_embeddings = torch.randn(1, 16, 128, generator=torch.Generator().manual_seed(0))
    lavis = save_lavis(model, tmp_path / "lavis")
    run("convert", lavis, tmp_path / "ours", "--subject", "dog", "--dtype", "float16")
    assert {v.dtype for k, v in tensors(tmp_path / "ours").items() if "subject" not in k} == {torch.float16}
    loaded = BlipDiffusion.from_pretrained(tmp_path / "ours")
    assert loaded.subject_class == "dog"
    assert torch.equal(loaded.subject_embeddings, model.subject_embeddings)


def test_a_controlnet_comes_along(tmp_path, run):
    folder = write_tiny_checkpoint(tmp_path / "public", controlnet=True)
    run("convert", folder, tmp_path / "ours")
    assert has_own_controlnet(tmp_path / "ours")
    run("convert", tmp_path / "ours", tmp_path / "back")
    assert_equal(tensors(tmp_path / "back"), tensors(folder))
    indices = [(place / "model_index.json").read_text() for place in (tmp_path / "back", folder)]
    assert indices[0] == indices[1]
    said = run("convert", folder, tmp_path / "lavis", "--to", "lavis")
    assert f"no room for the ControlNet; give it with --controlnet {folder}" in said


def test_a_lavis_folder_names_what_it_lacks(tmp_path, refused):
    folder = write_tiny_checkpoint(tmp_path / "lavis", "lavis")
    (folder / BLIP).with_name("other.pt").write_bytes(b"")
    (folder / "unet" / "config.json").unlink()
    line = refused("convert", folder, tmp_path / "out")
    assert "holds no unet/config.json; name a Stable Diffusion 1.5 folder with base= or --base" in line
