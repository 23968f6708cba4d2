"""The cache of embeddings on disk."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from eval.score.features import EmbeddingCache, content_hash


def rows(n: int, seed: int = 0) -> tuple[list[bytes], np.ndarray]:
    keys = [content_hash(f"{seed}/{index}".encode()) for index in range(n)]
    return keys, np.random.default_rng(seed).standard_normal((n, 4)).astype(np.float32)


def test_the_cache_keeps_rows_and_drops_damaged_segments(tmp_path: Path) -> None:
    keys, values_ = rows(600)
    cache = EmbeddingCache(tmp_path / "k")
    for start in range(0, 600, 50):
        cache.put(keys[start : start + 50], values_[start : start + 50])
    other = EmbeddingCache(tmp_path / "k")
    assert len(other) == 600
    cache.flush()
    other.refresh()
    assert other.missing([*keys, keys[0], b"x" * 32]) == [b"x" * 32]
    order = np.random.default_rng(1).permutation(600)
    np.testing.assert_array_equal(other.get([keys[index] for index in order]), values_[order])
    segment = sorted((tmp_path / "k").iterdir())[0]
    segment.write_bytes(segment.read_bytes()[:-10])
    damaged = EmbeddingCache(tmp_path / "k")
    lost = damaged.missing(keys)
    assert 0 < len(lost) < 600
    damaged.put(lost, values_[[keys.index(key) for key in lost]])
    damaged.flush()
    np.testing.assert_array_equal(EmbeddingCache(tmp_path / "k").get(keys), values_)


WRITER = """
import sys
from pathlib import Path
import numpy as np
from eval.score.features import EmbeddingCache, content_hash
cache = EmbeddingCache(Path(sys.argv[1]))
for index in range(int(sys.argv[2]), 100000):
    cache.put([content_hash(str(index).encode())], np.full((1, 4), index, dtype=np.float32))
    print(index, flush=True)
"""


@pytest.mark.slow
def test_two_writers_that_are_killed_leave_whole_rows(tmp_path: Path) -> None:
    starts = (0, 50_000)
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(start)], stdout=subprocess.PIPE)
        for start in starts
    ]
    while len(list(tmp_path.glob("*.safetensors"))) < 6:
        assert all(writer.poll() is None for writer in writers)
        for writer in writers:
            os.read(writer.stdout.fileno(), 65536)
        time.sleep(0.01)
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    cache = EmbeddingCache(tmp_path)
    there = [index for index in range(100_000) if content_hash(str(index).encode()) in cache]
    assert len(there) >= 6 * 256
    np.testing.assert_array_equal(cache.get([content_hash(str(i).encode()) for i in there])[:, 0], there)
