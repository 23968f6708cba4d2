"""Parts of a job, made by one process or several."""

import os
from pathlib import Path

import pytest

from bdkit.utils.parallel import make_parts


@pytest.mark.parametrize("workers", [1, 2])
def test_each_part_is_made_and_a_failure_is_told(workers: int, tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(3)]
    jobs = [(str(folder),) for folder in folders]
    make_parts(os.mkdir, jobs, name="parts", workers=workers, progress=False)
    assert all(folder.is_dir() for folder in folders)
    with pytest.raises(FileExistsError):
        make_parts(os.mkdir, jobs, name="parts", workers=workers, progress=False)
    make_parts(os.mkdir, [], name="parts")
