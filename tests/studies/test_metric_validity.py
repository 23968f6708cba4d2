"""The study of the metrics: what the truth of a damaged image is, and the command from end to end."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bdkit.miniworld.contexts import STUDIO
from bdkit.miniworld.render import render
from bdkit.miniworld.scenes import PROMPT_PARTS, scene_for_prompt
from bdkit.miniworld.subjects import Subject, sample_subject
from bdkit.utils.errors import InputError
from dreambench.registry import load_suite
from studies.metric_validity import damage as harm
from studies.metric_validity import study
from studies.metric_validity.__main__ import main
from studies.metric_validity.measures import MEASURED

PROMPTS = load_suite("mini").live_prompts
PAIRS = [
    (sample_subject(noun, "one", "test"), sample_subject(noun, "two", "test")) for noun in ("dog", "vase", "clock")
]


ELSEWHERE = {"wrong place", "background copied", "lookalike on copied background", "reference copied"}


@pytest.fixture(scope="module")
def case() -> harm.Case:
    subject = PAIRS[0][0]
    return harm.make_case(subject, "a {} {} in the snow", harm.reference_scenes(subject, 5, seed=0), "key")


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_between_moves_evenly_from_one_to_the_other(first: Subject, second: Subject) -> None:
    assert harm.between(first, second, 0.0) == first
    assert harm.identity_distance(harm.between(first, second, 1.0), second) < 0.03
    shares = np.linspace(0, 1, 9)
    way = [harm.identity_distance(first, harm.between(first, second, share)) for share in shares]
    assert (way[0], way[-1]) == (0, pytest.approx(harm.identity_distance(first, second), abs=0.03))
    assert np.diff(way).min() > -0.02, "every step leads further away"
    middle = harm.between(first, second, 0.5)
    np.testing.assert_allclose(middle.shape, (np.array(first.shape) + np.array(second.shape)) / 2)
    assert all(part in (a, b) for part, a, b in zip(middle.parts, first.parts, second.parts, strict=True))


def test_identity_distance_is_a_distance() -> None:
    (dog, other), (vase, _), _ = PAIRS
    assert (harm.identity_distance(dog, dog), harm.identity_distance(dog, vase)) == (0, 1)
    assert harm.identity_distance(dog, other) == harm.identity_distance(other, dog)
    same_but_pattern = replace(dog, pattern="dots" if dog.pattern != "dots" else "checks")
    assert harm.identity_distance(dog, same_but_pattern) == 0.25
    strangers = [harm.identity_distance(*pair) for pair in PAIRS]
    assert 0.4 < np.mean(strangers) < 1
    with pytest.raises(ValueError, match="between a dog and a vase"):
        harm.between(dog, vase, 0.5)


def test_obeys_reads_the_scene() -> None:
    subject = PAIRS[0][0]
    for prompt in PROMPTS:
        for asked in PROMPTS:
            scene = scene_for_prompt(subject, prompt.template, seed=3)
            if prompt.index == asked.index:
                assert harm.obeys(scene, asked.template)
            elif prompt.kind == asked.kind:
                assert not harm.obeys(scene, asked.template)


def test_references_and_cases_take_different_places(case: harm.Case) -> None:
    scenes = harm.reference_scenes(PAIRS[1][0], 5, seed=0)
    assert Counter(scene.context for scene in scenes)[STUDIO] == 1
    assert len({scene.context for scene in scenes}) == 5
    assert scenes != harm.reference_scenes(PAIRS[1][0], 5, seed=1)
    assert case.scene.context == "in the snow"
    assert case.reference.context not in (STUDIO, "in the snow")
    assert case.wrong_context not in ("in the snow", case.reference.context)
    assert case.stranger.class_noun == case.scene.subject.class_noun != case.alien.class_noun


def test_background_and_copied_reference_are_what_they_say(case: harm.Case) -> None:
    image, place = render(case.scene), harm.background(case.scene)
    far = image.alpha == 0
    far[36:] = False  # the shadow, on the ground
    np.testing.assert_array_equal(place[far], image.image[far])
    inside = image.alpha == 255
    assert (place[inside] != image.image[inside]).any(axis=1).mean() > 0.8
    copied = harm.DAMAGES["reference copied"](case, 1.0)
    np.testing.assert_array_equal(copied.image, render(case.reference).image)
    pasted = harm.DAMAGES["background copied"](case, 1.0)
    outside = render(case.scene).alpha == 0
    np.testing.assert_array_equal(pasted.image[outside], harm.background(case.reference)[outside])


@pytest.mark.parametrize("damage", harm.DAMAGES)
def test_damage_grows_with_its_strength(case: harm.Case, damage: str) -> None:
    """The truth falls, or stays, with the strength, and pixels move away from the undamaged image."""
    whole = harm.show(case.scene)
    shown = [harm.DAMAGES[damage](case, strength) for strength in harm.STRENGTHS]
    assert all(image.image.shape == whole.image.shape and image.image.dtype == np.uint8 for image in shown)
    assert all((image.image != whole.image).any() for image in shown)
    identity, prompt = [p.identity for p in shown], [p.prompt for p in shown]
    assert np.diff(identity).max() < 0.05
    assert np.diff(prompt).max() <= 0
    assert 0 <= min(identity) <= max(identity) <= 1
    if damage not in ("wrong class", "lookalike on copied background", "reference copied"):
        moved = [np.abs(image.image.astype(int) - whole.image).mean() for image in shown]
        assert moved[0] < moved[-1]


def test_truth_at_full_strength(case: harm.Case) -> None:
    at_full = {
        name: (harm.DAMAGES[name](case, 1.0).identity, harm.DAMAGES[name](case, 1.0).prompt) for name in harm.DAMAGES
    }
    stranger = pytest.approx(1 - harm.identity_distance(case.scene.subject, case.stranger), abs=0.03)
    assert at_full["another individual"] == (stranger, 1)
    assert (at_full["lookalike on copied background"], at_full["wrong pattern"]) == ((stranger, 0), (0.75, 1))
    assert at_full["wrong class"] == at_full["subject missing"] == (0, 0)
    assert {name for name in harm.DAMAGES if harm.DAMAGES[name](case, 1.0).place == 1} == set(harm.DAMAGES) - ELSEWHERE
    assert at_full["wrong place"] == at_full["background copied"] == at_full["reference copied"] == (1, 0)
    assert at_full["blur"] == (1, 1)
    assert 0.6 < at_full["colour shift"][0] < 1


def test_drift_is_balanced() -> None:
    """Every step of identity comes equally often with obeyed and with ignored prompts: the two truths are apart."""
    subject = PAIRS[0][0]
    facts = pd.DataFrame([item.facts for item in study.drifting(subject, PROMPTS, 3, "key")])
    assert len(facts) == 50
    assert set(facts.groupby(["step", "true_prompt"]).size()) == {5}
    assert sorted(facts["step"].unique()) == list(study.STEPS)
    assert abs(facts["true_identity"].corr(facts["true_prompt"])) < 0.1
    context, _, _ = PROMPT_PARTS[PROMPTS[0].template]
    assert context is not None


def test_every_damage_has_its_undamaged_image(case: harm.Case) -> None:
    items = list(study.damaged([(PROMPTS[1], case)]))
    facts = pd.DataFrame([item.facts for item in items])
    assert (facts["strength"] == 0).sum() == 1
    assert len(facts) == 1 + len(harm.DAMAGES) * len(harm.STRENGTHS)
    samples = [item.image.tobytes() for item in study.repeated(PAIRS[0][0], PROMPTS, "key")]
    assert [len(set(samples[start : start + 4])) for start in range(0, 16, 4)] == [4, 3, 2, 1]


@pytest.mark.slow
@pytest.mark.weights
def test_the_command_writes_its_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--subjects", "2", "--cases", "1", "--out", str(tmp_path / "study")]
    assert main(arguments) == 0
    assert "reference copied" in capsys.readouterr().out
    results = study.read_results(tmp_path / "study")
    images = results.images
    assert set(images["part"]) == {"drift", "damage", "samples"}
    assert len(images) == results.run["n_images"] == 2 * (50 + 41 + 16)
    assert set(MEASURED) <= set(images)
    assert {"seed", "cases", "subjects"} == set(results.run["config"])
    assert len(results.run["evaluators"]["dino"]["sha256"]) == 64
    whole = images[images["damage"] == "none"]
    # an image that nothing happened to is where it was, and a copy has a reference at distance zero
    assert whole["ssim_outside"].dropna().eq(1).all()
    copies = images[(images["damage"] == "reference copied") & (images["strength"] == 1)]
    np.testing.assert_allclose(copies["copy_similarity"], 1, atol=1e-4)
    shifted = images[images["damage"] == "colour shift"]
    assert (shifted["ssim_outside"] > 0.999).all(), "only the subject's own pixels changed"
    assert {"dino", "clip_i", "clip_t"} <= set(results.verdicts["metric"])
    assert set(results.correlations["over"]) == {"images", "within subjects", "methods"}
    again = study.validate_metrics(
        study.ValidityConfig(out=tmp_path / "again", subjects=2, cases=1), show_progress=False
    )
    for name in ("images.parquet", "correlations.csv", "reactions.csv", "verdicts.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "study" / name).read_bytes(), name
    assert len(again.images) == len(images)


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--cases", "0"], "--cases must be at least 1"),
        (["--subjects", "1"], "at least 2 subjects"),
        (["--subjects", "0"], "leaves nothing to measure"),
        (["--seed", "-1"], "--seed at least 0"),
    ):
        assert main(["--out", str(tmp_path / "none"), *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "none").exists()
    with pytest.raises(InputError, match="holds no whole study"):
        study.read_results(tmp_path)
