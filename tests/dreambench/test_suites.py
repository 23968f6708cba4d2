import json
from collections import Counter
from dataclasses import replace

import pytest

from bdkit.miniworld.subjects import CLASSES, LIVE_CLASSES
from bdkit.utils.errors import InputError
from dreambench.registry import class_nouns, load_suite
from dreambench.suites import Suite, suite_from_json, suite_to_json


def test_dreambench_is_the_published_one() -> None:
    suite = load_suite("dreambench")
    assert len(suite.subjects) == 30
    assert sum(subject.live for subject in suite.subjects) == 9
    assert sum(subject.n_references for subject in suite.subjects) == 158
    assert {subject.n_references for subject in suite.subjects} == {4, 5, 6}
    assert {subject.class_noun for subject in suite.subjects if subject.live} == {"dog", "cat"}
    assert (suite.n_images, suite.source) == (3000, "photos")


def test_prompts_fit_their_kinds() -> None:
    suite = load_suite("dreambench")
    assert Counter(prompt.kind for prompt in suite.object_prompts) == {"context": 20, "property": 5}
    assert Counter(prompt.kind for prompt in suite.live_prompts) == {"context": 10, "outfit": 10, "property": 5}
    for prompts in (suite.live_prompts, suite.object_prompts):
        assert [prompt.index for prompt in prompts] == list(range(25))
        assert all(prompt.template.count("{}") == 2 for prompt in prompts)
        assert len({prompt.template for prompt in prompts}) == 25
    contexts = [prompt.template for prompt in suite.live_prompts[:10]]
    assert contexts == [prompt.template for prompt in suite.object_prompts[:10]]
    assert suite.object_prompts[24].text("stuffed animal") == "a cube shaped stuffed animal"
    assert suite.live_prompts[13].text("dog") == "a dog wearing a black top hat and a monocle"


def test_mini_suites() -> None:
    assert (load_suite("mini"), load_suite("mini").split) == (load_suite("mini@0"), "test")
    assert (load_suite("mini-dev").split, load_suite("mini@7").seed) == ("dev", 7)
    assert load_suite("mini").subjects == load_suite("dreambench").subjects
    hashes = {load_suite(name).hash for name in ("dreambench", "mini", "mini@1", "mini-dev", "mini-quick")}
    assert len(hashes) == 5
    assert class_nouns() == CLASSES
    assert {subject.class_noun for subject in load_suite("mini").subjects if subject.live} == LIVE_CLASSES


def test_mini_quick_has_every_kind_of_prompt() -> None:
    suite = load_suite("mini-quick")
    kinds = {prompt.kind for subject in suite.subjects for prompt in suite.prompts(subject)}
    assert kinds == {"context", "outfit", "property"}
    assert {subject.live for subject in suite.subjects} == {True, False}
    full = load_suite("mini")
    assert set(suite.subjects) < set(full.subjects)
    assert set(suite.live_prompts) < set(full.live_prompts)


@pytest.mark.parametrize("name", ["", "mini@", "mini@-1", "mini@x", "mini@01", "Mini", "mini-quick@1"])
def test_unknown_suite_lists_the_known(name: str) -> None:
    with pytest.raises(
        InputError, match="known are dreambench, dreambench-plus, mini, mini@SEED, mini-dev, mini-quick"
    ):
        load_suite(name)


def test_limits_spread_evenly() -> None:
    suite = load_suite("mini").limited(subjects=2, prompts=3, samples=1)
    assert [subject.name for subject in suite.subjects] == ["backpack", "dog7"]
    assert [prompt.index for prompt in suite.object_prompts] == [0, 8, 16]
    assert suite.n_images == 6
    assert suite.hash != load_suite("mini").hash
    assert load_suite("mini").limited() == load_suite("mini")
    assert load_suite("mini").limited(samples=100).samples_per_prompt == 4
    with pytest.raises(InputError, match="0 samples"):
        suite.limited(samples=0)


def test_json_gives_the_suite_back_and_changed_json_is_refused() -> None:
    suite = load_suite("mini-quick")
    there = json.loads(json.dumps(suite_to_json(suite)))
    assert suite_from_json(there) == suite
    values = suite_to_json(load_suite("mini-quick"))
    with pytest.raises(InputError, match="changed after"):
        suite_from_json({**values, "samples_per_prompt": 9})
    with pytest.raises(InputError, match="does not describe a suite"):
        suite_from_json({"hash": "x"})


@pytest.mark.parametrize("change", [{"seed": 1}, {"name": "x"}, {"samples_per_prompt": 3}, {"split": "dev"}])
def test_hash_changes_with_every_field(change: dict) -> None:
    suite: Suite = load_suite("mini")
    assert replace(suite, **change).hash != suite.hash
