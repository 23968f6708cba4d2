"""Whole files or none."""

import errno
from pathlib import Path

import pytest

from bdkit.utils.errors import InputError
from bdkit.utils.io import (
    check_free,
    check_name,
    file_hash,
    printable,
    read_json,
    remove_unfinished,
    safe_name,
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


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("dog", "dog"),
        ("stuffed animal", "stuffed-animal"),
        ("cat/dog", "cat-dog"),
        ("../../etc", "etc"),
        ("/absolute", "absolute"),
        ("a\0b\nc", "a-b-c"),
        ("..", "subject"),
        ("", "subject"),
        ("con", "_con"),
        ("Aux.txt", "_Aux.txt"),
        ("dog. ", "dog"),
        ("c:\\dog", "c-dog"),
        ("caf\udce9", "caf"),
        ("Hündchen 犬", "Hündchen-犬"),
    ],
)
def test_a_users_text_becomes_one_part_of_a_path(text: str, name: str) -> None:
    assert safe_name(text) == name
    assert check_name(name, "it") == name


def test_long_names_are_cut_and_names_that_lead_elsewhere_refused(tmp_path: Path) -> None:
    name = safe_name("犬" * 500)
    assert 190 < len(name.encode()) <= 200
    (tmp_path / f"my-{name}").mkdir()
    for bad in ("", ".", "..", "a/b", "a\\b", "NUL", "com1.txt", "a\x07", "dog ", "dog.", "x" * 300, "a\udce9", "a:b"):
        with pytest.raises(InputError, match=r"it .* cannot name a folder"):
            check_name(bad, "it")


def test_text_that_is_no_unicode_is_written_and_json_reads_it_back(tmp_path: Path) -> None:
    write_json({"caf\udce9": "\udcff"}, tmp_path / "x.json")
    assert (tmp_path / "x.json").read_text(encoding="utf-8")
    assert read_json(tmp_path / "x.json") == {"caf\udce9": "\udcff"}
    assert printable("a\udce9\n") == "a\\udce9\\n"


def test_a_folder_that_cannot_be_made_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file is a file; give a folder"):
        check_free(tmp_path / "file" / "deeper" / "out", overwrite=True)
    with pytest.raises(InputError, match="File name too long"):
        check_free(tmp_path / ("x" * 300), overwrite=True)
    check_free(tmp_path / "new" / "folder", overwrite=False)
