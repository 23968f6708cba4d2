"""DreamBench++ from its published folder through generation, scoring and tables, and the tree of its own code."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from eval_helpers import METHODS, ROWS
from eval_helpers import tiny_evaluators as evaluators
from PIL import Image

from bdkit.cli import main
from dreambench.dreambench_plus import FOLDERS, KINDS, PUBLISHED_COUNTS
from dreambench.registry import load_suite
from eval.bench import BenchConfig, run_bench
from eval.report.tables import markdown, summarise
from eval.results_dir import load_saved_suite


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plus")
    rng = np.random.default_rng(0)
    for category, (below, _) in FOLDERS.items():
        (root / "images" / below).mkdir(parents=True)
        (root / "captions" / below).mkdir(parents=True)
        for number in range(PUBLISHED_COUNTS[category]):
            noise = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / "images" / below / f"{number:02d}.jpg")
            lines = [f"{category} thing", *(f"a {category} thing at place {place}" for place in range(len(KINDS)))]
            (root / "captions" / below / f"{number:02d}.txt").write_text("\n".join(lines) + "\n")
    return root


def test_bench_runs_on_it(photos: Path, tmp_path: Path) -> None:
    config = BenchConfig(
        suite="dreambench-plus", photos=photos, out=tmp_path, rows=ROWS[2:], subjects=4, prompts=3, protocol="mini"
    )
    run_bench(config, methods=METHODS, evaluators=evaluators(classifier=False), show_progress=False)
    suite = load_saved_suite(tmp_path)
    assert [subject.category for subject in suite.subjects] == ["animal", "animal", "object", "object"]
    scores = pd.read_csv(tmp_path / "scores.csv")
    made = scores[(scores["method"] == "plain") & (scores["metric"] == "dino")]
    assert len(made) == 4 * 3
    # one reference each: nothing real is left to compare it with but itself
    assert "real-images" not in set(scores["method"])
    own = scores[(scores["method"] == "real-images-with-self-pairs") & (scores["metric"] == "dino")]["value"]
    assert own.to_numpy() == pytest.approx(1.0, abs=1e-6)
    text = markdown(summarise(tmp_path), split="category")
    assert "## Split: animal" in text
    assert "## Split: object" in text
    kinds = pd.read_csv(tmp_path / "by_split.csv").query("split == 'type'")["part"]
    assert set(kinds) == {"photorealistic", "style_transfer"}  # of 9 prompts the limit takes 0, 3 and 6


@pytest.mark.slow
@pytest.mark.weights
def test_the_command_line_makes_a_table_of_it(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What its own code leaves, src_image/ and text/ among it, of one subject of each category."""
    suite = load_suite("dreambench++", photos)
    chosen = [next(subject for subject in suite.subjects if subject.category == category) for category in FOLDERS]
    rng = np.random.default_rng(2)
    samples = tmp_path / "samples" / "blip_diffusion_gs7_5_step100_seed42_torch_float16"
    for subject in chosen:
        for prompt in suite.prompts(subject):
            for kind in ("src_image", "tgt_image"):
                path = samples / kind / subject.name / f"{prompt.index}_0.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path)
            words = samples / "text" / subject.name / f"{prompt.index}_0.txt"
            words.parent.mkdir(parents=True, exist_ok=True)
            words.write_text(prompt.text(subject.class_noun))
    (samples / "negative_prompt.txt").write_text("")
    out = tmp_path / "scores"
    command = ["score", str(samples.parent), "--suite", "dreambench++", "--photos", str(photos), "--out", str(out)]
    command += ["--tree", "dreambench++", "--protocol", "mini", "--workers", "0", "--no-cache"]
    assert main(command) == 2
    assert f"{150 * 9 - 36} images are missing" in capsys.readouterr().err
    assert main([*command, "--allow-missing"]) == 0
    scores = pd.read_csv(out / "scores.csv")
    made = scores[scores["method"] == samples.name]
    assert set(scores["metric"]) == set(made["metric"]) == {"dino", "clip_i", "clip_t"}
    assert made.groupby("metric").size().eq(36).all()
    capsys.readouterr()
    assert main(["table", str(out), "--split", "category"]) == 0
    text = capsys.readouterr().out
    assert f"| {samples.name} (36/1350 images, 4/150 subjects) |" in text
    for heading in ("animal", "human", "object", "style"):
        assert f"## Split: {heading}" in text
