"""Faults as they happen: killed processes, damaged files, two processes at once, a full disk. All real ones."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fault_bench
import numpy as np
import pytest
from exact_evaluators import evaluators
from fault_bench import Slow, VerySlow, job, pictures, run, start
from PIL import Image
from tiny_bench import ROWS

from bdkit.cli import main, one_line
from bdkit.utils.errors import InputError
from eval.generate.maker import one_thread
from eval.generate.merge import merge_shards
from eval.generate.rows import Row
from eval.generate.runner import generate
from eval.generate.stamps import image_state, read_stamp, write_stamped
from eval.results_dir import save_suite
from eval.score.images import read_tree
from eval.score.score import ScoreOptions, merge_scores, score_images
from eval.score.score_shards import FOLDER

N_KILLS = 20
RESULTS = ("manifest.csv", "scores.csv")


def results(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in RESULTS}


def n_images(out: Path) -> int:
    return sum(1 for path in (out / "images").rglob("*.png") if not path.name.startswith("."))


@pytest.fixture(scope="module", autouse=True)
def same_bits() -> Iterator[None]:
    """Bytes are compared: all that scores here does so on one thread, as `run` does."""
    with one_thread():
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    run(out, score=True)
    return out


@pytest.fixture(scope="module")
def durations(tmp_path_factory: pytest.TempPathFactory) -> tuple[float, float]:
    """Seconds that a child takes until the images are there, and for the whole."""
    out = tmp_path_factory.mktemp("timed")
    start(out=out / "first").join()  # imports
    started = time.monotonic()
    child = start(out=out / "second", tiny=Slow, score=True)
    while not (out / "second/manifest.csv").exists():
        time.sleep(0.002)
    generated = time.monotonic()
    child.join()
    assert child.exitcode == 0
    return generated - started, time.monotonic() - started


@pytest.mark.slow
@pytest.mark.parametrize("n_shards", [1, 3])
def test_killed_at_twenty_random_moments_ends_with_the_same_bytes(
    tmp_path: Path, whole: Path, durations: tuple[float, float], n_shards: int
) -> None:
    rng = random.Random(n_shards)
    generating, everything = durations
    killed = {"generate": 0, "score": 0}
    out = tmp_path / "out"
    shards = [{"out": out, "tiny": Slow, "shard": (number, n_shards)} for number in range(1, n_shards + 1)]
    total = n_images(whole)
    # the first half of the kills while images are made: each run goes on where the last was, a little further
    while killed["generate"] < N_KILLS // 2:
        children = [start(**shard) for shard in shards]
        waits = sorted((rng.uniform(0, 4 * generating / N_KILLS), number) for number in range(n_shards))
        begun = time.monotonic()
        for moment, number in waits:
            time.sleep(max(0.0, begun + moment - time.monotonic()))
            children[number].kill()
        for child in children:
            child.join()
            killed["generate"] += child.exitcode == -signal.SIGKILL
        if n_images(out) == total:
            for path in (out / "images").rglob("*.png"):
                if rng.random() < 0.5:
                    path.unlink()
    children = [start(**shard) for shard in shards]
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert pictures(out) == pictures(whole)
    # the other half while they are scored, by as many shards with one cache
    scoring = [
        {"out": out, "tiny": Slow, "score": True, "cache": tmp_path / "cache", "score_shard": (number, n_shards)}
        for number in range(1, n_shards + 1)
    ]
    longest = everything - generating
    while killed["score"] < N_KILLS // 2 and longest > 0.01:
        children = [start(**shard) for shard in scoring]
        for child in children:
            child.join(rng.uniform(0, longest))
            child.kill()
            child.join()
            killed["score"] += child.exitcode == -signal.SIGKILL
        if all(child.exitcode == 0 for child in children):
            shutil.rmtree(tmp_path / "cache")
            longest *= 0.8  # a busy machine took the time
    assert min(killed.values()) >= N_KILLS // 2
    score_whole(out, scoring)
    assert results(out) == results(whole)
    assert pictures(out) == pictures(whole)
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


def score_whole(out: Path, scoring: list[dict[str, Any]]) -> None:
    """Lets the shards finish, and puts their scores together."""
    children = [start(**shard) for shard in scoring]
    for child in children:
        child.join()
        assert child.exitcode == 0
    if len(scoring) > 1:
        merge_scores([out], out)
        shutil.rmtree(out / FOLDER)


@pytest.mark.slow
def test_shards_in_folders_of_their_own_are_killed_and_merged(
    tmp_path: Path, whole: Path, durations: tuple[float, float]
) -> None:
    rng = random.Random(7)
    shards = [tmp_path / f"shard-{number}" for number in (1, 2, 3)]
    for number, shard in enumerate(shards, start=1):
        for _ in range(2):
            child = start(out=shard, tiny=Slow, shard=(number, 3))
            child.join(rng.uniform(0, durations[0] / 3))
            child.kill()
            child.join()
        last = start(out=shard, tiny=Slow, shard=(number, 3))
        last.join()
        assert last.exitcode == 0
    out = tmp_path / "out"
    merge_shards(shards, out, show_progress=False)
    run(out, score=True)
    assert results(out) == results(whole)


@pytest.mark.slow
def test_two_processes_on_each_shard_of_a_scoring_do_no_harm(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "out"
    run(out)
    scoring = [
        {"out": out, "score": True, "cache": tmp_path / "cache", "score_shard": (number, 2)} for number in (1, 2, 1, 2)
    ]
    score_whole(out, scoring)
    assert results(out) == results(whole)
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


@pytest.mark.slow
def test_two_processes_on_one_shard_share_its_work(tmp_path: Path, whole: Path) -> None:
    children = [start(out=tmp_path, tiny=Slow, score=True) for _ in range(2)]
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert results(tmp_path) == results(whole)
    record = json.loads((tmp_path / "run.json").read_text())
    # nothing was fitted twice: 2 subjects with 2 seed sets
    assert {name: len(seconds) for name, seconds in record["fit_seconds"].items()} == {"tiny": 4, "plain": 4}
    assert not {".locks", "fits"} & {path.name for path in tmp_path.iterdir()}


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    middle = len(data) // 2
    changed = {
        "truncated": data[:middle],
        "without its end": data[:-12],
        "empty": b"",
        "zeros": bytes(len(data)),
        "one bit": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "text": b"not an image\n",
        "something behind it": data + b"\0",
    }
    path.write_bytes(changed[how])


@pytest.mark.parametrize(
    "how", ["truncated", "without its end", "empty", "zeros", "one bit", "text", "something behind it"]
)
def test_a_damaged_image_is_noticed_and_made_again(tmp_path: Path, whole: Path, how: str) -> None:
    run(tmp_path)
    images_before = pictures(tmp_path)
    files = [tmp_path / "images/seed0/tiny/dog/00-1.png", tmp_path / "references/vase/01.png"]
    before = [path.read_bytes() for path in files]
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    for path in files:
        damage(path, how)
    with pytest.warns(UserWarning, match=f"1 damaged images in {tmp_path} are made again"):
        run(tmp_path)
    assert [path.read_bytes() for path in files] == before
    assert pictures(tmp_path) == images_before == pictures(whole)
    assert {path for path, written in times.items() if path.stat().st_mtime_ns != written} == set(files)
    assert (tmp_path / "manifest.csv").read_bytes() == (whole / "manifest.csv").read_bytes()


def test_images_of_others_are_refused_or_made_again_never_mixed(tmp_path: Path, whole: Path) -> None:
    run(tmp_path)
    path = tmp_path / "images/seed2/plain/vase/12-0.png"
    for stranger in (
        (tmp_path / "images/seed2/plain/vase/12-1.png").read_bytes(),
        Path(__file__).parent.parent.parent.joinpath("results/mini/grid.png").read_bytes(),
    ):
        path.write_bytes(stranger)
        with pytest.raises(InputError, match="holds images of 'plain' made with other weights or settings") as caught:
            run(tmp_path)
        assert "\n" not in (one_line(caught.value) or "\n")
        assert path.read_bytes() == stranger
    run(tmp_path, remake=True)
    assert pictures(tmp_path) == pictures(whole)


def test_seed_sets_that_are_left_out_must_fit_the_record(tmp_path: Path) -> None:
    run(tmp_path, seed_sets=(0, 2))
    with pytest.raises(InputError, match="seed2/tiny-2 holds images of 'tiny-2' made with other weights"):
        generate(job(tmp_path, seed_sets=(0,), rows=(Row(name="tiny-2", method="tiny"), *ROWS[1:]), remake=True))


def test_stamps_tell_whole_images_from_damaged_ones(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    path = tmp_path / "x.png"
    assert image_state(path, "a" * 32) == "missing"
    write_stamped(Image.fromarray(noise), path, "a" * 32)
    assert [image_state(path, key) for key in ("a" * 32, "b" * 32)] == ["done", "other"]
    np.testing.assert_array_equal(np.asarray(Image.open(path)), noise)
    data = path.read_bytes()
    for length in range(len(data)):
        assert read_stamp(data[:length]) is None
    for place in range(len(data)):
        assert read_stamp(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :]) is None
    Image.fromarray(noise).save(path)
    assert read_stamp(path.read_bytes()) == ""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody mount a small disk")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, leave: int) -> Path:
    """Fills a disk but for some bytes."""
    free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
    ballast = place / "ballast"
    ballast.write_bytes(bytes(free - leave))
    return ballast


@pytest.mark.parametrize("leave", [0, 40_000, 120_000])
def test_a_full_disk_is_told_in_one_line_and_the_run_goes_on(
    small_disk: Path, tmp_path: Path, whole: Path, leave: int
) -> None:
    out = small_disk / "out"
    ballast = fill(small_disk, leave)
    named = {"seed_sets": (0,), "rows": ROWS[:2]}
    for _ in range(2):
        with pytest.raises(InputError, match=r"cannot write .*No space left on device; free some space") as caught:
            run(out, **named)
        assert "\n" not in (one_line(caught.value) or "\n")
        assert not list(small_disk.rglob(".writing-*"))
    made = pictures(out)
    ballast.unlink()
    run(out, **named)
    assert made.items() <= pictures(out).items() <= pictures(whole).items()
    assert len(pictures(out)) == 3 * fault_bench.SUITE.n_images


@pytest.mark.parametrize("leave", [0, 8_000])
def test_scoring_on_a_full_disk_is_told_in_one_line_and_goes_on(
    small_disk: Path, tmp_path: Path, whole: Path, leave: int
) -> None:
    run(tmp_path / "whole")
    found = read_tree(tmp_path / "whole", fault_bench.SUITE, "whole")
    shutil.copytree(tmp_path / "whole/references", small_disk / "out/references")
    save_suite(fault_bench.SUITE, small_disk / "out")
    ballast = fill(small_disk, leave)

    def score() -> None:
        options = ScoreOptions(cache=small_disk / "cache")
        score_images(
            found, fault_bench.SUITE, evaluators("mini"), small_disk / "out", options=options, show_progress=False
        )

    with pytest.raises(InputError, match=r"cannot write .*No space left on device; free some space") as caught:
        score()
    assert "\n" not in (one_line(caught.value) or "\n")
    assert not list(small_disk.rglob(".writing-*"))
    assert not (small_disk / "out/scores.csv").exists()
    ballast.unlink()
    score()
    assert (small_disk / "out/scores.csv").read_bytes() == (whole / "scores.csv").read_bytes()


@pytest.mark.slow
def test_a_full_disk_ends_the_command_with_2(small_disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ballast = fill(small_disk, 4096)
    command = ["bench", "mini-quick", "--methods", "base", "--subjects", "1", "--prompts", "1", "--samples", "1"]
    command += ["--workers", "1", "--out", str(small_disk / "out")]
    assert main(command) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("bdkit: error: cannot write")
    assert "No space left on device" in lines[0]
    ballast.unlink()


@pytest.mark.slow
def test_a_process_waits_for_what_another_is_doing_and_takes_it_over(tmp_path: Path, whole: Path) -> None:
    first = start(out=tmp_path, tiny=VerySlow)
    while not list((tmp_path / ".locks").glob("????????????????")):
        time.sleep(0.01)
    second = start(out=tmp_path, score=True)
    second.join(3)
    first.kill()
    second.join()
    assert second.exitcode == 0
    assert results(tmp_path) == results(whole)
