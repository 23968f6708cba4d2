"""Structure maps: edges against an image whose edges are known, depth by a tiny model, and what is missing."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

from bdkit.editing.structures import STRUCTURES, canny_edges, depth_map, structure_map
from bdkit.utils.errors import InputError


def square(size: int = 64) -> Image.Image:
    """A white square on black, from a quarter to three quarters."""
    array = np.zeros((size, size, 3), np.uint8)
    array[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 255
    return Image.fromarray(array)


def test_edges_are_where_the_image_has_them() -> None:
    edges = np.asarray(canny_edges(square()))
    assert edges.shape == (64, 64, 3)
    assert set(np.unique(edges)) == {0, 255}
    on = edges[..., 0] > 0
    distance = np.maximum(np.abs(np.arange(64)[:, None] - 31.5), np.abs(np.arange(64)[None] - 31.5))
    assert (np.abs(distance[on] - 15.5) <= 1.5).all()
    assert on.sum() > 100
    assert not np.asarray(canny_edges(Image.new("RGB", (64, 64), "red"))).any()


def test_weak_edges_need_low_thresholds_which_reach_the_function() -> None:
    faint = Image.fromarray((np.asarray(square()) // 12).astype(np.uint8))
    assert np.asarray(canny_edges(faint, low=5, high=10)).any()
    assert not np.asarray(canny_edges(faint, low=100, high=200)).any()
    assert np.asarray(structure_map("canny", faint, 64, 64, low=5, high=10)).any()


def test_a_photo_covers_the_drawn_size_without_being_squashed() -> None:
    wide = Image.new("RGB", (200, 64))
    wide.paste(square(), (68, 0))
    assert structure_map("canny", wide, 64, 64).tobytes() == structure_map("canny", square(), 64, 64).tobytes()
    assert structure_map("canny", wide, 48, 96).size == (96, 48)


def test_depth_by_a_transformers_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
    )  # fmt: skip
    DPTForDepthEstimation(config).save_pretrained(tmp_path)
    DPTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    depth = structure_map("depth", square(), 40, 48, model=str(tmp_path))
    assert (depth.size, depth.mode) == ((48, 40), "RGB")
    values = np.asarray(depth)
    assert (values[..., 0] == values[..., 1]).all()
    assert values.max() > 200
    assert values.min() < 55
    assert (
        values.tobytes() != np.asarray(depth_map(square().resize((48, 40)).rotate(90), model=str(tmp_path))).tobytes()
    )


def test_missing_models_and_unknown_structures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"depth model .* cannot be read") as error:
        depth_map(square(), model=str(tmp_path / "none"))
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="unknown structure 'pose'; known are canny, depth, hed, scribble"):
        structure_map("pose", square(), 64, 64)
    assert tuple(STRUCTURES) == ("canny", "depth", "hed", "scribble")


@pytest.mark.parametrize("kind", ["hed", "scribble"])
def test_a_missing_library_is_told_with_its_install_command(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "controlnet_aux", None)  # as if it were not installed
    with pytest.raises(InputError) as error:
        structure_map(kind, square(), 64, 64)
    assert (
        str(error.value)
        == f"the structure '{kind}' needs controlnet_aux; install it with: pip install 'bdkit[structure]'"
    )


@pytest.mark.filterwarnings("ignore")  # of the optional library's own imports
def test_soft_edges_and_scribbles_by_the_optional_library(tmp_path: Path) -> None:
    """With random weights: what is tested is the way there, not what HED has learned."""
    hed = pytest.importorskip("controlnet_aux.hed")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(hed.ControlNetHED_Apache2().state_dict(), tmp_path / "ControlNetHED.pth")
    soft, drawn = (
        np.asarray(structure_map(kind, square(), 72, 48, model=str(tmp_path))) for kind in ("hed", "scribble")
    )
    assert soft.shape == drawn.shape == (72, 48, 3)
    assert len(np.unique(soft)) > 2
    assert not np.array_equal(soft, drawn)
    for wrong in (tmp_path / "none", tmp_path):
        (tmp_path / "ControlNetHED.pth").write_bytes(b"short")
        with pytest.raises(InputError, match=r"the weights of HED .* cannot be read") as error:
            structure_map("hed", square(), 64, 64, model=str(wrong))
        assert "\n" not in str(error.value)
