"""What the tests of several commands ask."""

import pytest

from bdkit import cli


def line_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refused command prints."""
    capsys.readouterr()
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err
