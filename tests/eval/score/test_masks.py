"""Masks from files and from CLIPSeg, and images with one side blanked out."""

from pathlib import Path

import numpy as np
import pytest
import transformers
from eval_helpers import texture
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from bdkit.utils.errors import InputError
from bdkit.utils.images import write_png
from eval.score.masks import ClipSegSegmenter, keep, mean_colour, read_mask
from eval.score.protocols import PROTOCOLS


def test_keep_is_a_plain_loop() -> None:
    image, fill = texture(6, 4), (10, 20, 30)
    mask = np.random.default_rng(1).random((4, 6))
    for kept in ("subject", "background"):
        found = np.asarray(keep(image, mask, kept, fill))  # type: ignore[arg-type]
        for y in range(4):
            for x in range(6):
                share = mask[y, x] if kept == "subject" else 1 - mask[y, x]
                for channel in range(3):
                    wanted = image.getpixel((x, y))[channel] * share + fill[channel] * (1 - share)  # type: ignore[index]
                    assert abs(int(found[y, x, channel]) - wanted) <= 0.5 + 1e-9


def test_the_other_side_does_not_matter() -> None:
    """What is blanked out cannot change what a network sees."""
    mask = np.zeros((4, 6))
    mask[1:3, 2:5] = 1
    first, second = np.asarray(texture(6, 4)).copy(), np.asarray(texture(6, 4)).copy()
    second[mask == 0] = 77
    fill = mean_colour(PROTOCOLS["mini"].dino)
    views = [keep(Image.fromarray(p), mask, "subject", fill) for p in (first, second)]
    assert views[0].tobytes() == views[1].tobytes()
    others = [keep(Image.fromarray(p), mask, "background", fill) for p in (first, second)]
    assert others[0].tobytes() != others[1].tobytes()
    with pytest.raises(ValueError, match="does not fit"):
        keep(texture(5, 5), mask, "subject", fill)
    assert mean_colour(PROTOCOLS["mini"].dino) == (128, 128, 128)
    assert mean_colour(PROTOCOLS["dreambench"].dino) == (124, 116, 104)


def test_mask_files(tmp_path: Path) -> None:
    values = np.zeros((4, 6), np.uint8)
    values[:, 3:] = 255
    write_png(Image.fromarray(values), tmp_path / "dog" / "00-1.png")
    found = read_mask(tmp_path / "dog/00-1.png", (6, 4))
    np.testing.assert_array_equal(found, values / 255)
    with pytest.raises(InputError, match="every image needs its mask"):
        read_mask(tmp_path / "dog/00-2.png", (6, 4))
    with pytest.raises(InputError, match="has 6 x 4 pixels, its image 4 x 6"):
        read_mask(tmp_path / "dog/00-1.png", (4, 6))
    (tmp_path / "dog" / "00-3.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="not a readable image"):
        read_mask(tmp_path / "dog/00-3.png", (6, 4))
    with pytest.raises(InputError, match="give masks as PNG files") as error:
        ClipSegSegmenter(str(tmp_path / "nothing"))
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def clipseg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real, tiny CLIPSeg with random weights, saved as the hub has it."""
    folder = tmp_path_factory.mktemp("clipseg")
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = transformers.CLIPSegConfig(
        text_config={**small, "vocab_size": 12, "max_position_embeddings": 16, "eos_token_id": 2, "bos_token_id": 1},
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=32, extract_layers=[0, 1, 2], reduce_dim=8, decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )  # fmt: skip
    transformers.CLIPSegForImageSegmentation(config).save_pretrained(folder)
    words = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", "dog", "vase"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    images = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    transformers.CLIPSegProcessor(images, fast).save_pretrained(folder)
    return folder


def test_clipseg_masks_have_the_images_sizes(clipseg: Path) -> None:
    segment = ClipSegSegmenter(str(clipseg))
    images = [texture(40, 30), texture(20, 50)]
    masks = segment(images, "dog")
    assert [mask.shape for mask in masks] == [(30, 40), (50, 20)]
    assert all(set(np.unique(mask)) <= {0.0, 1.0} for mask in masks)
    np.testing.assert_array_equal(segment(images[:1], "dog")[0], masks[0])
