"""Who may work in a results folder."""

from pathlib import Path
from typing import Any

import pytest

from bdkit.utils.errors import InputError
from bdkit.utils.io import write_json
from eval.results_dir import claimed, read_run

SETTINGS = {"suite": "mini", "subjects": {"dog": "dog2"}, "size": (1, 2)}


def claim(out: Path, settings: dict[str, Any]) -> None:
    with claimed(out, settings):
        pass


def test_a_claimed_folder_takes_the_same_settings_and_more_keys_of_a_dict(tmp_path: Path) -> None:
    claim(tmp_path, SETTINGS)
    claim(tmp_path, SETTINGS)
    claim(tmp_path, {**SETTINGS, "subjects": {"cat": "cat1"}})
    assert read_run(tmp_path) == {"suite": "mini", "subjects": {"dog": "dog2", "cat": "cat1"}, "size": [1, 2]}


@pytest.mark.parametrize(
    ("record", "named"),
    [
        ({"scoring": {}}, "suite, size"),  # of another command
        ({**SETTINGS, "suite": {"mini": 1}}, "suite"),
        ({**SETTINGS, "subjects": "dog"}, "subjects"),
        ({**SETTINGS, "subjects": {"dog": "dog1"}}, "subjects"),
        ({**SETTINGS, "size": [1]}, "size"),
    ],
)
def test_a_folder_of_other_settings_is_refused_and_stays(record: dict[str, Any], named: str, tmp_path: Path) -> None:
    write_json(record, tmp_path / "run.json")
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(InputError, match=rf"holds images of other settings \({named}\)"):
        claim(tmp_path, SETTINGS)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_images_of_unknown_origin_and_a_second_process_are_refused(tmp_path: Path) -> None:
    (tmp_path / "unknown" / "images").mkdir(parents=True)
    with pytest.raises(InputError, match=r"images without run\.json"):
        claim(tmp_path / "unknown", SETTINGS)
    with claimed(tmp_path / "out", SETTINGS), pytest.raises(InputError, match="another process"):
        claim(tmp_path / "out", SETTINGS)
    claim(tmp_path / "out", SETTINGS)
