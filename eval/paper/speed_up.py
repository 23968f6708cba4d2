"""How many steps one method needs for another's score, by linear interpolation between the steps that were measured."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.report.statistics import CONFIDENCE, resampled_means
from eval.score.edit_metrics import FloatArray


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A method's scores. steps: (k,) rising; values: (n, k), of n subjects after each of these steps."""

    steps: tuple[int, ...]
    values: FloatArray


@dataclass(frozen=True, kw_only=True)
class SpeedUp:
    """How many times the steps the slower method needs for the faster one's score at `target_steps`.

    target: that score; own_steps: where the faster one first reaches it; 0: it has it before its first step, and there
        is no factor
    steps: where the slower one first reaches it; None: it never does, and `factor` is a lower bound, that of its last
        step
    low, high: the 95% bootstrap interval over subjects; a resample in which it is not reached counts as that bound in
        `low` and as infinite in `high`; None with one subject, and without a factor
    reached: the share of resamples in which it is reached
    """

    target_steps: int
    target: float
    own_steps: float
    steps: float | None
    factor: float | None
    low: float | None
    high: float | None
    reached: float | None


def first_reached(steps: tuple[int, ...], scores: FloatArray, target: FloatArray) -> FloatArray:
    """(m,) the first step at which each of m curves (m, k) is at its target (m,) or above; infinite where never."""
    axis = np.asarray(steps, dtype=np.float64)
    above: NDArray[np.bool_] = scores >= target[:, None]
    after = above.argmax(axis=1)
    rows, before = np.arange(len(scores)), np.maximum(after - 1, 0)
    rise = scores[rows, after] - scores[rows, before]
    share = np.divide(target - scores[rows, before], rise, out=np.zeros(len(scores)), where=rise != 0)
    reached: FloatArray = axis[before] + np.where(after > 0, share, 0.0) * (axis[after] - axis[before])
    return np.where(above.any(axis=1), reached, np.inf)


def speed_up(faster: Curve, slower: Curve, target_steps: int) -> SpeedUp:
    """The steps that `slower` needs for the score of `faster` after `target_steps`, over those that `faster` needs.

    Both curves have the same subjects in the same order. target_steps: one of the faster one's, above 0
    """
    column, last = faster.steps.index(target_steps), slower.steps[-1]

    def factors(own: FloatArray, other: FloatArray) -> tuple[FloatArray, FloatArray]:
        target = own[:, column]
        return first_reached(faster.steps, own, target), first_reached(slower.steps, other, target)

    own, other = (curve.values.mean(axis=0, keepdims=True) for curve in (faster, slower))
    (own_steps,), (steps,) = factors(own, other)
    low = high = reached = None
    if len(faster.values) > 1 and own_steps > 0:
        drawn = factors(resampled_means(faster.values), resampled_means(slower.values))
        tail = 100 * (1 - CONFIDENCE) / 2
        own_drawn = np.maximum(drawn[0], np.finfo(np.float64).tiny)
        with np.errstate(over="ignore"):  # a resample that the faster one leads before its first step: infinite
            low = float(np.percentile(np.minimum(drawn[1], last) / own_drawn, tail, method="inverted_cdf"))
            high = float(np.percentile(drawn[1] / own_drawn, 100 - tail, method="inverted_cdf"))
        reached = float(np.isfinite(drawn[1]).mean())
    return SpeedUp(
        target_steps=target_steps,
        target=float(own[0, column]),
        own_steps=float(own_steps),
        steps=float(steps) if np.isfinite(steps) else None,
        factor=float(min(steps, last) / own_steps) if own_steps > 0 else None,
        low=low,
        high=high,
        reached=reached,
    )
