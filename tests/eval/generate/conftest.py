import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from generate_helpers import run


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, scored; not to be changed."""
    out = tmp_path_factory.mktemp("whole")
    assert run(out, score=True)
    return out
