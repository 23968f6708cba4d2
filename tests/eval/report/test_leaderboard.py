"""leaderboard.html: rows of several folders, a table for each suite and protocol."""

import re
from pathlib import Path

import numpy as np
import pytest
from eval_helpers import any_value, make_folder, make_scores

from bdkit.cli import main
from eval.report.summary import summarise, title
from eval.report.tables import format_figure


def high_truth(rng: np.random.Generator, method: str, metric: str) -> float:
    """The ground truth is above every method, and is none."""
    return any_value(rng, method, metric) + 10 * (method == "ground-truth")


def test_protocols_stay_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = make_folder(tmp_path / "ours", make_scores(("base", "mine", "ground-truth"), value=high_truth))
    theirs = make_folder(tmp_path / "theirs", make_scores(("base", "other", "ground-truth"), seed=1, value=high_truth))
    apart = make_folder(tmp_path / "apart", make_scores(("base", "mine"), seed=2), protocol="dreambench")
    (ours / "report.html").write_text("")
    page = tmp_path / "pages" / "board.html"
    assert main(["report", *map(str, (ours, apart, theirs)), "--leaderboard", "--page", str(page)]) == 0
    assert capsys.readouterr().out == f"{page} opens in any browser.\n"
    text = page.read_text()
    boards = dict(re.findall(r"<section.*?<h2>(.*?)</h2>(.*?)</section>", text, re.DOTALL))
    assert set(boards) == {"mini-quick, protocol mini", "mini-quick, protocol dreambench"}
    together = boards["mini-quick, protocol mini"]
    results = summarise(ours, theirs)
    for row in ("ours/base", "theirs/base", "mine", "other"):
        assert f">{title(row)}<" in together
        figure = format_figure(results.estimates[row, "dino"]).partition(" [")[0]
        assert figure in together
    means = [results.estimates[row, "dino"].mean for row in ("ours/base", "theirs/base", "mine", "other")]
    assert f"{max(means):.3f}" in re.findall(r'<td class="best">([\d.]+)', together)
    assert "other" not in boards["mini-quick, protocol dreambench"]
    assert '<a href="../ours/report.html">ours</a>' in together
    assert "theirs" in together
    assert 'href="../theirs' not in together


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--leaderboard", "--embed", "3"], "--embed has no effect on a leaderboard; leave it out"),
        ([], "2 folders make a leaderboard; add --leaderboard, or give one folder"),
    ],
)
def test_flags_that_do_not_fit(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(make_folder(tmp_path / name)) for name in ("a", "b")]
    assert main(["report", *folders, *flags]) == 2
    assert words in capsys.readouterr().err
    assert main(["report", folders[0], folders[0], "--leaderboard"]) == 2
    assert "a folder is given twice" in capsys.readouterr().err
    assert main(["report", folders[0], "--page", "x.html"]) == 2
    assert "--page is of --leaderboard alone" in capsys.readouterr().err
