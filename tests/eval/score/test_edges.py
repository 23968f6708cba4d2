"""Edge F1 against plain loops, and what it tells apart."""

import numpy as np
import pytest

from eval.score.edit_metrics import edge_f1, strong_edges


def loop_f1(truth: np.ndarray, found: np.ndarray) -> float:
    """F1 of precision and recall, pixel by pixel."""
    right = wrong = missed = 0
    for row in range(truth.shape[0]):
        for column in range(truth.shape[1]):
            right += bool(truth[row, column] and found[row, column])
            wrong += bool(found[row, column] and not truth[row, column])
            missed += bool(truth[row, column] and not found[row, column])
    precision, recall = right / (right + wrong), right / (right + missed)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_f1_is_that_of_a_plain_loop(share: float) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 9, 14)) < share
    assert edge_f1(first, second) == pytest.approx(loop_f1(first, second))
    assert edge_f1(first, second) == edge_f1(second, first)


def test_f1_of_the_same_map_of_nothing_and_of_neighbours() -> None:
    line, nothing = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    line[3] = True
    assert edge_f1(line, line) == edge_f1(nothing, nothing) == 1
    assert edge_f1(line, nothing) == 0
    assert edge_f1(line, np.roll(line, 1, axis=0)) == 0  # no tolerance


def test_f1_of_random_maps_is_their_density() -> None:
    first, second = np.random.default_rng(0).random((2, 400, 400)) < 0.18
    assert edge_f1(first, second) == pytest.approx(0.18, abs=0.005)


def test_strong_edges_follow_a_step_and_leave_faint_ones() -> None:
    image = np.full((16, 16, 3), 60, np.uint8)
    image[:, 8:] = 200
    edges = strong_edges(image)
    assert edges[:, 6:10].any(axis=1).all()
    assert edges.sum() == 16  # one pixel a row
    faint = np.full((16, 16, 3), 100, np.uint8)
    faint[:, 8:] = 115
    assert not strong_edges(faint).any()
