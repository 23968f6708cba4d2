import re
from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest

from bdkit.miniworld.colours import distance
from bdkit.miniworld.drawing.patterns import PATTERNS
from bdkit.miniworld.subjects import CLASSES, LIVE_CLASSES, N_SHAPE, PARTS, SPLITS, sample_subject, split_of

# DreamBench's class words, from the published subject list
DREAMBENCH = (
    "backpack backpack stuffed_animal bowl can candle cat cat clock sneaker dog dog dog dog dog dog dog toy boot "
    "stuffed_animal toy glasses toy toy cartoon toy sneaker teapot vase stuffed_animal"
)


def test_classes_are_those_of_dreambench_and_every_part_occurs() -> None:
    assert set(CLASSES) == {word.replace("_", " ") for word in DREAMBENCH.split()}
    assert len(CLASSES) == 15
    assert {"dog", "cat"} == LIVE_CLASSES
    assert set(PARTS) == set(CLASSES)
    subjects = [sample_subject("cat", f"c{i}") for i in range(300)]
    assert {s.pattern for s in subjects} == set(PATTERNS)
    for name, choices in PARTS["cat"].items():
        assert {s.part(name) for s in subjects} == set(choices)


@pytest.mark.parametrize("noun", CLASSES)
def test_subject_is_well_formed(noun):
    for i in range(20):
        subject = sample_subject(noun, f"form {i}")
        assert subject.class_noun == noun
        assert len(subject.shape) == N_SHAPE
        assert all(0 <= v <= 1 for v in (*subject.shape, *subject.pattern_shape))
        assert all(0 <= c <= 255 for colour in subject.colours for c in colour)
        assert subject.pattern in PATTERNS
        assert [subject.part(name) for name in PARTS[noun]] == list(subject.parts)
        assert all(subject.part(name) in choices for name, choices in PARTS[noun].items())
        main, second, accent = subject.colours
        assert distance(main, second) > 0.25
        assert min(distance(accent, main), distance(accent, second)) > 0.17


def test_sampling_is_deterministic_and_in_disjoint_splits() -> None:
    first = sample_subject("teapot", "a key", "test")
    assert first == sample_subject("teapot", "a key", "test")
    assert first != sample_subject("teapot", "another key", "test")
    # the same on every machine and in every version
    assert (first.colours, first.pattern) == (((82, 44, 152), (159, 176, 163), (91, 89, 83)), "checks")
    drawn = {s: {sample_subject(noun, f"s{i}", s) for noun in CLASSES for i in range(40)} for s in SPLITS}
    for split, subjects in drawn.items():
        assert len(subjects) == 40 * len(CLASSES)
        assert {split_of(subject) for subject in subjects} == {split}
    for a, b in combinations(SPLITS, 2):
        assert not drawn[a] & drawn[b]


def test_split_shares_of_the_identity_space_whose_neighbours_stay_together() -> None:
    base = sample_subject("vase", "base")
    counts = Counter(
        split_of(replace(base, shape=tuple((i * p % 97) / 97 for p in range(3, 13)), colours=((i, j, 0),) * 3))
        for i in range(250)
        for j in range(0, 256, 16)
    )
    total = sum(counts.values())
    for split, share in (("train", 0.70), ("evaluators", 0.14), ("dev", 0.08), ("test", 0.08)):
        assert counts[split] / total == pytest.approx(share, abs=0.03)
    subject = sample_subject("dog", "near", "dev")
    shape = tuple(int(4 * v) / 4 + 0.1 if v < 1 else v for v in subject.shape)
    assert split_of(replace(subject, shape=shape)) == "dev"


@pytest.mark.parametrize(("noun", "split"), [("horse", "train"), ("dog", "holdout")])
def test_unknown_names_are_refused(noun, split):
    with pytest.raises(ValueError, match=re.escape("unknown")):
        sample_subject(noun, "x", split)
