"""What commands refuse before they start."""

from pathlib import Path

import pytest

from bdkit.commands.outputs import check_free
from bdkit.methods.base import check_class_noun
from bdkit.utils.errors import InputError


def test_what_is_there_is_kept_unless_overwrite_is_said(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="already holds something"):
        check_free(tmp_path, overwrite=False)
    check_free(tmp_path, overwrite=True)


def test_an_empty_folder_may_be_filled_and_a_file_may_not(tmp_path: Path) -> None:
    check_free(tmp_path, overwrite=False)
    check_free(tmp_path / "new", overwrite=False)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        check_free(tmp_path / "file", overwrite=True)


def test_a_class_word_must_be_known_where_the_model_says_which_are() -> None:
    check_class_noun("unicorn", None)
    check_class_noun("dog", ["cat", "dog"])
    with pytest.raises(InputError, match="'unicorn'; it knows cat, dog"):
        check_class_noun("unicorn", ["cat", "dog"])
