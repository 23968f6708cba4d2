"""The walk between two subjects against closed forms, and the images of `walk` against single calls."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from bdkit.editing.interpolation import gif, interpolate, strip, walk
from bdkit.testing.tiny_model import tiny_model
from bdkit.utils.errors import InputError


def vectors(seed: int, queries: int = 4, width: int = 32) -> torch.Tensor:
    return torch.randn(1, queries, width, generator=torch.Generator().manual_seed(seed))


def test_linear_is_the_weighted_mean() -> None:
    a, b = vectors(0), vectors(1)
    torch.testing.assert_close(
        interpolate(a, b, 5, "linear"), torch.cat([a, 0.75 * a + 0.25 * b, (a + b) / 2, 0.25 * a + 0.75 * b, b])
    )


def test_spherical_turns_each_vector_evenly() -> None:
    """In the plane of a and b the angle from a is t times the whole one, and the length lies t between the two."""
    a, b = torch.tensor([[[2.0, 0, 0], [0, 1, 0]]]), torch.tensor([[[0.0, 4, 0], [0, 0.5, 0.5 * 3**0.5]]])
    half = interpolate(a, b, 3)[1]
    torch.testing.assert_close(half, torch.tensor([[3 / 2**0.5, 3 / 2**0.5, 0], [0, 3**0.5 / 2, 0.5]]))
    whole = interpolate(vectors(0), vectors(1), 9)
    torch.testing.assert_close(whole[[0, -1]], torch.cat([vectors(0), vectors(1)]))
    between = torch.nn.functional.cosine_similarity(whole[1:], whole[:-1], dim=-1).arccos()
    torch.testing.assert_close(between, between[:1].expand_as(between), atol=1e-3, rtol=0)


@pytest.mark.parametrize("other", [1.0, -1.0, 0.0])
def test_spherical_is_linear_where_no_arc_is_defined(other: float) -> None:
    a = vectors(0)
    torch.testing.assert_close(interpolate(a, other * a, 4), interpolate(a, other * a, 4, "linear"))


@pytest.mark.parametrize(
    ("change", "words"),
    [({"steps": 1}, "at least 2"), ({"path": "round"}, "spherical or linear"), ({"second": vectors(1, 3)}, "shapes")],
)
def test_what_cannot_be_interpolated_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        interpolate(**{"first": vectors(0), "second": vectors(1), "steps": 3, **change})  # type: ignore[arg-type]


def test_each_image_of_a_walk_is_the_one_of_a_single_call() -> None:
    model = tiny_model()
    a, b = vectors(0), vectors(1)
    images = walk(model, a, b, "a {} in the snow", ["dog", "cat"], steps=5, path="linear", seed=3)
    for number, noun in ((0, "dog"), (2, "dog"), (3, "cat"), (4, "cat")):
        share = number / 4
        (alone,) = model(
            "a {} in the snow", subject_embeddings=(1 - share) * a + share * b, target_subject=noun, seeds=[3]
        )
        difference = np.asarray(images[number], np.int16) - np.asarray(alone, np.int16)
        assert abs(difference).max() <= 1


def test_strip_and_gif_show_every_image() -> None:
    images = [Image.new("RGB", (8, 6), (shade, 0, 0)) for shade in (0, 100, 250)]
    row = strip(images)
    assert row.size == (3 * 8 + 2 * 2, 6)
    assert [row.getpixel((x, 0)) for x in (0, 8, 10, 20)] == [(0, 0, 0), (255, 255, 255), (100, 0, 0), (250, 0, 0)]
    moving = Image.open(io.BytesIO(gif(images)))
    assert moving.n_frames == 4
    assert "loop" in moving.info
