"""The plots show the table's figures, with bytes that depend on nothing else."""

import io
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from eval_helpers import QUICK_SUITE as SUITE
from eval_helpers import make_folder, make_scores
from PIL import Image

from eval.report.plots import (
    COLOURS,
    MARKERS,
    curves,
    draw_pareto,
    draw_plots,
    draw_steps,
    draw_subjects,
    draw_tradeoff,
    make_plots,
    pareto_front,
)
from eval.report.summary import Results, row_seconds
from eval.report.tables import read_published, summarise

ROWS = {
    "dreambooth-100": {"method": "dreambooth", "snapshot": 100, "settings": {"steps": 500}},
    "dreambooth": {"method": "dreambooth", "snapshot": None, "settings": {"steps": 500}},
    "base": {"method": "base", "snapshot": None, "settings": {"steps": None}},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return summarise(make_folder(tmp_path_factory.mktemp("plots"), make_scores(tuple(ROWS)), rows=ROWS))


def test_tradeoff_has_every_row_with_its_intervals(results: Results) -> None:
    axes = draw_tradeoff(results).axes[0]
    assert len(axes.containers) == 3
    for row, container in zip(ROWS, axes.containers, strict=True):
        point, _, bars = container.lines
        across, up = results.estimates[row, "clip_t"], results.estimates[row, "dino"]
        assert (point.get_xdata()[0], point.get_ydata()[0]) == (across.mean, up.mean)
        ends = bars[0].get_segments()[0]
        assert ends[:, 0] == pytest.approx([across.low, across.high])
        assert bars[1].get_segments()[0][:, 1] == pytest.approx([up.low, up.high])
    oracle = axes.lines[-1]
    assert oracle.get_ydata()[0] == results.estimates["real-images", "dino"].mean


def test_published_results_are_open_and_apart(results: Results) -> None:
    ours, published = draw_tradeoff(results, published=True).axes
    there = {(float(row["clip_t"]), float(row["dino"])) for row in read_published() if row["dino"] and row["clip_t"]}
    assert {(line.get_xdata()[0], line.get_ydata()[0]) for line in published.lines} == there
    assert {line.get_markerfacecolor() for line in published.lines} == {"white"}
    assert "copied, protocol unknown:" in published.texts[-1].get_text()
    assert len(ours.containers) == 3


def test_bars_are_the_subjects_means(results: Results) -> None:
    axes = draw_subjects(results, "dino").axes[0]
    assert [text.get_text().replace(" ", "_") for text in axes.get_xticklabels()] == [s.name for s in SUITE.subjects]
    scores = results.scores[results.scores["metric"] == "dino"]
    for row, bars in zip(ROWS, axes.containers, strict=True):
        means = (
            scores[scores["method"] == row].groupby(["subject", "seed_set"])["value"].mean().groupby("subject").mean()
        )
        assert [bar.get_height() for bar in bars] == pytest.approx([means[subject.name] for subject in SUITE.subjects])


def test_steps_join_the_rows_of_one_method(results: Results) -> None:
    assert curves(results) == {"dreambooth": [(100, "dreambooth-100"), (500, "dreambooth")]}
    axes = draw_steps(results).axes
    assert [axis.get_ylabel() for axis in axes] == ["DINO", "CLIP-I", "CLIP-T"]
    line = axes[1].containers[0].lines[0]
    assert list(line.get_xdata()) == [100, 500]
    assert list(line.get_ydata()) == [results.estimates[row, "clip_i"].mean for row in ("dreambooth-100", "dreambooth")]


def test_files_are_the_same_bytes_again(results: Results, tmp_path: Path) -> None:
    first = make_plots(results, tmp_path)
    assert [plot.name for plot in first] == ["tradeoff", "subjects-dino", "subjects-clip_i", "steps"]
    assert first == draw_plots(results)
    for plot in first:
        image = Image.open(tmp_path / "plots" / f"{plot.name}.png")
        image.load()
        assert len(image.convert("RGB").getcolors(maxcolors=2**24) or []) > 20
        text = (tmp_path / "plots" / f"{plot.name}.svg").read_text()
        assert text.startswith("<?xml")
        assert "<dc:date>" not in text
    assert set(Image.open(io.BytesIO(first[0].png)).info) <= {"dpi"}


def test_no_snapshots_no_curve(tmp_path: Path) -> None:
    one_subject = SUITE.limited(subjects=1)
    scores = make_scores(("magic",), suite=one_subject, seed_sets=1)
    results = summarise(make_folder(tmp_path, scores, one_subject))
    plots = draw_plots(results)  # one subject: no intervals either
    assert [plot.name for plot in plots] == ["tradeoff", "subjects-dino", "subjects-clip_i"]


def simulated(colour: str, matrix: list[list[float]]) -> np.ndarray:
    """A colour as a dichromat sees it, in sRGB: a linear map of linear RGB (Machado and others, 2009, severity 1)."""
    srgb = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(matrix) @ linear, 0, 1)
    return np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(
    "matrix",
    [
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    ],
    ids=["protanopia", "deuteranopia", "normal"],
)
def test_colours_can_be_told_apart(matrix: list[list[float]]) -> None:
    seen = [simulated(colour, matrix) for colour in COLOURS]
    assert min(float(np.abs(one - other).max()) for one, other in combinations(seen, 2)) > 0.1
    assert len(set(MARKERS)) == len(MARKERS) > len(COLOURS)


def test_score_against_seconds_shows_the_measured_ones(tmp_path: Path) -> None:
    rows = tuple(ROWS)
    record = {
        "fit_seconds": {"dreambooth-100": [50.0, 40.0, 60.0], "dreambooth": [50.0, 40.0, 60.0], "base": [0.0]},
        "draw_seconds": {"dreambooth-100": [0.5], "dreambooth": [0.5, 0.5], "base": [0.25, 1.0, 0.5]},
    }
    results = summarise(make_folder(tmp_path, make_scores(rows), rows=ROWS, **record))
    expected = {"dreambooth-100": 50 / 5 + 0.5, "dreambooth": 50.5, "base": 0.5}
    assert SUITE.samples_per_prompt == 1
    assert {row: row_seconds(results, row) for row in rows} == expected
    assert row_seconds(results, "real-images") is None
    plots = {plot.name: plot for plot in draw_plots(results)}
    assert "pareto" in plots
    axes = draw_pareto(results, expected).axes[0]
    points = {(line.lines[0].get_xdata()[0], line.lines[0].get_ydata()[0]) for line in axes.containers}
    assert points == {(expected[row], results.estimates[row, "dino"].mean) for row in rows}


def test_front_is_what_no_other_point_beats() -> None:
    rng = np.random.default_rng(0)
    points = {str(n): tuple(pair) for n, pair in enumerate(rng.integers(0, 12, (40, 2)).tolist())}
    beaten = {
        one
        for one, (cost, value) in points.items()
        for other_cost, other in points.values()
        if other_cost <= cost and other >= value and (other_cost, other) != (cost, value)
    }
    front = pareto_front(points)
    assert {points[name] for name in front} == {points[name] for name in set(points) - beaten}
    assert [points[name] for name in front] == sorted(points[name] for name in front)


def test_without_seconds_there_is_no_such_plot(results: Results) -> None:
    assert "pareto" not in {plot.name for plot in draw_plots(results)}
