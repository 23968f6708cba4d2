"""The scenes of edit-mini."""

from collections import Counter

import pytest

from bdkit.utils.errors import InputError
from dreambench.editing import EditMiniConfig, edit_scenes


def test_scenes_are_fixed_and_spread_over_subjects() -> None:
    scenes = edit_scenes()
    assert len(scenes) == 100
    assert edit_scenes(count=7) == scenes[:7]
    assert len({scene.name for scene in scenes}) == len({scene.seed for scene in scenes}) == 100
    assert sum(scene.same_class for scene in scenes) == 50
    counts = Counter(scene.subject.name for scene in scenes)
    assert len(counts) == 30
    assert set(counts.values()) <= {3, 4}
    assert len({scene.context for scene in scenes}) > 15
    assert scenes[0].source_prompt == f"a {scenes[0].source_noun} {scenes[0].context}"
    assert scenes[0].target_prompt.startswith("a {} ")


def test_the_splits_share_no_scene() -> None:
    assert not {scene.seed for scene in edit_scenes("dev")} & {scene.seed for scene in edit_scenes("test")}


def test_refusals() -> None:
    for settings in ({"split": "train"}, {"scenes": 0}, {"scenes": 101}):
        with pytest.raises(InputError):
            EditMiniConfig(**settings)
    with pytest.raises(InputError):
        edit_scenes("train")
