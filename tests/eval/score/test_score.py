import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from eval_helpers import METHODS, ROWS, pixels
from eval_helpers import tiny_evaluators as evaluators
from PIL import Image

from bdkit.utils.errors import InputError
from bdkit.utils.images import read_image
from dreambench.registry import load_suite
from eval.experiments import BenchConfig
from eval.generate.references import prepare
from eval.generate.run import generate
from eval.results_dir import GROUND_TRUTH, REAL, REAL_WITH_SELF, ImageId, reference_paths
from eval.score.metrics import METRICS
from eval.score.score import score_folder
from eval.score.scores_file import COLUMNS, read_nearest, read_scores

SUITE = load_suite("mini-quick").limited(subjects=2, prompts=2)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    config = BenchConfig(suite="mini-quick", subjects=2, prompts=2, rows=ROWS[:1], model="m", out=tmp_path)
    generate(config, methods=METHODS, show_progress=False)
    return tmp_path


def score(out: Path, **named: object) -> pd.DataFrame:
    return score_folder(out, evaluators(), show_progress=False, **named)  # type: ignore[arg-type]


def test_one_row_for_each_image_and_metric(out: Path) -> None:
    frame = score(out)
    assert list(frame.columns) == [*COLUMNS, "protocol"]
    assert set(frame["protocol"]) == {"mini"}
    counts = frame.groupby(["method", "metric"]).size()
    n_references = sum(subject.n_references for subject in SUITE.subjects)
    assert not {name for name, metric in METRICS.items() if metric.optional} & set(frame["metric"])
    for name, metric in METRICS.items():
        if metric.optional:
            continue
        for method in ("tiny-2", GROUND_TRUTH):
            assert counts[method, name] == SUITE.n_images
        for method in (REAL, REAL_WITH_SELF):
            assert counts.get((method, name), 0) == (0 if metric.of_prompt else n_references)
    assert not frame.duplicated(subset=list(COLUMNS[:-1])).any()
    pd.testing.assert_frame_equal(read_scores(out), frame)
    pd.testing.assert_frame_equal(pd.read_parquet(out / "scores.parquet"), frame)


def test_the_parquet_serves_where_the_csv_was_left_out(out: Path) -> None:
    frame = score(out)
    (out / "scores.csv").unlink()
    pd.testing.assert_frame_equal(read_scores(out), frame)
    (out / "scores.parquet").write_bytes(b"PAR1 of something else")
    with pytest.raises(InputError, match=r"scores\.parquet cannot be read"):
        read_scores(out)


def test_same_bytes_again_and_each_image_embedded_once(out: Path) -> None:
    score(out)
    first = (out / "scores.csv").read_bytes()
    again = evaluators()
    score_folder(out, again, show_progress=False)
    assert (out / "scores.csv").read_bytes() == first
    n_references = sum(subject.n_references for subject in SUITE.subjects)
    for encoder in again.encoders.values():
        assert encoder.n_embedded == n_references + 2 * SUITE.n_images


def test_oracle_against_a_plain_loop(out: Path) -> None:
    frame = score(out)
    subject = SUITE.subjects[0]
    encoder = evaluators().encoders["dino"]
    images = [read_image(path) for path in sorted((out / "references" / subject.name).iterdir())]
    vectors = encoder.embed_images(images).astype(np.float64)
    n = len(images)
    for method, with_self in ((REAL, False), (REAL_WITH_SELF, True)):
        rows = frame[(frame["method"] == method) & (frame["metric"] == "dino") & (frame["subject"] == subject.name)]
        for one in range(n):
            cosines = [vectors[one] @ vectors[other] for other in range(n) if with_self or other != one]
            found = rows[rows["sample"] == one]["value"].item()
            assert found == pytest.approx(sum(cosines) / len(cosines), abs=2e-6)


def test_generated_against_a_plain_loop(out: Path) -> None:
    frame = score(out)
    subject = SUITE.subjects[1]
    networks = evaluators()
    references = [read_image(path) for path in sorted((out / "references" / subject.name).iterdir())]
    for prompt in SUITE.prompts(subject):
        path = out / f"images/seed0/tiny-2/{subject.name}/{prompt.index:02d}-1.png"
        rows = frame[(frame["method"] == "tiny-2") & (frame["subject"] == subject.name)]
        rows = rows[(rows["prompt"] == prompt.index) & (rows["sample"] == 1)].set_index("metric")["value"]
        for metric, name in (("dino", "dino"), ("clip_i", "clip"), ("identity", "identity")):
            image = networks.encoders[name].embed_images([read_image(path)])[0].astype(np.float64)
            cosines = [image @ vector for vector in networks.encoders[name].embed_images(references)]
            assert rows[metric] == pytest.approx(np.mean(cosines), abs=2e-6)
        image = networks.encoders["clip"].embed_images([read_image(path)])[0]
        text = networks.encoders["clip"].embed_texts([prompt.text(subject.class_noun)])[0]
        assert rows["clip_t"] == pytest.approx(float(image @ text), abs=2e-6)


def test_missing_images_are_listed_in_one_line_and_a_file(out: Path) -> None:
    lost = [out / "images/seed0/tiny-2/dog/00-0.png", out / "images/seed0/tiny-2/vase/12-1.png"]
    for path in lost:
        path.unlink()
    with pytest.raises(InputError, match=r"2 images are missing .*dog/00-0\.png.*vase/12-1\.png"):
        score(out)
    assert not (out / "scores.csv").exists()
    listed = pd.read_csv(out / "problems.csv")
    assert set(listed["kind"]) == {"missing"}
    assert sorted(listed["path"]) == sorted(path.relative_to(out).as_posix() for path in lost)
    for number, path in enumerate(lost):
        Image.effect_noise((8, 8), 50 + number).save(path)
    score(out)
    assert not (out / "problems.csv").exists()
    with pytest.raises(
        InputError, match=rf"{SUITE.n_images} images are missing .* more; .*problems\.csv lists all"
    ) as caught:
        score(out, rows=[("absent", 0)])
    assert "\n" not in str(caught.value)
    assert len(pd.read_csv(out / "problems.csv")) == SUITE.n_images


def test_photos_have_no_ground_truth_metrics(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "backpack").mkdir(parents=True)
    for number in range(6):
        Image.effect_noise((40, 30), 10 * number).save(photos / f"backpack/0{number}.jpg")
    out = tmp_path / "out"
    config = BenchConfig(suite="dreambench", subjects=1, prompts=1, samples=1, rows=ROWS[2:], out=out, photos=photos)
    generate(config, methods=METHODS, show_progress=False)
    frame = score(out, photos=photos)
    assert set(frame["metric"]) == {"dino", "clip_i", "clip_t", "copied"}


def test_empty_and_damaged_folders_and_taken_names(out: Path, tmp_path: Path) -> None:
    (out / f"images/seed0/{REAL}/dog").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(out / f"images/seed0/{REAL}/dog/00-0.png")
    with pytest.raises(InputError, match="is the name of the oracle's row"):
        score(out)
    with pytest.raises(InputError, match=r"suite\.json is missing"):
        score(tmp_path / "no")
    with pytest.raises(InputError, match=r"scores\.csv is missing"):
        read_scores(tmp_path / "no")
    shutil.rmtree(out / f"images/seed0/{REAL}")
    (out / "scores.csv").write_text("method,value\nx,1\n")
    with pytest.raises(InputError, match="cannot be read"):
        read_scores(out)
    (out / "references/dog/00.png").unlink()
    with pytest.raises(InputError, match="references/dog has 4 images, the suite 5"):
        score(out)
    prepare(load_suite("mini-quick"), tmp_path / "empty")
    with pytest.raises(InputError, match="no images under"):
        score(tmp_path / "empty")


def test_nearest_references_are_those_of_dino(out: Path) -> None:
    score(out)
    nearest = read_nearest(out)
    scores = read_scores(out)
    scored = {ImageId(*key) for key in scores.set_index(list(COLUMNS[:5])).index if key[3] >= 0}
    assert set(nearest) == scored
    dino = evaluators().encoders["dino"]
    for subject in SUITE.subjects:
        files = reference_paths(out, SUITE, subject, None)
        references = dino.network(pixels([read_image(path) for path in files])).double()
        references /= references.norm(dim=1, keepdim=True)
        for one in (one for one in nearest if one.subject == subject.name):
            (image,) = dino.network(pixels([read_image(one.path(out))])).double()
            cosines = (references @ image / image.norm()).tolist()
            assert cosines[nearest[one]] == pytest.approx(max(cosines), abs=1e-5)
