import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
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
from eval.score.weights import WeightsSource, load_classifier, load_clip, load_encoder, load_into

WORDS = ["a", "cat", "dog", "in", "jungle", "snow", "the"]


def draw_image(width: int, height: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


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
    image = draw_image(*size)
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
    image = draw_image(*size)
    assert torch.equal(to_batch([image], PROTOCOLS["dreambench"].clip)[0], transform(image))


def test_mini_leaves_its_own_size_alone_and_crops_photos_in_the_middle() -> None:
    how = PROTOCOLS["mini"].dino
    small = draw_image(64, 64)
    assert preprocess(small, how).tobytes() == small.tobytes()
    photo = Image.new("RGB", (300, 200), "red")
    photo.paste("blue", (50, 0, 250, 200))
    middle = np.asarray(preprocess(photo, how))
    assert middle.shape == (64, 64, 3)
    assert (middle[:, 2:62] == (0, 0, 255)).all()


def test_grey_and_transparent_images_are_taken() -> None:
    how = PROTOCOLS["mini"].dino
    for mode in ("L", "RGBA", "P", "CMYK"):
        assert to_batch([draw_image(80, 70).convert(mode)], how).shape == (1, 3, 64, 64)


def test_embeddings_are_unit_vectors_whatever_the_batch(shipped: Path) -> None:
    encoder = load_encoder("identity", "mini")
    images = [draw_image(64, 64, seed) for seed in range(5)] + [draw_image(90, 70, 5)]
    whole, parts = encoder.embed_images(images), encoder.embed_images(images, batch_size=2)
    assert whole.dtype == np.float32
    assert whole.shape == (6, IDENTITY_CONFIG["dimension"])
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
    assert clip.embed_images([draw_image(64, 64)]).shape == (1, vectors.shape[1])


def test_classifier_gives_log_probabilities(shipped: Path) -> None:
    predicted = load_classifier("mini").predict([draw_image(64, 64, seed) for seed in range(3)], batch_size=2)
    assert {name: values.shape for name, values in predicted.items()} == {
        "class": (3, 15),
        "context": (3, 21),
        "outfit": (3, 11),
        "change": (3, 6),
    }
    for values in predicted.values():
        np.testing.assert_allclose(np.exp(values).sum(axis=1), 1, atol=1e-5)


def test_nothing_to_embed_is_an_error(shipped: Path) -> None:
    encoder = load_encoder("identity", "mini")
    with pytest.raises(ValueError, match="empty"):
        encoder.embed_images([])
    with pytest.raises(ValueError, match="batch_size"):
        encoder.embed_images([draw_image(64, 64)], batch_size=0)


def spoil(folder: Path, how: str) -> None:
    path = folder / "identity.safetensors"
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "changed":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "no card":
        (folder / "card.json").unlink()
    elif how == "broken card":
        (folder / "card.json").write_text("{", encoding="utf-8")
    elif how == "not in the card":
        (folder / "card.json").write_text('{"models": {}}', encoding="utf-8")
    else:
        # the right hash of the wrong thing
        if how == "other tensors":
            save_file({"weight": torch.zeros(3)}, path, metadata={"config": json.dumps(IDENTITY_CONFIG)})
        elif how == "no config":
            save_file({"weight": torch.zeros(3)}, path)
        elif how == "a folder":
            path.unlink()
            path.mkdir()
            return
        else:
            path.write_bytes(b"not safetensors")
        card = {"models": {"identity": {"sha256": file_hash(path)}}}
        (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")


@pytest.mark.parametrize(
    "how",
    [
        "missing",
        "changed",
        "truncated",
        "no card",
        "broken card",
        "not in the card",
        "other tensors",
        "no config",
        "a folder",
        "garbage",
    ],
)
def test_bad_shipped_weights_are_one_line(shipped: Path, how: str) -> None:
    spoil(shipped, how)
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
    crops = np.stack([crop_pixels(draw_image(40, 50, seed), how) for seed in range(9)])
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
def test_public_dino_from_a_local_folder_is_the_cls_embedding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    reference = timm.create_model("vit_small_patch16_224.dino", pretrained=False, num_classes=0).eval()
    folder = tmp_path / "vit_small_patch16_224.dino"
    folder.mkdir()
    save_file(reference.state_dict(), folder / "model.safetensors")
    monkeypatch.setenv("BDKIT_WEIGHTS_DIR", str(tmp_path))
    encoder = load_encoder("dino", "dreambench")
    image = draw_image(300, 400)
    with torch.inference_mode():
        tokens = reference.forward_features(to_batch([image], PROTOCOLS["dreambench"].dino))
    expected = torch.nn.functional.normalize(tokens[:, 0], dim=1).numpy()
    np.testing.assert_allclose(encoder.embed_images([image]), expected, atol=1e-5)
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match="broken"):
        load_encoder("dino", "dreambench")


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
    image, text = draw_image(300, 400), "a dog in the jungle"
    tokens = open_clip.get_tokenizer("ViT-B-32-quickgelu")([text])
    with torch.inference_mode():
        pixels = to_batch([image], PROTOCOLS["dreambench"].clip)
        expected = reference.encode_image(pixels, normalize=True), reference.encode_text(tokens, normalize=True)
    np.testing.assert_allclose(clip.embed_images([image]), expected[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(clip.embed_texts([text]), expected[1].numpy(), atol=1e-5)
    shutil.rmtree(folder)


@pytest.mark.weights
def test_the_shipped_weights_fit_their_card_and_their_budget() -> None:
    folder = weights.MINI_WEIGHTS
    assert set(read_json(folder / weights.CARD)["models"]) == {"dino", "clip", "identity", "classifier"}
    for name in ("dino", "clip", "identity"):
        assert load_encoder(name, "mini").embed_images([draw_image(64, 64)]).shape[0] == 1
    load_classifier("mini")
    assert sum(path.stat().st_size for path in folder.glob("*.safetensors")) <= 5 * 2**20
