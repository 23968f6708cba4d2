"""Telling individuals apart: the captions, the batches and the measures, against plain loops."""

import math

import numpy as np
import pytest
import torch

from bdkit.miniworld.captions import VOCABULARY, part_words
from bdkit.miniworld.scenes import CHANGES, sample_scene
from bdkit.miniworld.subjects import CLASSES, generator, sample_subject
from eval.mini.captions import SHADES, captions_of, describe_individual, shade_words
from eval.mini.individuals import STEPS, Individuals, IndividualsConfig, draw_individuals
from eval.mini.measure import measure_prompts, rank_identity, tell_apart
from eval.mini.tasks import spread


@pytest.fixture(scope="module")
def individuals() -> Individuals:
    return draw_individuals(IndividualsConfig(suites=1, subjects=6, lookalikes=2, prompted=3))


def unit_rows(n: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, 5)) + 0.4
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_tell_apart_is_what_a_loop_over_pairs_gives() -> None:
    subjects = np.array([3, 3, 3, 5, 5, 6, 6, 6, 6, 9, 9])
    classes = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0])
    rows = unit_rows(len(subjects), 0)
    rows[4] = rows[3]
    of_pairs: dict[tuple[int, int], list[float]] = {}
    same, other = [], []
    for i, a in enumerate(rows.astype(np.float64)):
        for j, b in enumerate(rows.astype(np.float64)):
            if i == j:
                continue
            of_pairs.setdefault((subjects[i], subjects[j]), []).append(float(a @ b))
            if i < j and classes[i] == classes[j]:
                (same if subjects[i] == subjects[j] else other).append(float(a @ b))
    class_of = dict(zip(subjects.tolist(), classes.tolist(), strict=True))
    means = {pair: np.mean(values) for pair, values in of_pairs.items()}
    wins = np.mean([1.0 if s > o else 0.5 if s == o else 0.0 for s in same for o in other])
    measures = tell_apart(rows, subjects, classes)
    assert measures["individuals"] == 4
    assert measures["same"] == pytest.approx(np.mean([m for (a, b), m in means.items() if a == b]), abs=1e-6)
    apart = [(m, class_of[a] == class_of[b]) for (a, b), m in means.items() if a != b]
    assert measures["other_of_class"] == pytest.approx(np.mean([m for m, alike in apart if alike]), abs=1e-6)
    assert measures["other_class"] == pytest.approx(np.mean([m for m, alike in apart if not alike]), abs=1e-6)
    assert measures["gap"] == pytest.approx(measures["same"] - measures["other_of_class"])
    assert measures["roc_area"] == pytest.approx(wins, abs=1e-6)


def test_rank_identity_is_that_of_the_individuals_mean_scores(individuals: Individuals) -> None:
    references, lookalikes = unit_rows(len(individuals.references), 1), unit_rows(len(individuals.lookalikes), 2)
    points = []
    for number in range(6):
        shown = references[individuals.subject == number]
        for step in range(len(STEPS)):
            chosen = [
                i for i, key in enumerate(zip(individuals.of, individuals.step, strict=True)) if key == (number, step)
            ]
            scores = [float(np.mean([lookalikes[i] @ row for row in shown])) for i in chosen]
            points.append((np.mean(scores), individuals.likeness[chosen[0]]))
    ranks = []
    for column in np.transpose(points):
        ranks.append([np.mean([1.0 * (v < x) + 0.5 * (v == x) for v in column]) for x in column])
    expected = np.corrcoef(ranks)[0, 1]
    assert rank_identity(references, lookalikes, individuals) == pytest.approx(expected, abs=1e-6)


def test_individuals_drift_from_themselves_and_prompts_have_one_right_answer(individuals: Individuals) -> None:
    again = draw_individuals(IndividualsConfig(suites=1, subjects=6, lookalikes=1, prompted=0))
    assert np.array_equal(np.asarray(individuals.references[3]), np.asarray(again.references[3]))
    assert again.prompted == []
    means = [individuals.likeness[individuals.step == step].mean() for step in range(len(STEPS))]
    assert means[0] == 1
    assert means == sorted(means, reverse=True)
    assert means[-1] < 0.4
    assert len(individuals.lookalikes) == 6 * len(STEPS) * 2
    assert len(individuals.prompted) == 3 * 25
    for texts in individuals.texts:
        assert len(set(texts)) == len(texts)
        places = [" on " in text or " in the " in text or "background" in text or "floating" in text for text in texts]
        assert len(texts) == 25 or not any(places)


class Knows:
    """An encoder that finds the prompt of an image, all but the first."""

    def __init__(self, shown: Individuals) -> None:
        self.texts = sorted({text for texts in shown.texts for text in texts})
        self.right = [texts[0] for texts in shown.texts]

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        return np.eye(len(self.texts))[[self.texts.index(text) for text in texts]]

    def embed_images(self, images: list[object]) -> np.ndarray:
        rows = self.embed_texts(self.right)
        rows[0] = -rows[0]
        return rows


def test_prompts_are_right_where_their_own_text_is_nearest(individuals: Individuals) -> None:
    measures = measure_prompts(Knows(individuals), individuals)  # type: ignore[arg-type]
    wrong = individuals.kinds[0]  # of the only prompt that it does not find
    counts = {kind: individuals.kinds.count(kind) for kind in individuals.kinds}
    assert sum(counts.values()) == 75
    assert sorted(counts) == ["context", "outfit", "property"]
    assert measures["prompt_right"] == pytest.approx(1 - 1 / 75)
    for kind, count in counts.items():
        assert measures[f"prompt_right_{kind}"] == pytest.approx(1 - (kind == wrong) / count)
    # one value of 75 is -1, below all, the others are 1, and those of wrong prompts 0
    assert measures["prompt_roc_area"] == pytest.approx(74 / 75)


def test_captions_describe_all_that_words_can_say() -> None:
    rng = generator("evaluator captions")
    known = {*VOCABULARY, *SHADES}
    for number in range(60):
        noun = CLASSES[number % len(CLASSES)]
        scene = sample_scene(
            sample_subject(noun, f"words {number}"), rng, change=CHANGES[number % 5] if number % 3 else None
        )
        texts = captions_of(scene, rng, 3)
        assert len(texts) == 4
        assert all(noun in text for text in texts)
        described = describe_individual(scene, rng)
        assert sorted(described.split(", ")[-len(part_words(scene)) :]) == sorted(part_words(scene))
        if scene.change not in ("red", "purple"):
            assert all(shade_words(colour) in described for colour in scene.subject.colours[::2])
        assert {word for text in (*texts, described) for word in text.lower().replace(",", " , ").split()} <= known
    assert [shade_words(colour) for colour in ((225, 30, 40), (180, 20, 30), (90, 130, 250))] == [
        "red",
        "dark red",
        "light blue",
    ]


def test_spread_is_the_log_distance_to_the_nearest_and_pushes_it_away() -> None:
    rows = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float().requires_grad_()
    unit = (rows / rows.norm(dim=1, keepdim=True)).tolist()
    nearest = [min(math.dist(a, b) for j, b in enumerate(unit) if i != j) for i, a in enumerate(unit)]
    loss = spread(rows)
    assert float(loss.detach()) == pytest.approx(-np.mean(np.log(nearest)), abs=1e-4)
    loss.backward()
    assert rows.grad is not None
    assert float(spread((rows - 0.05 * rows.grad).detach())) < float(loss.detach())
