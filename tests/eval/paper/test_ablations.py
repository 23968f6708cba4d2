from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from bdkit.checkpoints.load import load_model
from bdkit.testing.tiny_model import tiny_model
from bdkit.training.config import TrainingConfig
from bdkit.training.pretraining.presets import PRETRAIN
from bdkit.utils.errors import InputError
from dreambench.registry import load_suite
from eval.generate.references import load_references
from eval.paper import ablations
from eval.paper.ablations import ABLATIONS, FULL, PAPER, AblationBudget, Laboratory
from eval.paper.alignment import measure_alignment
from eval.paper.config import ReproduceConfig
from eval.paper.results_files import read_csv, show
from eval.results_dir import update_run

TINY = AblationBudget(steps=2, scenes=16, mattes=2, start_share=1.0, backgrounds=4, seeds=(0,), ours=True)


def few(training: TrainingConfig) -> TrainingConfig:
    return replace(training, steps=2, batch_size=4, warmup_steps=0, restarts=())


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of four images each."""
    smoke = PRETRAIN["mini-smoke"]
    names = ("image_encoder", "multimodal_representation", "subject_representation")
    stages = {name: few(getattr(smoke, name)) for name in names}
    corpora = {name: replace(getattr(smoke, name), scenes=16) for name in ("corpus", "subject_corpus")}
    monkeypatch.setattr(ablations, "PRETRAIN", {"mini": replace(smoke, backgrounds=4, **stages, **corpora)})
    monkeypatch.setitem(ablations.BUDGETS, "small", TINY)


@pytest.mark.parametrize(
    ("options", "reason"), [({"suite": "foo"}, "foo"), ({"subjects": 0}, "0"), ({"workers": 0}, "at least 1")]
)
def test_a_wrong_suite_or_limit_is_refused_before_anything_is_trained(
    options: dict[str, Any], reason: str, tiny: None, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=reason):
        ablations.run(ReproduceConfig(experiment="ablations", out=tmp_path, **options))
    assert not list(tmp_path.iterdir())


def test_the_papers_four_are_trained_twice_and_no_two_models_are_the_same() -> None:
    papers = [name for name, one in ABLATIONS.items() if one.source == PAPER]
    assert papers == [FULL, "without-stage-1", "frozen-text-encoder", "without-subject-text", "without-dropping"]
    assert len(ablations.BUDGETS["full"].seeds) == 2
    trained = [replace(one, title="", source="") for one in ABLATIONS.values()]
    assert all(one not in trained[:k] for k, one in enumerate(trained))
    assert all(one.trained_as == FULL for one in ABLATIONS.values() if one.drawing)


@pytest.mark.weights
def test_an_ablation_starts_from_the_base_and_as_much_of_stage_1_as_it_has(tiny: None, tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path, TINY, "mini-base")
    settings = laboratory.config.subject
    full = laboratory.new_model(ABLATIONS[FULL], settings, 0)
    base = load_model("mini-base")
    for name, value in full.state_dict().items():
        if not name.startswith("multimodal_encoder."):
            assert torch.equal(value, base.state_dict()[name]), name
    for count in (1, 32):
        changed = replace(ABLATIONS["paper-template"], queries=count)
        model = laboratory.new_model(changed, replace(settings, subject_text=False), 0)
        assert (model.conventions.template, model.conventions.subject_text) == ("paper", False)
        ours, theirs = (one.multimodal_encoder.query_tokens[0] for one in (model, full))
        shared = min(count, len(theirs))
        assert torch.equal(ours[:shared], theirs[:shared])
        assert len(ours) == count
        assert float(ours.detach().std()) == pytest.approx(0.02, rel=0.3)
    bare = laboratory.new_model(ABLATIONS["without-stage-1"], settings, 0).multimodal_encoder
    ours, theirs = bare.state_dict(), full.multimodal_encoder.state_dict()
    same = {name.split(".")[0] for name in ours if torch.equal(ours[name], theirs[name]) and ours[name].std() > 0}
    assert same == {"vision_model", "projection"}  # stage 1 does not train the projection


@pytest.mark.slow
@pytest.mark.weights
def test_trained_drawn_and_compared_with_the_full_model(tiny: None, tmp_path: Path) -> None:
    config = ReproduceConfig(
        experiment="ablations", suite="mini-quick", out=tmp_path, subjects=2, prompts=1, samples=1, workers=1,
        methods=("frozen-text-encoder",),
    )  # fmt: skip
    path = ablations.run(config)
    frame = read_csv(path).set_index("row")
    assert list(frame.index) == [FULL, "frozen-text-encoder"]
    assert frame["n_images"].tolist() == [2, 2]
    frozen = frame.loc["frozen-text-encoder"]
    assert frozen["dino_change"] == pytest.approx(frozen["dino"] - frame.loc[FULL, "dino"], abs=2e-6)
    assert frozen["dino_change_low"] <= frozen["dino_change"] <= frozen["dino_change_high"]
    models = [load_model(tmp_path / "ablations" / name / "model") for name in ("frozen-text-encoder-0", "full-0")]
    base = load_model("mini-base").text_encoder.state_dict()
    for model, frozen_text in zip(models, (True, False), strict=True):
        kept = [torch.equal(value, base[name]) for name, value in model.text_encoder.state_dict().items()]
        assert all(kept) == frozen_text
    text = path.read_text()
    assert ablations.run(config).read_text() == text  # nothing is trained or drawn again
    assert "Text encoder frozen" in show(path)
    assert path.with_suffix(".png").stat().st_size > 10_000


def test_changes_are_paired_over_subjects_and_seeds() -> None:
    def of_seed(seed: int, *values: float) -> pd.DataFrame:
        frame = pd.DataFrame({"dino": values}, index=["cat", "dog", "vase"])
        commit = "a" if seed == 0 else "b"
        return frame.assign(seed=seed, seconds=1.0, checkpoint="c", n_images=3, commit=commit, device="CPU")

    measured = {
        FULL: [of_seed(0, 0.5, 0.6, 0.7), of_seed(1, 0.7, 0.6, 0.5)],
        "without-stage-1": [of_seed(0, 0.4, 0.5, 0.6), of_seed(1, 0.5, 0.4, 0.3)],
        "same-image": [of_seed(0, 0.8, 0.9, 1.0)],
    }
    frame = ablations.ablations_frame(measured).set_index("row")
    twice, once = frame.loc["without-stage-1"], frame.loc["same-image"]
    assert twice["dino"] == pytest.approx(0.45)
    assert twice["dino_spread"] == pytest.approx(abs(0.5 - 0.4) / 2**0.5)
    changes = twice[["dino_change", "dino_change_low", "dino_change_high"]].astype(float)
    # Of every subject -0.1 in one training and -0.2 in the other: either can be drawn twice
    assert changes.tolist() == pytest.approx([-0.15, -0.2, -0.1])
    assert twice["dino_change_spread"] == pytest.approx(0.1 / 2**0.5)
    assert once["dino_change"] == pytest.approx(0.3)  # against the same seed alone
    assert once[["dino_spread", "dino_change_spread"]].isna().all()
    assert twice[["training_seeds", "n_images", "commit", "device"]].tolist() == ["0 1", 6, "a b", "CPU"]
    assert once["commit"] == "a"


def test_unknown_ablations_and_other_budgets_are_one_line(tiny: None, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown ablation 'none'"):
        ablations.run(ReproduceConfig(experiment="ablations", out=tmp_path, methods=("none",)))
    update_run(tmp_path / "ablations", steps=5)
    with pytest.raises(InputError, match="steps"):
        ablations.run(ReproduceConfig(experiment="ablations", out=tmp_path))


def test_alignment_against_plain_loops() -> None:
    model, suite = tiny_model(text_length=24), load_suite("mini-quick").limited(subjects=2)
    found = measure_alignment(model, suite)
    assert list(found.index) == [subject.name for subject in suite.subjects]
    rows = model.text_encoder.model.embeddings.token_embedding.weight.detach().double()
    lengths = [float(row.norm()) for row in rows]
    means = {}
    for subject in suite.subjects:
        ids = model.tokenizer(subject.class_noun, add_special_tokens=False).input_ids
        means[subject.class_noun] = sum(rows[k] for k in ids) / len(ids)
    for subject in suite.subjects:
        vectors = model.mean_subjects(load_references(suite, subject), subject.class_noun)[0].double()
        cosines = {
            noun: sum(float(v @ word / v.norm() / word.norm()) for v in vectors) / len(vectors)
            for noun, word in means.items()
        }
        (other,) = [value for noun, value in cosines.items() if noun != subject.class_noun]
        line = found.loc[subject.name]
        assert line["word_cosine"] == pytest.approx(cosines[subject.class_noun], abs=1e-5)
        assert line["word_margin"] == pytest.approx(cosines[subject.class_noun] - other, abs=1e-5)
        expected = sum(float(v.norm()) for v in vectors) / len(vectors) / (sum(lengths) / len(lengths))
        assert line["norm_ratio"] == pytest.approx(expected, rel=1e-5)
        # 4 vectors among "a dog in the snow": with random weights each position has about as much
        assert line["subject_attention"] == pytest.approx(4 / 9, abs=0.25)
    assert isinstance(found, pd.DataFrame)
