"""Where subjects are, by CLIPSeg, and captions by an image-to-text model."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prepare_examples import COLUMNS, SIZE, prepare, write_list

from bdkit.training.shards.read import Shards
from bdkit.utils.errors import InputError


@pytest.fixture(scope="module")
def clipseg_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIPSeg of two small layers, random weights."""
    import torch
    from transformers import (
        CLIPSegConfig,
        CLIPSegForImageSegmentation,
        CLIPSegProcessor,
        CLIPTokenizer,
        ViTImageProcessor,
    )

    import bdkit

    tokenizer = CLIPTokenizer.from_pretrained(Path(bdkit.__file__).parent / "weights" / "mini" / "tokenizer")
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPSegConfig(
        text_config=layers
        | {
            "vocab_size": len(tokenizer),
            "eos_token_id": tokenizer.eos_token_id,
            "max_position_embeddings": 77,
        },
        vision_config=layers | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
        extract_layers=[0, 1],
        reduce_dim=16,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
        conditional_layer=0,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clipseg")
    CLIPSegForImageSegmentation(config).save_pretrained(folder)
    processor = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    CLIPSegProcessor(image_processor=processor, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def test_clipseg_gives_a_map_an_image_that_the_noun_decides(clipseg_folder: Path, images: Path) -> None:
    from bdkit.training.preparation.segmentation import ClipSeg

    segment = ClipSeg(str(clipseg_folder))
    pair = [Image.open(images / "images" / "a" / f"{n}.png").convert("RGB").resize((48, 40 + n)) for n in range(2)]
    maps = segment(pair, ["dog", "stuffed animal"])
    assert [m.shape for m in maps] == [(40, 48), (41, 48)]
    assert all(m.dtype == np.float32 and 0 <= m.min() < m.max() <= 1 for m in maps)
    np.testing.assert_allclose(segment(pair[:1], ["dog"])[0], maps[0], atol=1e-5)
    assert np.abs(segment(pair[:1], ["teapot"])[0] - maps[0]).max() > 1e-6


def test_clipseg_segments_and_a_box_bounds_it(clipseg_folder: Path, images: Path, tmp_path: Path) -> None:
    with (images / "captions.csv").open(newline="") as file:
        rows = [{name: row[name] for name in COLUMNS[:3]} | {"box": "8 8 40 48"} for row in csv.DictReader(file)]
    from bdkit.training.preparation.segmentation import ClipSeg

    # thresholds that random weights reach
    shown = [Image.open(images / "images" / row["path"]).convert("RGB") for row in rows]
    confidences = np.stack(ClipSeg(str(clipseg_folder))(shown, [row["subject"] for row in rows]))[:, 8:48, 8:40]
    low, high = np.quantile(confidences, [0.3, 0.5])
    options = {"masks": "clipseg", "segmenter": str(clipseg_folder), "excluded": float(low), "certain": float(high)}
    prepare(images, tmp_path / "out", write_list(tmp_path / "list.csv", rows), **options)
    shards = Shards(tmp_path / "out")
    assert len(shards) >= 4
    for number in range(len(shards)):
        known = shards[number].pixels("trimap.png", "L")
        assert (known == 255).any()
        outside = np.ones((SIZE, SIZE), bool)
        outside[8:48, 8:40] = False
        assert (known[outside] == 0).all()
        left, top, right, bottom = shards[number].details["box"]
        assert 8 <= left < right <= 40
        assert 8 <= top < bottom <= 48


def test_absent_weights_are_one_line(images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be loaded .*--segmenter or masks with --masks"):
        prepare(images, tmp_path / "out", masks="clipseg", segmenter=str(tmp_path / "nothing"))


def test_a_captioner_writes_what_is_missing(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bdkit.training.preparation import prepare as module

    def describe(shown: list[Image.Image]) -> list[str]:
        return [f"a dog of {image.width} pixels" for image in shown]

    monkeypatch.setattr(module, "captioner", lambda weights, device: describe)
    rows = [
        {"path": "a/0.png", "subject": "dog", "mask": "a/0.png"},
        {"path": "a/1.png", "subject": "dog", "caption": "the dog"},
    ]
    prepare(images, tmp_path / "out", write_list(tmp_path / "list.csv", rows), captioner="some/model")
    shards = Shards(tmp_path / "out")
    assert [shards[n].details["caption"] for n in range(2)] == ["a dog of 64 pixels", "the dog"]


def test_the_captioner_is_an_image_to_text_model(tmp_path: Path) -> None:
    import torch
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    import bdkit
    from bdkit.models.tokenizers import BertTokenizer
    from bdkit.training.preparation.segmentation import Captioner

    folder = Path(bdkit.__file__).parent / "weights" / "mini" / "qformer_tokenizer"
    tokenizer = BertTokenizer.from_pretrained(folder)
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = layers | {
        "vocab_size": len(tokenizer),
        "encoder_hidden_size": 32,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(0)
    config = BlipConfig(text_config=text, vision_config=layers | {"image_size": 32, "patch_size": 8}, projection_dim=16)
    BlipForConditionalGeneration(config).save_pretrained(tmp_path)
    processor = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(image_processor=processor, tokenizer=tokenizer).save_pretrained(tmp_path)
    texts = Captioner(str(tmp_path))([Image.new("RGB", (40, 50)), Image.new("RGB", (64, 64), "red")])
    assert len(texts) == 2
    assert all(isinstance(text, str) for text in texts)
