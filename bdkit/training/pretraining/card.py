"""The model card of a pre-training: settings, times, loss curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bdkit.utils.io import read_json, write_text


def write_card(folder: Path, runs: Path, stages: Sequence[str], config: Any) -> None:
    """Writes ``README.md`` and ``loss.png`` into ``folder``, from the ``run.json`` of each stage in ``runs``."""
    rows, curves = [], {}
    for stage in stages:
        record = runs / stage / "run.json"
        if not record.exists():
            continue
        run = read_json(record)
        settings, final, processes = run["config"], run["final"], run["processes"]
        device = f"{processes} x {run['device']}" if processes > 1 else run["device"]
        finals = ", ".join(f"{k} {v:.3f}" for k, v in final.items() if k not in ("step", "seconds"))
        rows.append(
            f"| {stage} | {_steps(settings)} | {settings['batch_size'] * processes} | {settings['learning_rate']:g} | "
            f"{settings['seed']} | {run['seconds'] / 60:.1f} | {device} | {finals} |"
        )
        curves[stage] = pd.read_csv(runs / stage / "loss.csv")
    _plot(curves, folder / "loss.png")
    subjects, joint, weight = config.subject_corpus, config.joint_corpus, config.joint_subject.subject_weight
    lines = [
        "# bdkit mini",
        "",
        "BLIP-Diffusion (arXiv 2305.14720) at 64 px, trained from scratch on bdkit's procedural world by",
        "`bdkit pretrain mini`. It knows 15 classes, 20 contexts, 10 outfits and 5 property changes, no more.",
        "",
        f"Corpus: {config.corpus.scenes} scenes of as many training subjects, seed {config.corpus.seed}. "
        f"{config.corpus.change_share:.0%} of the scenes show a property change.",
        f"Stage 2: {subjects.scenes} scenes, seed {subjects.seed}, {subjects.live_share:.0%} live.",
        "Half of those wear an outfit, a quarter of the others show a property change; the input image then",
        "shows the subject without it (the paper has no such pairs).",
        f"Stage 2's inputs: {config.mattes} images went through closed-form matting, the others use the",
        "scene's exact alpha. Cut-outs are mirrored, scaled and shifted at random (the paper's are not).",
        f"stage2-joint continues with {joint.scenes} other scenes (seed {joint.seed}); the image encoder is then "
        "trained too,",
        f"errors on the subject weigh {weight:g} times those on the background, and timesteps are drawn by "
        "their weights.",
        "The paper does none of these three.",
        "",
        "| stage | steps | batch | learning rate | seed | minutes | device | at the end |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        "![loss curves](loss.png)",
        "",
        "`mini-base` holds the U-Net and text encoder before stage 2; its other parts are those of `mini`.",
        "Weights are float16 safetensors; licence Apache-2.0. All training images are drawn by this package.",
        "",
    ]
    write_text("\n".join(lines), folder / "README.md")


def _plot(curves: dict[str, pd.DataFrame], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * max(1, len(curves)), 2.2), layout="constrained")
    axes = figure.subplots(1, max(1, len(curves)), squeeze=False)[0]
    for axis, (stage, curve) in zip(axes, curves.items(), strict=False):
        axis.plot(curve["step"], curve["loss"].rolling(5, min_periods=1).mean(), linewidth=1)
        axis.set_title(stage, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=7)
    figure.savefig(path, dpi=90)


def _steps(settings: dict[str, Any]) -> str:
    """The number of steps, and those at which the learning rate restarted."""
    rounds = ", ".join(str(step) for step in settings.get("restarts", ()))
    return f"{settings['steps']}{f' (rate restarts at {rounds})' if rounds else ''}"
