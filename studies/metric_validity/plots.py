"""The plots of the study of the metrics."""

from collections.abc import Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from eval.score.metrics import METRICS

TRUTH_TITLES = {"true_identity": "the subject's identity", "true_prompt": "the prompt being followed"}
COLOURS = ("#1f5fa8", "#c4541a")
UNDERFOOT = "#b0b4ba"


def metric_title(name: str) -> str:
    """A metric as people read it."""
    return METRICS[name].title if name in METRICS else name.replace("_", " ")


def plot_correlations(correlations: pd.DataFrame, metrics: Sequence[str], over: str = "images") -> Figure:
    """Each metric's rank correlation with both truths, with 95% intervals, over single images or over methods."""
    shown = correlations[(correlations["over"] == over) & (correlations["prompts"] == "all")]
    table = shown.set_index(["metric", "truth"])
    figure, axes = plt.subplots(figsize=(7.2, 0.36 * len(metrics) + 1.1), layout="constrained")
    for number, truth in enumerate(TRUTH_TITLES):
        rows = table.loc[[(metric, truth) for metric in metrics]]
        heights = np.arange(len(metrics)) + 0.16 * (2 * number - 1)
        rho = rows["rho"].to_numpy()
        spread = np.abs(rows[["low", "high"]].to_numpy().T - rho)
        axes.errorbar(
            rho, heights, xerr=spread, fmt="o", ms=5, lw=1.6, color=COLOURS[number], label=TRUTH_TITLES[truth]
        )
    axes.axvline(0, color=UNDERFOOT, lw=1, zorder=0)
    axes.set(yticks=range(len(metrics)), yticklabels=[metric_title(metric) for metric in metrics], xlim=(-0.5, 1.03))
    axes.set_xlabel(f"Spearman's ρ over {over}, with 95% interval")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="with", frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def plot_reactions(
    reactions: pd.DataFrame, metrics: Sequence[str], damages: Sequence[str], units: dict[str, float], columns: int = 5
) -> Figure:
    """Each metric's change by the strength of each damage, in units of its fall under its yardstick (-1: as bad).

    units: metric -> its fall under its yardstick at full strength, above 0
    """
    rows = -(-len(damages) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(2.05 * columns, 2.05 * rows + 0.5), sharex=True, sharey=True, layout="constrained"
    )
    palette = plt.get_cmap("tab10")
    for axes, damage in zip(np.ravel(grid), damages, strict=False):
        part = reactions[reactions["damage"] == damage]
        axes.axhline(0, color=UNDERFOOT, lw=1, zorder=0)
        for number, metric in enumerate(metrics):
            curve = part[part["metric"] == metric].sort_values("strength")
            strength = [0.0, *curve["strength"]]
            change, low, high = ([0.0, *(curve[name] / units[metric])] for name in ("change", "low", "high"))
            axes.plot(strength, change, color=palette(number), lw=1.8, label=metric_title(metric))
            axes.fill_between(strength, low, high, color=palette(number), alpha=0.15, lw=0)
        axes.set_title(fill(damage, 20), fontsize=9)
        axes.set(ylim=(-2.2, 1.2), xticks=(0, 0.5, 1))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in np.ravel(grid)[len(damages) :]:
        axes.set_visible(False)
    figure.supxlabel("strength of the damage", fontsize=9)
    figure.supylabel("change, in units of the yardstick", fontsize=9)
    handles, labels = np.ravel(grid)[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(metrics), frameon=False, fontsize=9)
    return figure
