import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bdkit.miniworld.captions import VOCABULARY
from bdkit.testing.tiny_model import tiny_model
from bdkit.utils.env import commit
from bdkit.utils.errors import InputError
from dreambench.registry import load_suite
from eval.experiments import Row
from eval.paper import drift, preservation
from eval.paper.config import ReproduceConfig
from eval.paper.plain_prompts import SUITE, caption_prompts, suite_prompts
from eval.paper.results_files import read_csv, show
from eval.results_dir import update_run

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model with another one beside it as its base."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("model", "mini-base")):
        tiny_model(seed, words=VOCABULARY, text_length=24).save_pretrained(folder / name)
    return str(folder / "model")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets of seconds."""
    monkeypatch.setitem(preservation.CAPTIONS, "small", 4)
    monkeypatch.setattr(preservation, "RESAMPLES", 3)
    monkeypatch.setitem(drift.COUNTS, "small", (2, 3, 2, 1))
    few_steps = {"steps": 2, "learning_rate": 0.1}
    rows = (
        Row(name="blip-diffusion-finetuned", method="blip-diffusion", overrides=few_steps),
        Row(
            name="textual-inversion",
            method="textual-inversion",
            overrides={**few_steps, "start": "mini-base", "templates": ["a {}"]},
        ),
    )
    monkeypatch.setattr(drift, "ROWS", rows)


def config(experiment: str, model: str, out: Path, subjects: int = 2) -> ReproduceConfig:
    whole = ReproduceConfig(experiment="all", suite="mini-quick", model=model, out=out, subjects=subjects, prompts=2)
    return whole.of(experiment)


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.png")}


def test_plain_images_are_scored_resumed_and_drawn_from_the_same_noise(model: str, tmp_path: Path, few: None) -> None:
    path = preservation.run(config("preservation", model, tmp_path))
    frame = read_csv(path).set_index(["row", "prompts"])
    base, ours = frame.loc[("base", "all")], frame.loc[("subject-model", "all")]
    assert (base["n_images"], ours["n_images"]) == (8, 8)  # 2 class nouns x 2 prompts, 4 captions
    assert ours["clip_t_change"] == pytest.approx(ours["clip_t"] / base["clip_t"] - 1, abs=1e-4)
    assert ours["clip_t_change_low"] <= ours["clip_t_change"] <= ours["clip_t_change_high"]
    assert frame.loc[("subject-model", "caption"), "frechet"] > 0
    assert np.isnan(base["clip_t_change"])
    assert frame.loc[("mini-world", "caption"), "class_right"] > 0.7  # which random weights never draw
    assert set(frame["commit"]) == {commit()}
    update_run(tmp_path / "preservation", commit="drew")
    preservation.run(config("preservation", model, tmp_path))  # which draws nothing
    assert set(read_csv(path)["commit"]) == {"drew"}
    made, text = files(tmp_path), path.read_text().replace("drew", commit())
    vectors = [data for name, data in made.items() if "with-subject" in name]
    assert len(vectors) == 4
    assert not set(vectors) & {data for name, data in made.items() if "subject-model/" in name}
    for name in list(made)[::3]:
        (tmp_path / name).unlink()
    assert preservation.run(config("preservation", model, tmp_path)).read_text() == text
    assert files(tmp_path) == made
    shutil.copytree(model, tmp_path / "ablations" / "without-dropping-0" / "model")  # trained later
    more = read_csv(preservation.run(config("preservation", model, tmp_path)))
    again = more[more["row"] != "without-dropping"]
    path.write_text(text)
    pd.testing.assert_frame_equal(again.reset_index(drop=True), read_csv(path))
    ours, theirs = (more[more["row"] == row]["clip_t"].tolist() for row in ("subject-model", "without-dropping"))
    assert ours == theirs  # the same weights
    assert "# What the subject model keeps" in show(path)
    assert path.with_suffix(".png").stat().st_size > 10_000


def test_images_of_another_model_are_not_mixed_in(model: str, tmp_path: Path, few: None) -> None:
    update_run(tmp_path / "preservation", suite="mini-quick", checkpoints={"base": "0"})
    with pytest.raises(InputError, match="checkpoints"):
        preservation.run(config("preservation", model, tmp_path))
    alone = tmp_path / "alone"
    shutil.copytree(model, alone)
    with pytest.raises(InputError, match="--base"):
        preservation.run(config("preservation", str(alone), tmp_path / "other"))
    update_run(tmp_path / "subjects/preservation", suite="mini-quick", subjects={"dog": "dog2"})
    with pytest.raises(InputError, match=r"images of other settings \(subjects\)"):  # whose dog is another
        preservation.run(config("preservation", model, tmp_path / "subjects", subjects=5))


def test_one_image_has_no_frechet_distance() -> None:
    rows = (preservation.BASE_ROW, preservation.SUBJECT_MODEL)
    for count, measured in ((1, False), (2, True)):
        features = np.arange(4.0 * count).reshape(count, 4)
        one = preservation.ImageSet(values={"clip_t": np.full(count, 0.5)}, features=features)
        frame = preservation.preservation_frame({(row, "suite"): one for row in rows}, None, dict.fromkeys(rows, "a"))
        assert ("frechet" in frame) == measured
        assert frame["clip_t_change"].iloc[1] == 0


@pytest.mark.slow
def test_drift_is_measured_against_the_model_before_the_fit(model: str, tmp_path: Path, few: None) -> None:
    path = drift.run(config("drift", model, tmp_path, subjects=1))
    frame = read_csv(path).set_index(["row", "prompts"])
    for kind in (drift.OTHER, drift.SAME):
        # a learned word changes nothing for prompts without it
        assert frame.loc[("textual-inversion", kind), "dino_distance"] == pytest.approx(0, abs=1e-6)
        assert frame.loc[("blip-diffusion-finetuned", kind), "dino_distance"] > 1e-5
    costs = frame.xs(drift.OTHER, level="prompts")
    assert (costs["seconds"] > 0).all()
    assert (costs["peak_gib"] > 0.1).all()
    saved = costs["saved_mib"]
    assert saved["textual-inversion"] < saved["blip-diffusion-finetuned"] / 10
    assert (frame["n_subjects"] == 1).all()
    assert not list((tmp_path / "drift" / "fits").glob("*/"))  # saved fits are gone, their records stay
    update_run(tmp_path / "drift", commit="drew")
    (tmp_path / "drift" / "fits" / "textual-inversion-dog-0").mkdir()  # as a killed run leaves it
    drift.run(config("drift", model, tmp_path, subjects=1))
    assert set(read_csv(path)["commit"]) == {"drew"}
    assert not list((tmp_path / "drift" / "fits").glob("*/"))
    made, text = files(tmp_path), path.read_text()
    folder = tmp_path / "drift" / "images" / "seed0" / "blip-diffusion-finetuned"
    for path_of in sorted(folder.rglob("*.png"))[::2]:
        path_of.unlink()
    drift.run(config("drift", model, tmp_path, subjects=1))
    assert set(read_csv(path)["commit"]) == {commit()}
    assert files(tmp_path) == made  # fitted again, with the same seed
    costs_of = ["seconds", "peak_gib", "commit"]
    again = read_csv(path).drop(columns=costs_of)
    path.write_text(text)
    pd.testing.assert_frame_equal(again, read_csv(path).drop(columns=costs_of))
    assert "Textual Inversion" in show(path)


def test_kept_needs_the_whole_interval() -> None:
    assert preservation.kept(-0.019, 0.3) == "yes"
    assert preservation.kept(-0.03, 0.01) == "undecided"
    assert preservation.kept(-0.03, -0.021) == "no"
    assert preservation.kept(None, None) == "undecided"


def test_every_prompt_is_asked_once_for_each_class_noun() -> None:
    prompts = suite_prompts(load_suite("mini-dev"))
    assert len(prompts) == len({prompt.text for prompt in prompts}) == 15 * 25
    (one,) = [prompt for prompt in prompts if prompt.text == "a red backpack"]
    assert (one.kind, one.template, one.expected) == (SUITE, "a red {}", (("class", 0), ("change", 1)))
    assert one.seed(0, 0) != one.seed(1, 0) != one.seed(0, 1)


def test_captions_expect_what_they_say() -> None:
    prompts = caption_prompts("dev", 200)
    assert prompts == caption_prompts("dev", 200)
    others = caption_prompts("test", 200)  # another 200 scenes
    assert sum(one.text == other.text for one, other in zip(prompts, others, strict=True)) < 20
    assert {name for prompt in prompts for name, _ in prompt.expected} == {"class", "outfit", "change", "context"}
    for prompt in prompts:
        assert f" {prompt.class_noun}" in prompt.text
        if dict(prompt.expected).get("change") == 1:
            assert "red" in prompt.text
