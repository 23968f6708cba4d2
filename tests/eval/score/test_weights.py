"""Weights from files: the real classes with random weights, against timm and open_clip themselves; what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from eval_helpers import texture
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import checkpoint_filter_fn
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bdkit.utils.errors import InputError
from eval.score import weights
from eval.score.encoders import ENCODERS, ClipEncoder, EncoderSpec, to_batch
from eval.score.protocols import PROTOCOLS
from eval.score.weights import WeightsSource, build_encoder, load_clip, load_encoder, load_into

TINY = "tiny-SigLIP2"
SIDE = 224
WORDS = ["<pad>", "<bos>", "<eos>", "<unk>", "a", "dog", "in", "the", "jungle", "red"]
PHOTOS = [texture(300, 400), texture(256, 256, 1), texture(640, 360, 2)]


def test_weights_come_from_the_named_file_then_the_folder_then_the_cache(tmp_path, monkeypatch):
    cached, flat = tmp_path / "cached", tmp_path / "folder" / "net.safetensors"
    named, deep = tmp_path / "mine.pth", tmp_path / "folder" / "net" / "model.safetensors"
    monkeypatch.delenv("BDKIT_WEIGHTS_DIR", raising=False)
    monkeypatch.setattr(weights, "try_to_load_from_cache", lambda *_: str(cached) if cached.exists() else None)
    source = WeightsSource(folder=tmp_path / "folder", offline=True)
    with pytest.raises(InputError, match=r"weights of timm/net are not here \(--offline\).*--dino-weights"):
        source.find("dino", "timm/net", "model.safetensors")
    for path in (cached, flat, deep):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        assert source.find("dino", "timm/net", "model.safetensors") == path
    source = replace(source, files=(("dino", named),))
    with pytest.raises(InputError, match=r"mine\.pth of dino is not there"):
        source.find("dino", "timm/net", "model.safetensors")
    named.touch()
    assert source.find("dino", "timm/net", "model.safetensors") == named
    assert source.find("clip", "timm/net", "model.safetensors") == deep


def test_weights_of_plain_tensors_are_read_and_pickles_are_not(tmp_path: Path) -> None:
    network = torch.nn.Linear(2, 3)
    torch.save(torch.nn.Linear(2, 3).state_dict(), tmp_path / "plain.pth")
    load_into(network, tmp_path / "plain.pth")
    torch.save({"weight": network.weight, "bias": Path("x")}, tmp_path / "objects.pth")
    torch.save(torch.nn.Linear(4, 3).state_dict(), tmp_path / "other.pt")
    (tmp_path / "cut.bin").write_bytes((tmp_path / "plain.pth").read_bytes()[:300])
    (tmp_path / "empty.pth").touch()
    for name in ("objects.pth", "other.pt", "cut.bin", "empty.pth"):
        with pytest.raises(InputError, match="broken or of another network") as caught:
            load_into(network, tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_openais_torchscript_archive_is_refused_with_what_to_use(tmp_path: Path) -> None:
    archive = tmp_path / "ViT-B-32.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), archive)
    with pytest.raises(InputError, match=r"ViT-B-32\.pt is a TorchScript archive") as caught:
        load_encoder("clip", "dreambench", source=WeightsSource(files=(("clip", archive),), offline=True))
    assert "use open_clip_model.safetensors of timm/vit_base_patch32_clip_224.openai" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["dino", "clip"])
def test_absent_public_weights_are_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BDKIT_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setattr(weights, "try_to_load_from_cache", lambda *_: None)
    with pytest.raises(InputError, match="BDKIT_WEIGHTS_DIR") as caught:
        load_encoder(name, "dreambench")
    assert len(str(caught.value).splitlines()) == 1


def test_openai_weights_with_the_wrong_activation_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(PROTOCOLS["dreambench"], clip_model="ViT-B-32")
    monkeypatch.setitem(PROTOCOLS, "dreambench", wrong)
    with pytest.raises(InputError, match="ViT-B-32-quickgelu"):
        load_encoder("clip", "dreambench")


@pytest.mark.slow
def test_public_clip_from_a_local_folder_has_quickgelu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    reference = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None).eval()
    folder = tmp_path / "vit_base_patch32_clip_224.openai"
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in reference.state_dict().items()}, folder / "open_clip_model.safetensors")
    monkeypatch.setenv("BDKIT_WEIGHTS_DIR", str(tmp_path))
    clip = load_clip("dreambench")
    assert type(clip.network.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    image, text = texture(300, 400), "a dog in the jungle"
    tokens = open_clip.get_tokenizer("ViT-B-32-quickgelu")([text])
    with torch.inference_mode():
        pixels = to_batch([image], PROTOCOLS["dreambench"].clip)
        expected = reference.encode_image(pixels, normalize=True), reference.encode_text(tokens, normalize=True)
    np.testing.assert_allclose(clip.embed_images([image]), expected[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(clip.embed_texts([text]), expected[1].numpy(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dino", "dinov2"])
def test_dino_is_timms_class_token(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    spec = ENCODERS[name]
    network = timm.create_model(spec.model, pretrained=False, num_classes=0)
    file = tmp_path / spec.model / "model.safetensors"
    file.parent.mkdir()
    save_file(network.state_dict(), file)
    monkeypatch.setenv("BDKIT_WEIGHTS_DIR", str(tmp_path))
    encoder = load_encoder(name, "dreambench")
    # of this size from the start, with the position embeddings that timm itself makes of the file's
    smaller = timm.create_model(spec.model, pretrained=False, num_classes=0, img_size=224).eval()
    smaller.load_state_dict(checkpoint_filter_fn(network.state_dict(), smaller))
    with torch.inference_mode():
        tokens = smaller.forward_features(to_batch(PHOTOS, PROTOCOLS["dreambench"].dino))[:, 0].double()
    found = encoder.embed_images(PHOTOS)
    assert found.shape == (3, 384)
    np.testing.assert_allclose(found, (tokens / tokens.norm(dim=1, keepdim=True)).numpy(), atol=1e-5)
    assert encoder.checkpoint["file"] == spec.model
    assert len(encoder.checkpoint["sha256"]) == 64
    file.write_bytes(b"broken")
    with pytest.raises(InputError, match="broken"):
        load_encoder(name, "dreambench")


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> tuple[EncoderSpec, Path]:
    """open_clip's SigLIP 2 classes with small numbers, and a folder with their weights and tokenizer."""
    folder = tmp_path_factory.mktemp("weights") / "tiny-siglip2"
    folder.mkdir()
    config = open_clip.get_model_config(ENCODERS["siglip2"].model)
    config["embed_dim"] = config["text_cfg"]["width"] = 64
    config["text_cfg"] |= {"vocab_size": len(WORDS), "heads": 2, "layers": 1, "hf_tokenizer_name": ""}
    config["vision_cfg"] |= {"timm_model_name": "vit_tiny_patch16_224", "image_size": SIDE}
    config["vision_cfg"] |= {"timm_pool": "", "timm_proj": "linear"}
    (folder / f"{TINY}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{TINY}.json")
    torch.manual_seed(2)
    save_file(open_clip.create_model(TINY).state_dict(), folder / "open_clip_model.safetensors")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    standard = ENCODERS["siglip2"]
    spec = EncoderSpec(
        library="open_clip", model=TINY, repository="timm/tiny-siglip2", filename=standard.filename,
        tokenizer=standard.tokenizer, pixels=replace(standard.pixels, crop=SIDE),
    )  # fmt: skip
    return spec, folder


def test_siglip2_is_open_clips(siglip: tuple[EncoderSpec, Path]) -> None:
    spec, folder = siglip
    encoder = build_encoder("siglip2", spec, source=WeightsSource(folder=folder.parent, offline=True))
    assert isinstance(encoder, ClipEncoder)
    network = open_clip.create_model(TINY).eval()
    network.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
    found = encoder.embed_images(PHOTOS)
    pixels = []
    for image in PHOTOS:
        values = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float64)
        pixels.append((values / 255 - 0.5) / 0.5)
    batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float()
    tokens = torch.tensor([[4, 5, 6, 7, 8] + [0] * 59, [4, 9, 5] + [0] * 61])
    with torch.no_grad():
        images, texts = (f.double() / f.double().norm(dim=1, keepdim=True) for f in (
            network.encode_image(batch), network.encode_text(tokens)))  # fmt: skip
    np.testing.assert_allclose(found, images.numpy(), atol=1e-5)
    sentences = ["a dog in the jungle", "a red dog"]
    np.testing.assert_allclose(encoder.embed_texts(sentences), texts.numpy(), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_mistakes_are_one_line(siglip: tuple[EncoderSpec, Path], tmp_path: Path) -> None:
    spec, folder = siglip
    offline = WeightsSource(folder=tmp_path, offline=True)
    for name in ("dinov2", "siglip2"):
        with pytest.raises(InputError, match="are not here") as missing:
            load_encoder(name, "dreambench", source=offline)
        assert "\n" not in str(missing.value)
    with pytest.raises(InputError, match=r"unknown encoder 'dinov3'; known: .* dinov2, siglip2"):
        load_encoder("dinov3", "mini")
    (tmp_path / "tiny-siglip2").mkdir()
    (tmp_path / "tiny-siglip2" / "open_clip_model.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match="broken or of another network"):
        build_encoder("siglip2", spec, source=offline)
    good = (folder / "open_clip_model.safetensors").read_bytes()
    (tmp_path / "tiny-siglip2" / "open_clip_model.safetensors").write_bytes(good)
    (tmp_path / "tiny-siglip2" / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="tokenizer"):
        build_encoder("siglip2", spec, source=offline)
