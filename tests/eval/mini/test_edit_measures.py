"""The tables beside edit-mini: inversions, several subjects and attention, on made-up values."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from eval.mini import attention, inversions
from eval.mini.several_subjects import pair_of_subjects, similarities, two_objects


class MeanColour:
    """An encoder whose vector is the image's mean colour above white, of length 1."""

    def embed_images(self, images: list[Image.Image]) -> np.ndarray:
        darkness = np.stack([255 - np.asarray(image, float).mean(axis=(0, 1)) for image in images])
        return darkness / np.linalg.norm(darkness, axis=1, keepdims=True)


def scene(*colours: str) -> tuple[Image.Image, np.ndarray]:
    """Squares side by side, and where they are."""
    image, mask = Image.new("RGB", (64, 64), "white"), np.zeros((64, 64), bool)
    for number, colour in enumerate(colours):
        left = 4 + 30 * number
        ImageDraw.Draw(image).rectangle((left, 20, left + 19, 39), colour)
        mask[20:40, left : left + 20] = True
    return image, mask


def shown(colour: str) -> list[Image.Image]:
    return [Image.new("RGB", (64, 64), colour)]


def test_two_subjects_stay_two_or_collapse() -> None:
    ours = (shown("red"), shown("blue"))
    for colours in (("red", "blue"), ("blue", "red")):
        first, second, count = two_objects(*scene(*colours))
        cosines = similarities((first, second), ours, MeanColour())  # type: ignore[arg-type]
        assert count == 2
        assert (cosines[:, 0] > cosines[:, 1]).all()
    first, second, count = two_objects(*scene("red", "red"))
    cosines = similarities((first, second), ours, MeanColour())  # type: ignore[arg-type]
    assert (cosines[:, 0] > cosines[:, 1]).tolist() == [True, False]
    first, second, count = two_objects(*scene("red"))
    assert count == 1
    assert np.array_equal(np.asarray(first), np.asarray(second)[:, ::-1])  # halves of one square
    assert two_objects(Image.new("RGB", (64, 64)), np.zeros((64, 64), bool))[2] == 0


def test_pairs_are_of_two_classes_and_repeat() -> None:
    pairs = [pair_of_subjects(number) for number in range(40)]
    assert all(first.class_noun != second.class_noun for first, second in pairs)
    assert pairs == [pair_of_subjects(number) for number in range(40)]


def test_inversions_are_compared_with_the_autoencoder() -> None:
    black, grey = Image.new("RGB", (4, 4)), Image.new("RGB", (4, 4), (10, 10, 10))
    assert inversions.psnr(black, grey) == pytest.approx(20 * np.log10(25.5))
    rows = [
        {"method": "ddim", "psnr": 20.0 + k, "psnr_autoencoder": 25.0, "unet_calls": 16, "seconds": k} for k in range(3)
    ]
    found = inversions.summarise(pd.DataFrame(rows)).iloc[0]
    assert (found.psnr, found.below_autoencoder, found.seconds, found.n) == (21.0, 4.0, 1.0, 3)
    assert found.low <= 21.0 <= found.high


def test_a_token_is_local_where_most_subjects_say_so() -> None:
    values = {"entropy": 0.9, "weight": 0.02, "inside": 0.5, "lift": 2.0}
    kinds = {"subject 1": ["subject", "subject", "global"], "subject 2": ["subject", "background", "global"]}
    rows = [{"token": t, **values, "auc": 0.8, "kind": kind} for t, found in kinds.items() for kind in found]
    table = attention.summarise(pd.DataFrame(rows)).set_index("token")
    assert table["kind"].tolist() == ["subject", "global"]
    assert table.loc["subject 1", "subject"] == pytest.approx(2 / 3)
    assert table["n"].tolist() == [3, 3]
