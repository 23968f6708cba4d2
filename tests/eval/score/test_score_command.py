"""`bdkit score` and `bdkit table` on a folder of another program's images, with the shipped evaluators."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bdkit.cli import main
from dreambench.registry import load_suite

SUITE = load_suite("mini-quick")
pytestmark = [pytest.mark.slow, pytest.mark.weights]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "theirs"
    rng = np.random.default_rng(0)
    for subject in SUITE.subjects:
        for prompt in SUITE.prompts(subject):
            for sample in range(SUITE.samples_per_prompt):
                path = folder / subject.name / f"{prompt.index:02d}-{sample}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                coarse = rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)
                Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).save(path)
    return folder


def score(theirs: Path, out: Path, *more: str) -> int:
    return main(["score", str(theirs), "--suite", "mini-quick", "--out", str(out), "--workers", "0", *more])


def test_a_folder_is_scored_and_tabled_and_protocols_are_never_mixed(theirs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BDKIT_CACHE_DIR", str(tmp_path / "cache"))
    out = tmp_path / "out"
    assert score(theirs, out) == 0
    first = (out / "scores.csv").read_bytes()
    assert len(list((tmp_path / "cache/embeddings").glob("*/*.safetensors"))) == 6
    assert score(theirs, out, "--protocol", "mini") == 0
    assert (out / "scores.csv").read_bytes() == first
    assert main(["table", str(out)]) == 0
    assert "| theirs |" in capsys.readouterr().out
    scores = pd.read_csv(out / "scores.csv", keep_default_na=False)
    assert set(scores["protocol"]) == {"mini"}
    scores.loc[scores["method"] == "theirs", "protocol"] = "dreambench"
    scores.to_csv(out / "scores.csv", index=False)
    assert main(["table", str(out)]) == 2
    assert "a table never mixes protocols" in capsys.readouterr().err


def test_missing_images_stop_it_or_show_in_the_table(theirs, tmp_path, capsys):
    lost = theirs / "dog" / "00-0.png"
    data = lost.read_bytes()
    lost.unlink()
    try:
        assert score(theirs, tmp_path / "out") == 2
        assert "1 images are missing" in capsys.readouterr().err
        assert pd.read_csv(tmp_path / "out/problems.csv")["path"].tolist() == ["seed0/theirs/dog/00-0.png"]
        assert score(theirs, tmp_path / "out", "--allow-missing") == 0
        assert "warning: 1 images are missing" in capsys.readouterr().err
        assert main(["table", str(tmp_path / "out")]) == 0
        assert f"{SUITE.n_images - 1}/{SUITE.n_images}" in capsys.readouterr().out
    finally:
        lost.write_bytes(data)


def test_nothing_that_can_be_read_is_no_score(theirs, tmp_path, capsys):
    images = shutil.copytree(theirs, tmp_path / "theirs")
    for path in images.rglob("*.png"):
        path.write_bytes(b"no image")
    assert score(images, tmp_path / "out", "--allow-missing") == 2
    assert "none of the images in" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out/scores.csv").exists()


def test_shards_fill_the_cache_for_the_same_bytes(theirs, tmp_path, capsys):
    assert score(theirs, tmp_path / "whole", "--no-cache") == 0
    cache = ["--cache", str(tmp_path / "cache")]
    for number in (2, 1):
        assert score(theirs, tmp_path / "out", "--shard", f"{number}/2", *cache) == 0
        assert f"Shard {number}/2 is in the cache" in capsys.readouterr().out
    assert score(theirs, tmp_path / "out", *cache) == 0
    for name in ("scores.csv", "scores.parquet", "run.json", "suite.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert main(["report", str(tmp_path / "out"), "--images", str(theirs)]) == 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            ["--protocol", "dreambench", "--offline"],
            "weights of timm/vit_small_patch16_224.dino are not here (--offline)",
        ),
        (["--protocol", "dreamy"], "unknown protocol 'dreamy'"),
        (["--tree", "heap"], "unknown tree 'heap'"),
        (["--suite", "dreamy"], "unknown suite 'dreamy'; known are dreambench, dreambench-plus"),
        (["--shard", "4/3"], "'4/3' is no shard"),
        (["--shard", "1/3", "--no-cache"], "name a folder for it with --cache"),
        (["--metrics", "dinov9"], "dinov9"),
        (["--dino-weights", "none.pth", "--protocol", "dreambench"], "none.pth of dino is not there"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(theirs, tmp_path, capsys, monkeypatch, more, words):
    monkeypatch.setenv("BDKIT_WEIGHTS_DIR", str(tmp_path))
    assert score(theirs, tmp_path / "out", *more) == 2
    err = capsys.readouterr().err
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
