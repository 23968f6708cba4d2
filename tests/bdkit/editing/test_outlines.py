"""The mask that follows outlines: shapes whose outline is known, and what it does not see."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from bdkit.editing.outlines import keep_outside, outline_mask

SIDE, CELL = 64, 8.0


def disk(x: int, y: int, radius: int, colour: str = "red") -> tuple[Image.Image, np.ndarray]:
    """A disk on noisy grass, and where it is."""
    grass = np.random.default_rng(0).normal((60, 160, 60), 12, (SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)
    image, truth = Image.fromarray(grass), Image.new("L", (SIDE, SIDE))
    box = (x - radius, y - radius, x + radius, y + radius)
    ImageDraw.Draw(image).ellipse(box, colour)
    ImageDraw.Draw(truth).ellipse(box, 255)
    return image, np.asarray(truth) > 0


def coarse(truth: np.ndarray) -> Image.Image:
    """What attention makes of a region: grown, and in steps of its cells."""
    grown = Image.fromarray(truth.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(7))
    return grown.resize((8, 8), Image.Resampling.BOX).point(lambda v: 255 * (v > 60)).resize((SIDE, SIDE), 0)


def overlap(mask: Image.Image, truth: np.ndarray) -> float:
    found = np.asarray(mask) > 127
    return float((found & truth).sum() / (found | truth).sum())


def test_the_mask_is_cut_along_both_outlines() -> None:
    (source, before), (result, after) = disk(28, 32, 13), disk(36, 32, 13, "blue")
    rough = coarse(before | after)
    assert overlap(rough, before | after) < 0.85
    assert overlap(outline_mask([source, result], rough, CELL), before | after) > 0.97


def test_the_result_is_repeated() -> None:
    image, truth = disk(30, 30, 12)
    masks = [np.asarray(outline_mask([image], coarse(truth), CELL)) for _ in range(2)]
    assert np.array_equal(*masks)


def test_masks_that_show_no_object_are_kept() -> None:
    image, _ = disk(30, 30, 12)
    for value in (0, 255):
        rough = Image.new("L", (SIDE, SIDE), value)
        assert np.array_equal(np.asarray(outline_mask([image], rough, CELL)), np.asarray(rough))


def test_nothing_far_from_the_mask_is_taken() -> None:
    image, truth = disk(18, 18, 10)
    ImageDraw.Draw(image).ellipse((45, 45, 60, 60), "red")
    found = np.asarray(outline_mask([image], coarse(truth), CELL)) > 127
    assert not found[42:, 42:].any()
    assert found[18, 18]


def test_the_sources_pixels_are_kept_outside() -> None:
    source, image = Image.new("RGB", (16, 16), "white"), Image.new("RGB", (16, 16), "black")
    mask = Image.new("L", (16, 16))
    mask.paste(255, (0, 0, 8, 16))
    kept = np.asarray(keep_outside(source, image, mask, 0.5))
    assert (kept[:, 12:] == 255).all()
    assert (kept[:, :4] == 0).all()
