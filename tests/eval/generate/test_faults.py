"""Faults as they happen: killed processes, damaged files, two processes at once, a full disk. All real ones."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from eval_helpers import ROWS
from generate_helpers import SUITE, Slow, VerySlow, files, run, start

from bdkit.cli import main, one_line
from bdkit.utils.errors import InputError
from eval.results_dir import read_run

N_KILLS = 20


def n_images(out: Path) -> int:
    return sum(name.startswith("images") for name in files(out))


def scores(out: Path) -> bytes:
    return (out / "scores.csv").read_bytes()


@pytest.fixture(scope="module")
def durations(tmp_path_factory: pytest.TempPathFactory) -> tuple[float, float]:
    """Seconds that a child takes until the images are there, and for the whole."""
    out = tmp_path_factory.mktemp("timed")
    start(out=out / "first").join()  # imports
    started = time.monotonic()
    child = start(out=out / "second", tiny=Slow, score=True)
    while n_images(out / "second") < 8 * SUITE.n_images:
        time.sleep(0.01)
    generated = time.monotonic()
    child.join()
    assert child.exitcode == 0
    return generated - started, time.monotonic() - started


@pytest.mark.slow
@pytest.mark.parametrize("n_shards", [1, 3])
def test_killed_at_twenty_random_moments_ends_with_the_same_bytes(tmp_path, whole, durations, n_shards):
    rng = random.Random(n_shards)
    generating, everything = durations
    out = tmp_path / "out"
    shards = [{"out": out, "tiny": Slow, "shard": f"{number}/{n_shards}"} for number in range(1, n_shards + 1)]
    kept: dict[str, int] = {}
    killed = 0
    # the first half of the kills while images are made: each run resumes where the last was stopped
    while killed < N_KILLS // 2:
        children = [start(**shard) for shard in shards]
        begun = time.monotonic()
        for moment, number in sorted((rng.uniform(0, 4 * generating / N_KILLS), number) for number in range(n_shards)):
            time.sleep(max(0.0, begun + moment - time.monotonic()))
            children[number].kill()
        for child in children:
            child.join()
            killed += child.exitcode == -signal.SIGKILL
        now = files(out, times=True)
        assert kept.items() <= now.items()
        if n_images(out) == n_images(whole):
            for path in (out / "images").rglob("*.png"):
                if rng.random() < 0.5:
                    path.unlink()
        kept = files(out, times=True)
    children = [start(**shard) for shard in shards]
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert files(out) == files(whole)
    # the other half while they are scored, with a cache that the next run takes up
    scoring = {"out": out, "tiny": Slow, "score": True, "cache": tmp_path / "cache"}
    longest = everything - generating
    while killed < N_KILLS and longest > 0.01:
        child = start(**scoring)
        child.join(rng.uniform(0, longest))
        child.kill()
        child.join()
        killed += child.exitcode == -signal.SIGKILL
        if child.exitcode == 0:
            longest *= 0.8  # a busy machine took the time
    assert killed >= N_KILLS
    child = start(**scoring)
    child.join()
    assert child.exitcode == 0
    assert scores(out) == scores(whole)
    assert files(out) == files(whole)
    assert {path.name for path in out.glob("[!.]*")} == {path.name for path in whole.iterdir()}


@pytest.mark.slow
def test_two_processes_on_one_shard_share_its_work(tmp_path: Path, whole: Path) -> None:
    children = [start(out=tmp_path, tiny=Slow) for _ in range(2)]
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert files(tmp_path) == files(whole)
    record = read_run(tmp_path)
    # nothing was fitted twice: 2 subjects with 2 seed sets
    for name in ("fit_seconds", "draw_seconds"):
        assert {row: len(seconds) for row, seconds in record[name].items()} == {"tiny-2": 4, "tiny": 4, "plain": 4}
    assert not (tmp_path / "fits").exists()


@pytest.mark.slow
def test_a_process_waits_for_what_another_is_doing_and_takes_it_over(tmp_path: Path, whole: Path) -> None:
    first = start(out=tmp_path, tiny=VerySlow)
    while not list((tmp_path / "fits").rglob("*.lock")):
        time.sleep(0.01)
    second = start(out=tmp_path)
    second.join(3)
    first.kill()
    second.join()
    assert second.exitcode == 0
    assert files(tmp_path) == files(whole)


@pytest.mark.parametrize("how", ["truncated", "empty", "text"])
def test_a_damaged_image_is_named_before_scoring_and_made_again(tmp_path: Path, whole: Path, how: str) -> None:
    run(tmp_path)
    path = tmp_path / "images/seed0/tiny/dog/00-1.png"
    data = path.read_bytes()
    path.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "text": b"not an image\n"}[how])
    with pytest.raises(InputError, match=r"00-1\.png") as caught:
        run(tmp_path, score=True)
    assert "\n" not in (one_line(caught.value) or "\n")
    assert not (tmp_path / "scores.csv").exists()
    if how == "text":
        run(tmp_path, remake=True)
    else:
        path.unlink()
    run(tmp_path, score=True)
    assert files(tmp_path) == files(whole)
    assert scores(tmp_path) == scores(whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody mount a small disk")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Fills a disk but for some bytes."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(free - leave))
    return ballast


@pytest.mark.parametrize("leave", [0, 40_000, 120_000])
def test_a_full_disk_is_one_line_and_the_run_resumes(small_disk: Path, tmp_path: Path, whole: Path, leave: int) -> None:
    out = small_disk / "out"
    ballast = fill(small_disk, leave)
    named = {"seed_sets": (0,), "rows": ROWS[:2]}
    for _ in range(2):
        with pytest.raises((InputError, OSError)) as caught:
            run(out, **named)
        line = one_line(caught.value) or "\n"
        assert "\n" not in line
        assert "free some space" in line
        assert not list(small_disk.rglob(".writing-*"))
    made = files(out)
    ballast.unlink()
    run(out, **named)
    assert made.items() <= files(out).items() <= files(whole).items()
    assert n_images(out) == 3 * SUITE.n_images


@pytest.mark.parametrize("leave", [0, 8_000])
def test_scoring_on_a_full_disk_is_one_line_and_resumes(small_disk: Path, tmp_path: Path, leave: int) -> None:
    named = {"seed_sets": (0,), "rows": ROWS[2:]}
    run(tmp_path / "whole", score=True, **named)
    out = small_disk / "out"
    run(out, **named)
    ballast = fill(small_disk, leave)
    with pytest.raises(InputError, match=r"cannot write .*No space left on device; free some space"):
        run(out, score=True, cache=small_disk / "cache", **named)
    assert not list(small_disk.rglob(".writing-*"))
    assert not (out / "scores.csv").exists()
    ballast.unlink()
    run(out, score=True, cache=small_disk / "cache", **named)
    assert scores(out) == scores(tmp_path / "whole")


@pytest.mark.slow
def test_a_full_disk_ends_the_command_with_2(small_disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fill(small_disk, 4096)
    command = ["bench", "mini-quick", "--methods", "base", "--subjects", "1", "--prompts", "1", "--samples", "1"]
    assert main([*command, "--workers", "1", "--out", str(small_disk / "out")]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("bdkit: error: cannot write")
    assert "No space left on device" in line
