"""What a model in training draws of held-out subjects: the same for the same weights, scored by the evaluators."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.utils.errors import InputError
from eval.generate.samples import SuiteSamples, small_suite


@pytest.mark.weights
@pytest.mark.slow
def test_a_grid_with_scores(tmp_path: Path) -> None:
    model = BlipDiffusion.from_pretrained("mini")
    samples = SuiteSamples(model, suite=small_suite("mini-quick", None, subjects=2, prompts=2))
    grid, scores = samples(tmp_path / "one")
    assert set(scores) == {"dino", "clip_i", "clip_t"}
    assert all(0 < value < 1 for value in scores.values())
    assert len(list((tmp_path / "one" / "images").rglob("*.png"))) == 4
    again, same = samples(tmp_path / "two")
    assert same == scores
    assert np.array_equal(np.asarray(again), np.asarray(grid))
    with torch.no_grad():
        model.unet.conv_out.weight.zero_()
    worse = samples(tmp_path / "three")[1]
    assert worse["dino"] < scores["dino"]


def test_an_unknown_suite_is_refused_before_the_training() -> None:
    with pytest.raises(InputError, match="unknown suite 'mine'"):
        small_suite("mine", None)
