import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from eval_helpers import ROWS
from generate_helpers import SUITE, config

from bdkit.utils.errors import InputError
from dreambench.registry import load_suite
from eval.experiments import TABLE1, BenchConfig, Row, protocol_of
from eval.generate.tasks import list_tasks, parse_shard
from eval.results_dir import REAL, ImageId


@pytest.mark.parametrize("count", [1, 2, 3, 5, 40])
def test_shards_divide_every_image_once_whole_fits_and_evenly(tmp_path: Path, count: int) -> None:
    tasks = list_tasks(config(tmp_path), SUITE)
    images = [image for task in tasks for image in task.images(SUITE)]
    assert len(images) == len(set(images)) == 4 * 2 * SUITE.n_images
    assert len({image.path(tmp_path) for image in images}) == len(images)
    assert len({image.seed("mini-quick") for image in images}) == len(images)
    assert len(set(tasks)) == len({task.fit_path(tmp_path, {}) for task in tasks}) == len(tasks) == 3 * 2 * 2
    shards = [tasks[number::count] for number in range(count)]
    for row in ROWS:
        sizes = [sum(row in task.rows for task in shard) for shard in shards]
        assert max(sizes) - min(sizes) <= 1
    assert list(tmp_path.iterdir()) == []


def test_an_image_has_one_path_and_seed_and_rows_share_a_fit(tmp_path: Path) -> None:
    image = ImageId("tiny", 2, "dog", 7, 1)
    assert image.path(tmp_path) == tmp_path / "images/seed2/tiny/dog/07-1.png"
    assert image.seed("mini-quick") == int.from_bytes(hashlib.sha256(b"mini-quick/tiny/dog/7/1/2").digest()[:6])
    assert image.seed("mini-quick") != image.seed("mini@0")
    assert ROWS[0].group == ROWS[1].group == "tiny {}" != ROWS[2].group
    assert replace(ROWS[2], overrides={"contrast": 1}) != ROWS[2]
    groups = [row.group for row in TABLE1]
    assert groups.count("dreambooth {}") == 3
    assert len({row.name for row in TABLE1}) == len(TABLE1) == 7


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "1/0", "-1/3", "1/3/2", "a/b", "1 of 3", "１/３", "1/9999999"])
def test_bad_shards(text: str) -> None:
    assert parse_shard("1/1") == parse_shard(None) == (1, 1)
    assert parse_shard(" 2/3 ") == (2, 3)
    with pytest.raises(InputError, match="is no shard; write 1/3"):
        parse_shard(text)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"rows": ()}, "no rows"),
        ({"methods": ()}, "no rows"),
        ({"rows": (ROWS[0], ROWS[0])}, "'tiny-2' is taken"),
        ({"rows": (Row(name=REAL, method="tiny"),)}, "is taken"),
        ({"rows": (Row(name="a/b", method="tiny"),)}, "cannot name a folder"),
        ({"rows": (Row(name="..", method="tiny"),)}, "cannot name a folder"),
        ({"methods": ("plain", "magic")}, "unknown method 'magic'; known are tiny-2, tiny, plain"),
        ({"seed_sets": ()}, "seed sets must be different"),
        ({"seed_sets": (1, 1)}, "seed sets must be different"),
        ({"seed_sets": (-1,)}, "seed sets must be different"),
        ({"batch_size": 0}, "a batch of 0 images is too small"),
        ({"workers": 0}, "a number of workers of 0 is too small"),
    ],
)
def test_bad_configs(tmp_path: Path, named: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        config(tmp_path, **named)


def test_protocol_fits_suite_and_model() -> None:
    photos, mini = load_suite("dreambench"), load_suite("mini")
    assert protocol_of(BenchConfig(model="mini"), photos) == "mini"
    assert protocol_of(BenchConfig(model="some/folder"), photos) == "dreambench"
    assert protocol_of(BenchConfig(model="some/folder"), mini) == "mini"
    assert protocol_of(BenchConfig(protocol="dreambench"), mini) == "dreambench"
