import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from eval_helpers import texture
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms import functional as vision

from bdkit.utils.errors import InputError
from bdkit.utils.io import file_hash, read_json
from eval.mini.networks import CLASSIFIER_CONFIG, CLIP_CONFIG, IDENTITY_CONFIG, build_network, save_network
from eval.score import weights
from eval.score.encoders import Encoder, crop_pixels, preprocess, to_batch
from eval.score.protocols import PROTOCOLS
from eval.score.weights import load_classifier, load_clip, load_encoder

WORDS = ["a", "cat", "dog", "in", "jungle", "snow", "the"]


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like the shipped one, with untrained networks."""
    torch.manual_seed(0)
    models = {}
    configs = {"clip": {**CLIP_CONFIG, "words": WORDS}, "identity": IDENTITY_CONFIG, "classifier": CLASSIFIER_CONFIG}
    for name, config in configs.items():
        models[name] = {"sha256": save_network(build_network(config), config, tmp_path / f"{name}.safetensors")}
    (tmp_path / "card.json").write_text(json.dumps({"models": models}), encoding="utf-8")
    monkeypatch.setattr(weights, "MINI_WEIGHTS", tmp_path)
    return tmp_path


@pytest.mark.parametrize("size", [(400, 300), (300, 431), (256, 256), (100, 37), (64, 64)])
def test_dino_pixels_are_those_of_torchvision(size: tuple[int, int]) -> None:
    image = texture(*size)
    resized = vision.resize(image, 256, vision.InterpolationMode.BICUBIC, antialias=True)
    expected = vision.normalize(
        vision.to_tensor(vision.center_crop(resized, [224, 224])), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    assert torch.equal(to_batch([image], PROTOCOLS["dreambench"].dino)[0], expected)


@pytest.mark.parametrize("size", [(400, 300), (300, 431), (224, 224), (100, 37)])
def test_clip_pixels_are_the_native_ones_of_open_clip(size: tuple[int, int]) -> None:
    settings = open_clip.get_pretrained_cfg("ViT-B-32-quickgelu", "openai")
    native = {key: settings[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    transform = image_transform_v2(PreprocessCfg(size=224, **native), is_train=False)
    image = texture(*size)
    assert torch.equal(to_batch([image], PROTOCOLS["dreambench"].clip)[0], transform(image))


def test_mini_leaves_its_own_size_alone_and_crops_photos_in_the_middle() -> None:
    how = PROTOCOLS["mini"].dino
    small = texture(64, 64)
    assert preprocess(small, how).tobytes() == small.tobytes()
    photo = Image.new("RGB", (300, 200), "red")
    photo.paste("blue", (50, 0, 250, 200))
    middle = np.asarray(preprocess(photo, how))
    assert middle.shape == (64, 64, 3)
    assert (middle[:, 2:62] == (0, 0, 255)).all()


def test_grey_and_transparent_images_are_taken_and_none_refused(shipped: Path) -> None:
    how = PROTOCOLS["mini"].dino
    for mode in ("L", "RGBA", "P", "CMYK"):
        assert to_batch([texture(80, 70).convert(mode)], how).shape == (1, 3, 64, 64)
    encoder = load_encoder("identity", "mini")
    with pytest.raises(ValueError, match="empty"):
        encoder.embed_images([])
    with pytest.raises(ValueError, match="batch_size"):
        encoder.embed_images([texture(64, 64)], batch_size=0)


def test_embeddings_are_unit_vectors_whatever_the_batch(shipped: Path) -> None:
    encoder = load_encoder("identity", "mini")
    images = [texture(64, 64, seed) for seed in range(5)] + [texture(90, 70, 5)]
    whole, parts = encoder.embed_images(images), encoder.embed_images(images, batch_size=2)
    assert (whole.dtype, whole.shape) == (np.float32, (6, IDENTITY_CONFIG["dimension"]))
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(whole, parts, atol=1e-5)
    assert encoder.checkpoint["file"] == "identity.safetensors"
    assert len(encoder.checkpoint["sha256"]) == 64


def test_clip_reads_texts(shipped: Path) -> None:
    clip = load_clip("mini")
    texts = ["a dog in the snow", "A DOG, in the snow!", "a cat in the jungle", "a dog in the snow " + "the " * 60]
    vectors = clip.embed_texts(texts, batch_size=3)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert not np.allclose(vectors[0], vectors[2], atol=1e-3)
    assert clip.embed_images([texture(64, 64)]).shape == (1, vectors.shape[1])


def test_classifier_gives_log_probabilities(shipped: Path) -> None:
    predicted = load_classifier("mini").predict([texture(64, 64, seed) for seed in range(3)], batch_size=2)
    sizes = {"class": 15, "context": 21, "outfit": 11, "change": 6}
    assert {name: values.shape for name, values in predicted.items()} == {name: (3, n) for name, n in sizes.items()}
    for values in predicted.values():
        np.testing.assert_allclose(np.exp(values).sum(axis=1), 1, atol=1e-5)


SPOILT: dict[str, Callable[[Path, Path], object]] = {
    "missing": lambda path, card: path.unlink(),
    "changed": lambda path, card: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "truncated": lambda path, card: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a folder": lambda path, card: (path.unlink(), path.mkdir()),
    "no card": lambda path, card: card.unlink(),
    "broken card": lambda path, card: card.write_text("{"),
    "not in the card": lambda path, card: card.write_text('{"models": {}}'),
}
STRANGE: dict[str, Callable[[Path], object]] = {  # with the right hash in the card
    "other tensors": lambda path: save_file(
        {"weight": torch.zeros(3)}, path, metadata={"config": json.dumps(IDENTITY_CONFIG)}
    ),
    "no config": lambda path: save_file({"weight": torch.zeros(3)}, path),
    "garbage": lambda path: path.write_bytes(b"not safetensors"),
}


@pytest.mark.parametrize("how", [*SPOILT, *STRANGE])
def test_bad_shipped_weights_are_one_line(shipped: Path, how: str) -> None:
    path, card = shipped / "identity.safetensors", shipped / "card.json"
    if how in SPOILT:
        SPOILT[how](path, card)
    else:
        STRANGE[how](path)
        card.write_text(json.dumps({"models": {"identity": {"sha256": file_hash(path)}}}))
    with pytest.raises(InputError) as caught:
        load_encoder("identity", "mini")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "protocol", "needle"),
    [
        ("dino", "nonsense", "known: dreambench"),
        ("nonsense", "mini", "dino, clip, identity"),
        ("identity", "dreambench", "no identity"),
    ],
)
def test_unknown_names_list_the_known(name: str, protocol: str, needle: str) -> None:
    with pytest.raises(InputError, match=needle):
        load_encoder(name, protocol)
    with pytest.raises(InputError, match="no classifier"):
        load_classifier("dreambench")


def test_an_images_vector_does_not_depend_on_its_neighbours(shipped: Path) -> None:
    """To the bit: scores must be the same whatever was embedded before, or is taken from the cache."""
    torch.manual_seed(0)
    network = timm.create_model("vit_small_patch16_224.dino", pretrained=False, num_classes=0, depth=1, img_size=32)
    how = replace(PROTOCOLS["dreambench"].dino, short_side=32, crop=32)
    encoder = Encoder(network, how, "dino", {"file": "x", "sha256": "0"}, batch_size=4)
    crops = np.stack([crop_pixels(texture(40, 50, seed), how) for seed in range(9)])
    whole = encoder.embed(crops)
    order = np.random.default_rng(0).permutation(9)
    np.testing.assert_array_equal(encoder.embed(crops[order]), whole[order])
    np.testing.assert_array_equal(encoder.embed(crops[6:7]), whole[6:7])
    clip = load_clip("mini")
    texts = [f"a {word} in the snow" for word in WORDS]
    np.testing.assert_array_equal(clip.embed_texts(texts[3:4]), clip.embed_texts(texts)[3:4])


def test_keys_tell_apart_all_that_embeddings_depend_on(shipped: Path) -> None:
    def encoder(sha: str = "0", batch_size: int = 4, short_side: int = 32) -> Encoder:
        how = replace(PROTOCOLS["mini"].dino, short_side=short_side)
        return Encoder(torch.nn.Flatten(), how, "dino", {"file": "x", "sha256": sha}, batch_size=batch_size)

    same, *others = encoder().key, encoder("1").key, encoder(batch_size=5).key, encoder(short_side=40).key
    assert same == encoder().key
    assert len({same, *others}) == 4
    clip = load_clip("mini")
    assert clip.key != clip.text_key


@pytest.mark.weights
def test_the_shipped_weights_fit_their_card_and_their_budget() -> None:
    folder = weights.MINI_WEIGHTS
    assert set(read_json(folder / weights.CARD)["models"]) == {"dino", "clip", "identity", "classifier"}
    for name in ("dino", "clip", "identity"):
        assert load_encoder(name, "mini").embed_images([texture(64, 64)]).shape[0] == 1
    load_classifier("mini")
    names = ("dino", "clip", "identity", "classifier")
    assert sum((folder / f"{name}.safetensors").stat().st_size for name in names) <= 5 * 2**20
    shipped = [*folder.rglob("*.safetensors"), *(folder.parents[2] / "bdkit" / "weights").rglob("*.safetensors")]
    assert sum(path.stat().st_size for path in shipped) <= 52 * 2**20
    assert max(path.stat().st_size for path in shipped) <= 16 * 2**20
