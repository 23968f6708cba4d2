"""What makes drawing faster changes nothing by default, and little where it is asked for."""

import numpy as np
import torch

from bdkit.models.configs import TINY
from bdkit.models.speed import speed_up
from bdkit.testing.full_size import random_model


def draw(model: object) -> np.ndarray:
    return model(["a dog in the snow"] * 2, seeds=[0, 1], num_inference_steps=2, output_type="np")


def test_channels_last_changes_the_layout_and_hardly_the_images() -> None:
    torch.manual_seed(0)
    model = random_model(TINY).eval()
    for part in (model.unet, model.vae):
        part.to(memory_format=torch.contiguous_format)
    plain = draw(model)
    speed_up(model)
    assert np.array_equal(draw(model), plain)
    assert model.unet.conv_in.weight.is_contiguous()
    speed_up(model, channels_last=True)
    assert model.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert np.abs(draw(model) - plain).max() < 1e-4


def test_compiling_happens_when_an_image_is_drawn_and_keeps_the_weights_names() -> None:
    torch.manual_seed(0)
    model = random_model(TINY).eval()
    plain, names = draw(model), list(model.state_dict())
    speed_up(model, compiled=True)
    assert model.unet._compiled_call_impl is None
    with torch.compiler.set_stance("force_eager"):  # runs what was to be compiled
        assert np.array_equal(draw(model), plain)
    assert model.unet._compiled_call_impl is not None
    assert model.vae.decoder._compiled_call_impl is not None
    assert list(model.state_dict()) == names
