"""Classes of your own as rows: what a class may lack, and what is refused."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from generate_helpers import MINE, SMALL, files, made
from PIL import Image

from bdkit import cli
from bdkit.methods.own import OwnMethod, as_method
from bdkit.utils.errors import InputError
from dreambench.registry import load_suite
from eval.commands import bench
from eval.experiments import BenchConfig, Row, protocol_of
from eval.generate.run import generate
from eval.results_dir import ImageId, read_run


def test_a_class_with_two_calls_is_a_whole_method(here: Path) -> None:
    drawn = made("out", "mine:Mine", subjects=2)
    suite = BenchConfig(**SMALL, subjects=2).load_suite()
    seed = ImageId("Mine", 0, "dog", suite.live_prompts[0].index, 1).seed(suite.name)
    name = f"images/seed0/Mine/dog/{suite.live_prompts[0].index:02d}-1.png"
    assert name in drawn
    (reference, *_) = sorted((here / "out/references/dog").iterdir())
    colour = Image.open(reference).resize((1, 1)).getpixel((0, 0))
    assert Image.open(here / "out" / name).getpixel((5, 5)) == tuple((c + seed) % 256 for c in colour)
    entry = read_run(here / "out")["rows"]["Mine"]
    assert (entry["method"], entry["overrides"], entry["snapshot"]) == ("mine:Mine", {}, None)
    assert entry["settings"].keys() == {"class", "source_sha256"}
    assert not (here / "out/fits").exists()
    assert made("out", "mine:Mine", subjects=2) == drawn


@pytest.mark.slow
def test_workers_and_shards_make_the_same_bytes(here: Path) -> None:
    expected = made("whole", "mine:Mine", "mine:factory", subjects=2)
    assert made("spawned", "mine:Mine", "mine:factory", subjects=2, workers=2) == expected
    config = {**SMALL, "out": here / "shards", "methods": ("mine:Mine", "mine:factory"), "subjects": 2}
    done = [generate(BenchConfig(**config, shard=f"{number}/2"), show_progress=False) for number in (1, 2)]
    assert done == [False, True]
    assert files(here / "shards") == expected


@pytest.mark.slow
def test_the_command_scores_it_beside_bdkits(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = ["--subjects", "1", "--prompts", "1", "--samples", "1", "--out", "out", "--workers", "1"]
    assert cli.main(["bench", "mini-quick", "--methods", "base,mine:Mine", *limits]) == 0
    table = capsys.readouterr().out
    assert "| Mine |" in table
    assert "Base model" in table


def test_steps_are_selected_and_a_saved_state_is_used() -> None:
    class Whole:
        def __init__(self) -> None:
            self.snapshots, self.settings = [2, 5], {"rate": 1}
            self.calls: list[object] = []

        def fit(self, images: Any, class_noun: str, seed: int) -> None: ...
        def generate(self, prompt_template: str, class_noun: str, seeds: list[int]) -> list[Image.Image]:
            self.calls.append((prompt_template, seeds))
            return [Image.new("L", (4, 4), seed) for seed in seeds]

        def select(self, step: int | None) -> None:
            self.calls.append(step)

        def state(self) -> dict[str, torch.Tensor]:
            return {"a": torch.ones(1)}

        def load_state(self, state: dict[str, torch.Tensor]) -> None:
            self.calls.append(state)

    method = Whole()
    own = as_method(method, "x:Whole", {"class": "x:Whole"})
    assert isinstance(own, OwnMethod)
    assert own.snapshots == (2, 5)
    own.select(2)
    own.load_state(own.state())
    images = own.generate(["a {} {}", "a {} {}", "b {} {}"], "dog", [1, 2, 3])
    assert [image.getpixel((0, 0)) for image in images] == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]
    assert method.calls[0] == 2
    assert method.calls[2:] == [("a {} {}", [1, 2]), ("b {} {}", [3])]
    assert own.settings == {"class": "x:Whole", "rate": 1}
    assert as_method(method, "x") is method


# What is refused


def test_another_file_or_other_numbers_are_refused(here: Path) -> None:
    before = made("out", "mine:Mine", subjects=1)
    (here / "mine.py").write_text(MINE + "\n# another\n")
    with pytest.raises(InputError, match=r"has 'Mine' with other settings \(source_sha256\).*--remake"):
        made("out", "mine:Mine", subjects=1)
    (here / "mine.py").write_text(MINE)
    with pytest.raises(InputError, match=r"other settings \(overrides\)"):
        made("out", rows=(Row(name="Mine", method="mine:Mine", overrides={"gain": 2}),), subjects=1, methods=None)
    assert made("out", "mine:Mine", subjects=1) == before


def test_an_own_setting_named_as_an_entry_hides_no_change(here: Path) -> None:
    (here / "mine.py").write_text(MINE + "    settings = {'overrides': 1, 'snapshot': 1}\n".replace("    ", "Mine."))
    made("out", "mine:Mine", subjects=1)
    with pytest.raises(InputError, match=r"other settings \(overrides\)"):
        made("out", rows=(Row(name="Mine", method="mine:Mine", overrides={"gain": 2}),), subjects=1, methods=None)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("nowhere:Mine", "there is no module 'nowhere' in "),
        ("mine.inner:Mine", "there is no module 'mine.inner'"),
        ("mine:Nobody", "has no class 'Nobody'; its methods are Mine, NoFit"),
        ("mine:constant", "has no class 'constant'"),
        ("mine:NoFit", "lacks fit(images, class_noun, seed)"),
        ("mine:OtherArguments", "mine:OtherArguments must have fit(images, class_noun, seed)"),
        ("mine:Single", "must return a list of 2 PIL images, one a seed; it returned Image"),
        ("mine:TooFew", "it returned 1 images"),
        ("mine:BadSettings", "settings must be a dict of numbers and texts (JSON)"),
        ("broken:Mine", "broken.py, line 1: "),
        ("needy:Mine", "needy imports 'no_such_package', which is not installed"),
        ("mine.py:Mine", "there is no module 'mine.py'"),
        ("folder/mine:Mine", "'folder/mine:Mine' does not name a class; write it like my_package.my_module:MyMethod"),
        ("mine:", "'mine:' does not name a class"),
        (":Mine", "':Mine' does not name a class"),
        ("mine", "unknown method 'mine'; known are base"),
        ("mine:Mine,mine:Mine,other:Mine", "the row name 'Mine' is taken"),
    ],
)
def test_a_class_that_cannot_be_used_is_one_line(
    here: Path, method: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "broken.py").write_text("def (\n")
    (here / "needy.py").write_text("import no_such_package\n")
    assert cli.main(["bench", "mini-quick", "--methods", method, "--subjects", "1", "--out", "out"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bdkit: ")]
    assert words in line
    assert not list((here).glob("out/images/*/*"))


ROW = {"name": "a", "method": "mine:Mine"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "rows.json is missing"),
        ("[{]", "rows.json is not readable JSON (Expecting property name"),
        ('[{"name": "a", "name": "b"}]', "it has the key 'name' twice"),
        ('[{"name": "a", "method": "base", "overrides": {"guidance_scale": NaN}}]', "NaN is no number of JSON"),
        ([], "must be a list of rows"),
        (ROW, "must be a list of rows"),
        (["a"], "row 1 is 'a'; write an object with name, method, overrides, snapshot"),
        ([ROW, {"name": "b"}], "row 2 has no method; its keys are name, method, overrides, snapshot"),
        ([{**ROW, "step": 3, "seed": 1}], "row 1 has unknown seed, step; its keys are"),
        ([{**ROW, "snapshot": "last"}], "row 1: snapshot is 'last'; it must be a whole number or null"),
        ([{**ROW, "snapshot": True}], "snapshot is True"),
        ([{**ROW, "snapshot": -1}], "snapshot is -1"),
        ([{**ROW, "name": 3}], "row 1: name is 3; it must be text"),
        ([{**ROW, "overrides": [1]}], "overrides is [1]; write an object"),
        ([ROW, ROW], "the row name 'a' is taken"),
        ([{**ROW, "name": "ground-truth"}], "the row name 'ground-truth' is taken"),
        ([{**ROW, "name": "../a"}], "cannot name a folder"),
        ([{**ROW, "name": "a|b"}], "cannot name a folder"),
        ([{**ROW, "method": "dreamboth"}], "row 'a': unknown method 'dreamboth'; known are base"),
        ([{**ROW, "method": "dreambooth", "overrides": {"rank": 4}}], "row 'a': dreambooth has no setting rank"),
        ([{**ROW, "method": "dreambooth", "overrides": {"steps": "9"}}], "steps is '9'; it must be a whole number"),
        ([{**ROW, "overrides": {"loudness": 4}}], "got an unexpected keyword argument 'loudness'; it takes (gain=1)"),
        ([{**ROW, "snapshot": 100}], "row 'a': mine:Mine keeps no weights of step 100; leave the snapshot out"),
        ([{**ROW, "method": "mine:Stepped", "snapshot": 3}], "of step 3; it keeps those of 1, 2"),
    ],
)
def test_a_wrong_file_of_rows_is_one_line(
    here: Path, content: Any, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        (here / "rows.json").write_text(text, encoding="utf-8-sig")
    assert cli.main(["bench", "mini-quick", "--rows", "rows.json", "--subjects", "1", "--out", "out"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not (here / "out/images").exists()


def test_methods_choose_among_the_file_and_the_papers(here: Path) -> None:
    (here / "rows.json").write_text(json.dumps([ROW, {"name": "base", "method": "mine:factory"}]))
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    configs: list[BenchConfig] = []
    for flags in ([], ["--methods", "a,base,dreambooth"]):
        configs.append(bench.config_of(parser.parse_args(["mini-quick", "--rows", "rows.json", *flags])))
    assert [(row.name, row.method) for row in configs[0].chosen_rows] == [("a", "mine:Mine"), ("base", "mine:factory")]
    names = [(row.name, row.method) for row in configs[1].chosen_rows]
    assert names == [("a", "mine:Mine"), ("base", "mine:factory"), ("dreambooth", "dreambooth")]


def test_own_rows_on_photos_are_scored_as_full_size(here: Path) -> None:
    photos = load_suite("dreambench")
    assert protocol_of(BenchConfig(suite="dreambench", methods=("mine:Mine",)), photos) == "dreambench"
    assert protocol_of(BenchConfig(suite="dreambench", methods=("mine:Mine", "base")), photos) == "mini"
