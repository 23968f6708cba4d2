"""`bdkit score --shard`: parts that know nothing of each other, and together are one run, byte for byte."""

import json
from pathlib import Path

import pandas as pd
import pytest
from drawn_images import SUITE, draw, tree
from exact_evaluators import evaluators

from bdkit.cli import main
from bdkit.utils.errors import InputError
from eval.report.tables import make_tables
from eval.results_dir import REAL, save_suite
from eval.score.features import Embeddings
from eval.score.images import read_images
from eval.score.score import ScoreOptions, merge_scores, score_images
from eval.score.score_shards import FOLDER

FILES = ("scores.csv", "scores.parquet", "run.json", "suite.json")
N_REFERENCES = sum(subject.n_references for subject in SUITE.subjects)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, subject in enumerate(SUITE.subjects):
        for index in range(subject.n_references):
            draw(tmp_path / "photos" / subject.name / f"{index:02d}.jpg", 1000 + 10 * number + index, (50, 60))
    return tmp_path / "photos"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two methods."""
    for method, shift in (("one", 0), ("two", 500)):
        tree(tmp_path / "mine" / method)
        for path in sorted((tmp_path / "mine" / method).rglob("*.png"))[::3]:
            draw(path, shift + len(path.name) + int(path.stem[-1]) + len(path.parent.name))
    return tmp_path / "mine"


def score(root: Path, photos: Path, out: Path, protocol: str = "dreambench", **options: object) -> pd.DataFrame:
    save_suite(SUITE, out)
    return score_images(
        read_images(root, SUITE),
        SUITE,
        evaluators(protocol),
        out,
        photos=photos,
        options=ScoreOptions(workers=0, **options),  # type: ignore[arg-type]
        show_progress=False,
    )


def bytes_of(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in FILES}


@pytest.mark.parametrize("count", [2, 3, 40])
@pytest.mark.parametrize("together", [True, False], ids=["in one folder", "each in its own"])
def test_shards_together_are_one_run(tmp_path: Path, root: Path, photos: Path, count: int, together: bool) -> None:
    whole = score(root, photos, tmp_path / "whole")
    outs = [tmp_path / ("parts" if together else f"part-{number}") for number in range(1, count + 1)]
    parts = []
    for number in reversed(range(1, count + 1)):
        parts.append(score(root, photos, outs[number - 1], shard=(number, count)))
        assert not (outs[number - 1] / "scores.csv").exists()
    # every row in one part, the oracle's in the first, and the work divided evenly
    assert sum(map(len, parts)) == len(whole)
    assert set(parts[-1]["method"]) >= {REAL}
    assert all(REAL not in set(part["method"]) for part in parts[:-1])
    made = [len(part[~part["method"].str.startswith(REAL)]) for part in parts]
    assert max(made) - min(made) <= len(whole[whole["method"] == "one"]) / len(SUITE.subjects)
    out = outs[0] if together else tmp_path / "out"
    merged = merge_scores(list(dict.fromkeys(outs)), out)
    pd.testing.assert_frame_equal(merged, whole)
    assert bytes_of(out) == bytes_of(tmp_path / "whole")
    assert make_tables(out).estimates == make_tables(tmp_path / "whole").estimates


def test_a_shard_embeds_its_own_images_alone(
    tmp_path: Path, root: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[int] = []
    embed = Embeddings.embed
    monkeypatch.setattr(Embeddings, "embed", lambda *a: embedded.append(embed(*a)) or embedded[-1])  # type: ignore[func-returns-value]
    for number in (1, 2):
        score(root, photos, tmp_path / "out", shard=(number, 2), cache=tmp_path / "cache")
    contents = {path.read_bytes() for path in root.rglob("*.png")}
    assert sum(embedded) == len(contents) + N_REFERENCES
    assert all(len(contents) // 4 < count for count in embedded)
    score(root, photos, tmp_path / "out", shard=(2, 2), cache=tmp_path / "cache")
    assert embedded[-1] == 0  # a shard that was stopped goes on from the cache


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_missing_is_counted_together(tmp_path: Path, root: Path, photos: Path) -> None:
    first, second = (subject.name for subject in SUITE.subjects)
    (root / "one" / first / "00-0.png").unlink()
    (root / "one" / second / "00-1.png").write_bytes(b"no image")
    (root / "two" / first / "00-0.png").write_bytes((photos / first / "00.jpg").read_bytes())
    score(root, photos, tmp_path / "whole", allow_missing=True)
    for number in (1, 2, 3):
        score(root, photos, tmp_path / "out", allow_missing=True, shard=(number, 3))
    merge_scores([tmp_path / "out"], tmp_path / "out")
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")
    assert (tmp_path / "out/problems.csv").read_bytes() == (tmp_path / "whole/problems.csv").read_bytes()
    counts = json.loads((tmp_path / "out/run.json").read_text())["scoring"]["images"]
    assert counts["one"]["expected"] - counts["one"]["scored"] == 2
    with pytest.raises(InputError, match="1 images are missing"):
        score(root, photos, tmp_path / "strict", shard=(3, 3))
    assert not (tmp_path / "strict" / FOLDER).exists()


def test_parts_of_different_runs_are_never_joined(tmp_path: Path, root: Path, photos: Path) -> None:
    score(root, photos, tmp_path / "a", shard=(1, 2))
    with pytest.raises(InputError, match="the scores of shard 2/2 are in none of these folders"):
        merge_scores([tmp_path / "a"], tmp_path / "out")
    score(root, photos, tmp_path / "protocol", "clip-t-x100", shard=(2, 2))
    score(root, photos, tmp_path / "count", shard=(2, 3))
    draw(root / "two" / SUITE.subjects[1].name / "00-0.png", 77)
    score(root, photos, tmp_path / "images", shard=(2, 2))
    for name in ("protocol", "count", "images"):
        with pytest.raises(InputError, match="are no shards of one run"):
            merge_scores([tmp_path / "a", tmp_path / name], tmp_path / "out")
    with pytest.raises(InputError, match="holds no scores of a shard"):
        merge_scores([tmp_path / "mine"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    # a folder keeps the parts of its last run alone, and none once all was scored
    score(root, photos, tmp_path / "count", shard=(1, 2))
    assert sorted(path.name for path in (tmp_path / "count" / FOLDER).iterdir()) == ["1-of-2.json", "1-of-2.parquet"]
    merge_scores([tmp_path / "count", tmp_path / "images"], tmp_path / "out")
    score(root, photos, tmp_path / "count")
    assert bytes_of(tmp_path / "count") == bytes_of(tmp_path / "out")
    assert not (tmp_path / "count" / FOLDER).exists()


@pytest.mark.parametrize("damage", ["parquet", "gone", "json", "other json"])
def test_damaged_parts_are_told_in_one_line(
    tmp_path: Path, root: Path, photos: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        score(root, photos, tmp_path / "a", shard=(number, 2))
    path = tmp_path / "a" / FOLDER / ("2-of-2.json" if "json" in damage else "2-of-2.parquet")
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"other json": b'{"shard": 3}\n'}.get(damage, path.read_bytes()[:-9]))
    capsys.readouterr()
    assert main(["merge", str(tmp_path / "a"), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line
    assert "again" in line
    assert not (tmp_path / "out/scores.csv").exists()
    score(root, photos, tmp_path / "a", shard=(2, 2))
    assert main(["merge", str(tmp_path / "a"), "--out", str(tmp_path / "out")]) == 0
