"""Scenes of the mini world as images in a folder, with masks and captions."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))  # for `prepare_examples`
from prepare_examples import SIZE, write_list

from bdkit.miniworld.render import render
from bdkit.training.pretraining.corpus import CorpusConfig, corpus_scene


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, np.ndarray, str]]:
    """Image, exact alpha and class noun of eight scenes."""
    result = []
    for index in range(8):
        scene, _ = corpus_scene(CorpusConfig(seed=5), index)
        drawn = render(scene, SIZE)
        result.append((drawn.image, drawn.alpha, scene.subject.class_noun))
    return result


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, scenes: list[tuple[np.ndarray, np.ndarray, str]]) -> Path:
    """A folder `images` with scenes, a folder `masks` with their binary masks, and captions.csv."""
    root = tmp_path_factory.mktemp("input")
    (root / "images" / "a").mkdir(parents=True)
    (root / "masks" / "a").mkdir(parents=True)
    rows = []
    for number, (image, alpha, noun) in enumerate(scenes):
        Image.fromarray(image).save(root / "images" / "a" / f"{number}.png")
        Image.fromarray((alpha > 127).astype(np.uint8) * 255).save(root / "masks" / "a" / f"{number}.png")
        Image.fromarray(np.dstack([image, alpha])).save(root / "images" / f"cutout{number}.png")
        rows.append({"path": f"a/{number}.png", "caption": f"a photo of a {noun}", "subject": noun})
    write_list(root / "captions.csv", rows)
    return root
