"""DINOv2 and SigLIP 2: the real classes with random weights from a file, against timm and open_clip themselves."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import checkpoint_filter_fn
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torchvision.transforms import v2
from transformers import PreTrainedTokenizerFast

from bdkit.utils.errors import InputError
from eval.score.encoders import ENCODERS, ClipEncoder, EncoderSpec
from eval.score.weights import WeightsSource, build_encoder, load_encoder

TINY = "tiny-SigLIP2"
SIDE = 224
WORDS = ["<pad>", "<bos>", "<eos>", "<unk>", "a", "dog", "in", "the", "jungle", "red"]


def photo(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


PHOTOS = [photo(300, 400), photo(256, 256), photo(640, 360)]


def cosines(vectors: np.ndarray) -> list[list[float]]:
    rows = [[float(v) for v in row] for row in vectors]
    return [[sum(a * b for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]


def test_dinov2_is_timms_class_token(tmp_path: Path) -> None:
    torch.manual_seed(1)
    name = ENCODERS["dinov2"].model
    network = timm.create_model(name, pretrained=False, num_classes=0)
    save_file(network.state_dict(), tmp_path / "dinov2.safetensors")
    source = WeightsSource(files=(("dinov2", tmp_path / "dinov2.safetensors"),), offline=True)
    encoder = load_encoder("dinov2", "dreambench", source=source)
    transform = v2.Compose(
        [
            v2.PILToTensor(),
            v2.Resize(256, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(224),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    # of this size from the start, with the position embeddings that timm itself makes of the file's
    smaller = timm.create_model(name, pretrained=False, num_classes=0, img_size=224).eval()
    smaller.load_state_dict(checkpoint_filter_fn(network.state_dict(), smaller))
    with torch.no_grad():
        tokens = smaller.forward_features(torch.stack([transform(image) for image in PHOTOS]))[:, 0].double()
    wanted = tokens / tokens.norm(dim=1, keepdim=True)
    found = encoder.embed_images(PHOTOS)
    assert found.shape == (3, 384)
    # tensors are resized in float and PIL images in whole numbers, hence not 1e-6
    np.testing.assert_allclose(found, wanted.numpy(), atol=2e-3)
    assert encoder.checkpoint["file"] == name
    assert len(encoder.checkpoint["sha256"]) == 64


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
        library="open_clip",
        model=TINY,
        repository="timm/tiny-siglip2",
        filename=standard.filename,
        tokenizer=standard.tokenizer,
        pixels=replace(standard.pixels, crop=SIDE),
    )
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
    assert abs(cosines(found)[0][0] - 1) < 1e-6


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
