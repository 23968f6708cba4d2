"""`bdkit stylize` is `bdkit generate` under structure control, with the source and the structure beside the images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Call = Callable[..., str]


def test_it_draws_what_generate_draws(
    model: Path, photos: Path, controlnet: Path, tmp_path: Path, run: Call, generate: Callable[..., list[str]]
) -> None:
    shared = ["--images", photos, "--subject", "dog", "--controlnet", controlnet, "--seeds", "2-3"]
    run(*generate(*shared, "--control", f"canny={photos}/1.png", "--control-strength", 0.5, out=tmp_path / "generated"))
    flags = ["--model", model, "--prompt", "a {} in the snow", "--num-inference-steps", 2, "--strength", 0.5]
    run("stylize", photos / "1.png", *shared, *flags, "--out", tmp_path / "styled")
    names = {"00002.png", "00003.png", "source.png", "structure.png", "strip.png", "run.json"}
    assert {path.name for path in (tmp_path / "styled").iterdir()} == names
    for name in ("00002.png", "00003.png"):
        assert (tmp_path / "styled" / name).read_bytes() == (tmp_path / "generated" / name).read_bytes()
    with Image.open(tmp_path / "styled" / "strip.png") as strip:
        assert strip.size == (4 * 32 + 3 * 2, 32)
    with Image.open(tmp_path / "styled" / "structure.png") as structure:
        assert set(np.unique(np.asarray(structure))) == {0, 255}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--structure", "pose"], "'pose' is not one of canny, depth, hed, scribble"),
        (["--strength", "-1"], "strength of a ControlNet is -1"),
        (["--controlnet", "no-such-net"], "no ControlNet at 'no-such-net'"),
        (["--images", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_a_wrong_value_is_refused(
    more: list[str], words: str, model: Path, photos: Path, controlnet: Path, tmp_path: Path, refused: Call
) -> None:
    flags = ["--model", model, "--images", photos, "--subject", "dog", "--controlnet", controlnet]
    assert words in refused("stylize", photos / "1.png", *flags, "--out", tmp_path / "out", *more)
    assert not (tmp_path / "out").exists()


def test_a_shape_that_is_missing_is_named(tmp_path: Path, refused: Call) -> None:
    assert "no.png is missing" in refused("stylize", tmp_path / "no.png", "--out", tmp_path / "out")
