import numpy as np
import pytest

from bdkit.miniworld.render import render
from bdkit.miniworld.scenes import sample_scene
from bdkit.miniworld.sheet import GAP, contact_sheet, paste_grid
from bdkit.miniworld.subjects import CLASSES, generator, sample_subject


def test_grid_holds_the_images_in_place() -> None:
    rng = generator("grid")
    scenes = [sample_scene(sample_subject("vase", str(i)), rng) for i in range(3)]
    sheet = np.asarray(paste_grid([scenes[:2], [None, scenes[2]]], 32, 1))
    assert sheet.shape == (2 * 34 + GAP, 2 * 34 + GAP, 3)
    assert np.array_equal(sheet[GAP : GAP + 32, GAP : GAP + 32], render(scenes[0], 32).image)
    assert np.array_equal(sheet[36 : 36 + 32, 36 : 36 + 32], render(scenes[2], 32).image)
    assert (sheet[36 : 36 + 32, GAP : GAP + 32] == 255).all()
    with pytest.raises(ValueError, match="unknown kind of sheet"):
        contact_sheet("pets")


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("world", (15, 3)), ("individuals", (15, 3)), ("contexts", (6, 11)), ("outfits", (6, 11)), ("changes", (15, 12))],
)
def test_sheets(kind, shape):
    sheet = contact_sheet(kind, columns=3, size=16, upscale=1)
    assert sheet.size == (shape[1] * 18 + GAP, shape[0] * 18 + GAP)
    assert sheet.tobytes() == contact_sheet(kind, columns=3, size=16, upscale=1).tobytes()
    assert sheet.tobytes() != contact_sheet(kind, seed=1, columns=3, size=16, upscale=1).tobytes()
    assert len(CLASSES) == 15
