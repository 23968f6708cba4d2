import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from generate_helpers import MINE, blocks, run


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, scored; not to be changed."""
    out = tmp_path_factory.mktemp("whole")
    assert run(out, score=True)
    return out


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with two modules."""
    before = {*sys.modules}, [*sys.path]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "ip_adapter.py").write_text(blocks("python"))
    yield tmp_path
    sys.path[:] = before[1]
    for name in {"mine", "ip_adapter", "broken", "needy"} & ({*sys.modules} - before[0]):
        del sys.modules[name]
