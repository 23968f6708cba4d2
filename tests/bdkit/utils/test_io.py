"""Whole files or none."""

import errno
from pathlib import Path

import pytest

from bdkit.utils.errors import InputError
from bdkit.utils.io import (
    check_free,
    file_hash,
    read_json,
    remove_unfinished,
    write_atomically,
    write_bytes,
    write_json,
)


def test_a_writer_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    target = tmp_path / "new folder" / "file.json"
    write_json({"a": Path("x"), "é": 1}, target)
    with pytest.raises(InputError, match=r"cannot write .*file\.json: No space left"):
        write_atomically(target, write)
    assert read_json(target) == {"a": "x", "é": 1}
    assert list(target.parent.iterdir()) == [target]


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".writing-1").write_text("half")
    write_bytes(b"abc", tmp_path / "a" / "whole")
    remove_unfinished(tmp_path)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["whole"]
    assert file_hash(tmp_path / "a" / "whole").startswith("ba7816bf8f01cfea")


@pytest.mark.parametrize(
    ("text", "message"), [(None, "is missing"), ("{", "is not readable JSON"), ("[1]", "is no JSON object")]
)
def test_json_that_cannot_be_read_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "run.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=rf"run\.json {message}"):
        read_json(path)


def test_only_an_empty_folder_is_free_unless_overwrite_is_given(tmp_path: Path) -> None:
    check_free(tmp_path, overwrite=False)
    check_free(tmp_path / "new", overwrite=False)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="already holds something"):
        check_free(tmp_path, overwrite=False)
    check_free(tmp_path, overwrite=True)
    check_free(tmp_path, overwrite=False, ignore="file")
    with pytest.raises(InputError, match="is a file"):
        check_free(tmp_path / "file", overwrite=True)
