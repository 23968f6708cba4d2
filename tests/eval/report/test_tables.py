"""Tables of one folder and of several: what stands in them, and what is refused."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from eval_helpers import MAIN_METRICS as METRICS
from eval_helpers import QUICK_SUITE as SUITE
from eval_helpers import make_folder, make_scores

from bdkit.cli import main
from bdkit.utils.errors import InputError
from dreambench.registry import load_suite
from eval.report.statistics import differences, subject_means
from eval.report.tables import make_tables, markdown, read_paper, read_published, sections, summarise

N = 2 * SUITE.n_images


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("tables") / "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("tables") / "theirs", make_scores(("dreambooth", "magic"), seed=5))


def lines_of(text: str, heading: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    part = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line[:1] == "|"][2:]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace(",", ";"), "it needs the columns method, seed_set"),
        (lambda text: text.splitlines()[0], "it holds no score"),
        (lambda text: text + text.splitlines()[-1], "it holds a score twice"),
        (lambda text: re.sub(r"0\.\d+,mini", "nan,mini", text, count=1), "values that are not finite"),
        (lambda text: text.replace(",0,dog,", f",{10**20},dog,", 1), "cannot be read"),
        (lambda text: text.replace(",dog,", ",unicorn,", 1), "scores of 'unicorn', which is no subject of"),
        (lambda text: text[:-40], "cannot be read"),
    ],
)
def test_scores_that_others_have_changed_are_refused_in_one_line(change, words, out, tmp_path) -> None:
    folder = shutil.copytree(out, tmp_path / "copy")
    (folder / "scores.parquet").unlink(missing_ok=True)
    text = (folder / "scores.csv").read_text()
    assert change(text) != text
    (folder / "scores.csv").write_text(change(text))
    with pytest.raises(InputError, match=words) as caught:
        summarise(folder)
    assert "\n" not in str(caught.value)


def test_every_table_is_written(out: Path) -> None:
    make_tables(out)
    by_subject = pd.read_csv(out / "by_subject.csv")
    by_prompt = pd.read_csv(out / "by_prompt.csv")
    by_split = pd.read_csv(out / "by_split.csv")
    assert len(by_subject) == 4 * len(SUITE.subjects)
    assert len(by_prompt) == 2 * SUITE.n_images
    assert set(by_split["part"]) == {"live", "object", "context", "outfit", "property"}
    table = pd.read_csv(out / "table.csv").set_index("row")
    assert table.loc["base", "n_images"] == table.loc["base", "n_expected"] == N
    assert table.loc["base", "dino"] == pytest.approx(
        by_subject[by_subject["method"] == "base"]["dino"].mean(), abs=2e-6
    )


def test_the_oracle_stands_twice_and_one_seed_set_has_no_spread(out: Path, tmp_path: Path) -> None:
    text = markdown(summarise(out))
    titles = [line[0] for line in lines_of(text, "Results")]
    assert titles[:2] == ["Real images (no self-pairs), headline", "Real images (with self-pairs)"]
    assert "without self-pairs, which is the headline" in text
    text = markdown(summarise(make_folder(tmp_path / "ours", make_scores(seed_sets=1))))
    results = text.split("## Results\n")[1].split("\n## ")[0]
    table, note = results.rstrip().rsplit("\n", 1)
    assert "±" not in table
    assert re.search(r"\d \[0\.\d{3}, 0\.\d{3}\]", table)  # the interval stays
    assert note.count("There is no ± (standard deviation over seed sets) because there is one seed set.") == 1
    both = markdown(summarise(out))
    assert "n/a" not in both + text
    assert all("±" in line[1] for line in lines_of(both, "Results")[2:])
    assert "a row of one seed set has none" in both  # the oracle's two rows


def test_empty_columns_are_left_out_and_equal_settings_told_once(tmp_path: Path) -> None:
    settings = {"steps": 40, "guidance_scale": 7.5, "scheduler": None}
    rows = {name: {"method": name, "settings": settings} for name in ("base", "dreambooth")}
    text = markdown(summarise(make_folder(tmp_path, rows=rows, seed_sets=[0, 1])))
    head = text.split("## Made with\n\n")[1].splitlines()[0]
    assert head == "| Method | Images | Steps |"
    assert "The same in every row: seed sets 0 1, guidance 7.5." in text


def test_settings_of_a_class_of_ones_own_may_be_anything(tmp_path: Path) -> None:
    """What it does not say is not said of it, and a word or a list where numbers are expected does no harm."""
    settings = {"steps": "many", "learning_rate": [1, 2], "scheduler": {"name": "x"}, "checkpoint": 3}
    rows = {
        "base": {"method": "base", "settings": {"guidance_scale": 7.5}},
        "dreambooth": {"method": "mine:Mine", "settings": settings},
    }
    text = markdown(summarise(make_folder(tmp_path, rows=rows, seed_sets=[0, 1])))
    head = text.split("## Made with\n\n")[1].splitlines()[0]
    assert head == "| Method | Images | Guidance | Scheduler | Checkpoint |"
    assert "The same in every row: seed sets 0 1." in text


def test_metrics_beside_the_main_ones_have_a_table_of_their_own(tmp_path: Path) -> None:
    scores = make_scores(metrics=(*METRICS, "identity", "retrieval"))
    shown = {section.heading: section.head for section in sections(summarise(make_folder(tmp_path, scores)))}
    assert shown["Results"] == ["Method", "DINO", "CLIP-I", "CLIP-T", "Identity"]
    assert shown["Further metrics"] == ["Method", "Retrieval"]


def test_split_tables_have_the_parts_figures(out: Path) -> None:
    results = summarise(out)
    text = markdown(results, split="live")
    assert "/" not in lines_of(text, "Split: live")[2][1]
    live = results.scores[results.scores["subject"] == "dog"]
    values = live[(live["method"] == "base") & (live["metric"] == "dino")].groupby("seed_set")["value"].mean()
    line = next(line for line in lines_of(text, "Split: live") if line[0].startswith("Base"))
    assert line[1] == f"{values.mean():.3f} ±{values.std():.3f}"  # one live subject: no interval
    kinds = [section.heading for section in sections(results, split="type")]
    assert {"Split: context", "Split: outfit", "Split: property"} < set(kinds)
    with pytest.raises(InputError, match="no categories"):
        markdown(results, split="category")


def test_differences_from_a_chosen_row(out: Path) -> None:
    results = summarise(out)
    lines = lines_of(markdown(results, against="base"), "Differences from Base model, not personalised, paired")
    assert [line[0] for line in lines] == ["DreamBooth − Base model, not personalised"]
    table = differences(subject_means(results.scores)).set_index(["method", "minus", "metric"])
    row = table.loc[("dreambooth", "base", "dino")]
    assert lines[0][1] == f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
    assert lines[0][-1] == str(len(SUITE.subjects))
    assert markdown(results, against="Base model, not personalised") == markdown(results, against="base")
    with pytest.raises(InputError, match="no row 'magic' to compare with; there are real-images"):
        markdown(results, against="magic")


def test_several_folders_make_one_table(out: Path, theirs: Path) -> None:
    results = summarise(out, theirs)
    assert results.rows[:2] == ["real-images", "real-images-with-self-pairs"]
    assert set(results.rows[2:]) == {"base", "ours/dreambooth", "theirs/dreambooth", "magic"}
    alone = summarise(theirs)
    assert results.estimates["magic", "clip_i"] == alone.estimates["magic", "clip_i"]
    assert results.estimates["theirs/dreambooth", "dino"] == alone.estimates["dreambooth", "dino"]
    lines = lines_of(markdown(results, against="base"), "Differences from Base model, not personalised, paired")
    assert [line[0].split(" − ")[0] for line in lines] == [
        "ours/DreamBooth", "theirs/DreamBooth", "magic",
    ]  # fmt: skip


def test_the_same_rows_stand_once_and_folders_of_one_name_are_refused(out: Path, tmp_path: Path) -> None:
    again = make_folder(tmp_path / "copy")
    assert summarise(out, again).rows == summarise(out).rows
    other = make_folder(tmp_path / "ours", make_scores(("dreambooth",), seed=9))
    with pytest.raises(InputError, match="two folders have the same name and both a row 'dreambooth'"):
        summarise(out, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "dino-s8"}, "a table never mixes protocols"),
        ({"suite": load_suite("mini-quick")}, "one table is of one suite"),
        ({"oracle": 0.1}, "the real images score differently"),
    ],
)
def test_folders_that_do_not_compare_are_refused(out: Path, tmp_path: Path, change: dict, message: str) -> None:
    suite = change.pop("suite", SUITE)
    scores = make_scores(("magic",), suite=suite)
    if shift := change.pop("oracle", None):
        scores.loc[scores["method"] == "real-images", "value"] += shift
    other = make_folder(tmp_path / "other", scores, suite, **change)
    with pytest.raises(InputError, match=message):
        summarise(out, other)


def test_missing_images_are_told_everywhere(tmp_path: Path) -> None:
    scores = make_scores()
    present = scores[~((scores["method"] == "base") & (scores["subject"] == "vase"))]
    with pytest.raises(InputError, match=rf"the scores of base hold {N - 8} of {N} images"):
        summarise(make_folder(tmp_path / "strict", present))
    out = make_folder(tmp_path / "ours", present, allow_missing=True)
    results = make_tables(out)
    text = (out / "table.md").read_text()
    mark = f"{N - 8}/{N}"
    for heading in ("Results", "Made with"):
        base, other = (
            next(line for line in lines_of(text, heading) if line[0].startswith(name)) for name in ("Base", "Dream")
        )
        assert sum(mark in cell for cell in base) == (1 + len(METRICS) if heading == "Results" else 1)
        assert not any(mark in cell for cell in other)
    assert f"({mark} images, 2/3 subjects)" in text
    split = markdown(results, split="live", published=True)
    assert mark in next(line for line in lines_of(split, "Published results") if line[0].startswith("Base"))[1]
    table = pd.read_csv(out / "table.csv").set_index("row")
    assert (table.loc["base", "n_images"], table.loc["base", "n_expected"]) == (N - 8, N)
    by_prompt = pd.read_csv(out / "by_prompt.csv")
    assert len(by_prompt[by_prompt["method"] == "base"]) == SUITE.n_images - 4
    pair = pd.read_csv(out / "differences.csv").set_index(["method", "minus", "metric"])
    assert pair.loc[("dreambooth", "base", "dino"), "n_subjects"] == 2


def test_copies_of_the_input_are_named_and_cannot_pass_for_fidelity(tmp_path: Path) -> None:
    def value(rng: np.random.Generator, method: str, metric: str) -> float:
        return float(method == "copier" and rng.random() < 0.5) if metric == "copied" else 0.9

    scores = make_scores(("copier", "honest"), metrics=(*METRICS, "copied"), value=value)
    text = markdown(summarise(make_folder(tmp_path / "ours", scores)))
    share = scores[(scores["method"] == "copier") & (scores["metric"] == "copied")]["value"].mean()
    assert f"WARNING, copies of the input: copier ({share:.0%}); their DINO and CLIP-I are no sign" in text
    honest = make_folder(tmp_path / "honest", scores[scores["method"] != "copier"])
    text = markdown(summarise(honest))
    assert "Copied: the share of images" in text
    assert "WARNING" not in text


def test_published_results_stand_beside_ours_with_their_protocols(out: Path) -> None:
    results = summarise(out)
    lines = lines_of(markdown(results, published=True), "Published results")
    assert lines[0][-2] == "ours: mini, suite mini-quick"
    by_title = {line[0]: line for line in lines}
    assert by_title["UNO"][1:4] == ["0.760", "0.835", "0.304"]
    assert by_title["UNO"][4] == "copied, protocol unknown"
    assert "The paper's table" not in markdown(results, published=True)


def test_published_files_are_whole() -> None:
    rows = read_published()
    assert rows[:8] == read_paper()
    assert all("2305.14720" in row["source"] for row in rows[:8])
    paper = {row["row"]: row for row in rows[:8]}
    assert (paper["blip-diffusion-finetuned"]["dino"], paper["real-images"]["clip_t"]) == ("0.670", "")
    assert len({row["row"] for row in rows}) == len(rows) >= 25
    for row in rows:
        assert row["suite"] == "dreambench"
        assert row["protocol"]
        assert row["source"]
        for metric, low, high in (("dino", 0.3, 0.81), ("clip_i", 0.6, 0.9), ("clip_t", 0.2, 0.4)):
            assert row[metric] == "" or (re.fullmatch(r"0\.\d{3}", row[metric]) and low < float(row[metric]) < high)
    assert {row["row"]: row["dino"] for row in rows}["uso"] == "0.777"


def test_command_prints_and_saves(out: Path, theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "saved"
    arguments = ["table", str(out), str(theirs), "--against", "base", "--split", "live", "--published"]
    assert main([*arguments, "--save", str(saved)]) == 0
    text = capsys.readouterr().out
    for words in ("Differences from Base model", "Split: live", "Published results", "theirs/DreamBooth"):
        assert words in text
    assert (saved / "table.md").read_text() + "\n" == text
    assert {"table.csv", "by_subject.csv", "plots"} <= {path.name for path in saved.iterdir()}
    assert main(["table", str(out), "--against", "nobody"]) == 2
    assert "no row 'nobody'" in capsys.readouterr().err


def test_rounding_in_the_file_does_not_move_a_figure(out: Path) -> None:
    results = summarise(out)
    fresh = make_scores()
    base = fresh[(fresh["method"] == "base") & (fresh["metric"] == "clip_t")]
    figure = results.estimates["base", "clip_t"]
    by_subject = base.groupby(["seed_set", "subject"])["value"].mean().groupby("seed_set").mean()
    assert figure.mean == pytest.approx(by_subject.mean(), abs=1e-6)
    assert figure.spread == pytest.approx(np.std(by_subject, ddof=1), abs=1e-6)
