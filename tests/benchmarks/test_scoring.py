"""The parts of benchmarks/scoring.py that its figures rest on."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from scoring import fit_line, suite_of, with_comment


def test_a_comment_makes_another_file_of_the_same_image() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    one, other = (with_comment(buffer.getvalue(), text) for text in ("dog 00-0", "dog 00-1"))
    assert len({buffer.getvalue(), one, other}) == 3
    with Image.open(io.BytesIO(other)) as image:
        np.testing.assert_array_equal(np.asarray(image), noise)
        assert image.info["Comment"] == "dog 00-1"  # its checksum was right


def test_the_line_is_fitted_to_relative_errors() -> None:
    lines = {n: {"images": n, "seconds": 30 + 0.1 * n} for n in (500, 1000, 2000, 4000)}
    assert fit_line(lines) == pytest.approx((30, 0.1, 0), abs=1e-9)
    lines[1000]["seconds"] *= 1.2
    assert 0.05 < fit_line(lines)[2] < 0.2


@pytest.mark.parametrize("wanted", [500, 1000, 2000, 3000, 4000])
def test_suites_are_as_large_as_asked(wanted: int) -> None:
    suite = suite_of(wanted)
    assert suite.n_images == pytest.approx(wanted, rel=0.03)
    assert len(suite.subjects) == 30
