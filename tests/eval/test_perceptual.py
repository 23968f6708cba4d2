"""LPIPS against the package `lpips`, with the same random AlexNet, and what it says when weights are missing."""

from pathlib import Path

import lpips
import numpy as np
import pytest
import torch

from bdkit.utils.errors import InputError
from eval.score.checkpoints import WeightsSource
from eval.score.perceptual import BACKBONE_FILE, FOLDER, HEADS_FILE, Lpips, load_lpips


def pictures(count: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *size, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two files as they are published, with random numbers in them."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("weights") / FOLDER
    place.mkdir()
    write_weights(place)
    return place.parent


def write_weights(place: Path) -> None:
    network = Lpips()
    backbone = {f"features.{name}": torch.randn_like(v) * 0.05 for name, v in network.backbone.state_dict().items()}
    torch.save({**backbone, "classifier.6.bias": torch.zeros(3)}, place / BACKBONE_FILE)
    heads = {f"lin{i}.model.1.weight": torch.rand_like(head.weight) for i, head in enumerate(network.heads)}
    torch.save(heads, place / HEADS_FILE)


def test_is_the_lpips_package(folder: Path) -> None:
    reference = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, spatial=True, verbose=False).eval()
    backbone = torch.load(folder / FOLDER / BACKBONE_FILE, weights_only=True)
    names = {f"features.{i}.{kind}": f"slice{s}.{i}.{kind}"
             for s, i in ((1, 0), (2, 3), (3, 6), (4, 8), (5, 10)) for kind in ("weight", "bias")}  # fmt: skip
    reference.net.load_state_dict({names[name]: backbone[name] for name in names})
    reference.load_state_dict(torch.load(folder / FOLDER / HEADS_FILE, weights_only=True), strict=False)
    reference = reference.double()
    first, second = pictures(3), pictures(4)[:3]
    tensors = [torch.from_numpy(p).permute(0, 3, 1, 2).double() / 127.5 - 1 for p in (first, second)]
    with torch.no_grad():
        wanted = reference(*tensors)[:, 0].numpy()
    found = load_lpips(WeightsSource(folder=folder))(first, second)
    assert found.shape == (3, 64, 48)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, wanted, atol=1e-5 * wanted.max())
    assert wanted.max() > 0


def test_of_equal_images_is_zero_and_symmetric(folder: Path) -> None:
    distance = load_lpips(WeightsSource(folder=folder))
    first, second = pictures(2), pictures(3)[:2]
    np.testing.assert_array_equal(distance(first, first), 0)
    np.testing.assert_allclose(distance(first, second), distance(second, first), rtol=1e-5)
    assert distance(first[:0], first[:0]).shape == (0, 64, 48)
    with pytest.raises(ValueError, match="cannot be compared"):
        distance(first, second[:, :32])


def test_missing_and_broken_weights_are_one_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("BDKIT_WEIGHTS_DIR", raising=False)
    with pytest.raises(InputError, match="LPIPS needs alexnet") as missing:
        load_lpips()
    assert "\n" not in str(missing.value)
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / BACKBONE_FILE).write_bytes((folder / FOLDER / BACKBONE_FILE).read_bytes())
    (tmp_path / FOLDER / HEADS_FILE).write_bytes(b"not weights")
    with pytest.raises(InputError, match=r"alex\.pth is broken or does not hold"):
        load_lpips(WeightsSource(folder=tmp_path))
    (tmp_path / FOLDER / BACKBONE_FILE).write_bytes(b"PK")
    with pytest.raises(InputError, match=r"alexnet-owt-7be5be79\.pth is broken"):
        load_lpips(WeightsSource(folder=tmp_path))
