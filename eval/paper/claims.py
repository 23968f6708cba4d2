"""`bdkit reproduce all`: the page "What the paper says, what we measured", claim by claim, from the CSVs alone."""

import importlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from bdkit.utils.errors import InputError
from bdkit.utils.io import write_text
from eval.paper.combination import COMPARISON, CONTROL, EDITING, FIGURE
from eval.paper.combination import TITLES as COMBINED_TITLES
from eval.paper.config import ALL, EXPERIMENTS, ReproduceConfig
from eval.paper.results_files import estimate_of, lines_of, provenance_note, read_csv, reading, show
from eval.paper.steps import SPEED_UP, TRIAL, factor_text, headline
from eval.paper.table1 import MEASURED, ORDERED
from eval.report.statistics import Estimate
from eval.report.summary import METRIC_TITLES
from eval.report.tables import format_figure, markdown_table
from eval.results_dir import REAL

PAGE = "claims.md"
HOLDS, PARTLY, UNDECIDED, NOT_HERE = "holds", "partly", "undecided", "does not hold here"
TOO_SHORT = "not judged: trained too short"
NO_GAIN = "not judged: no gain to compare"
ENDS_EARLY = "not judged: DreamBooth's curve ends too early"
# (row, the row that it is compared with in DINO) -> the claim; Sec. 4.1, main table
ORDER_CLAIMS = {
    ("blip-diffusion-finetuned", "blip-diffusion-zero-shot"): "Fine-tuned, it is more faithful than zero-shot",
    ("blip-diffusion-zero-shot", "base"): "Zero-shot generation shows the subject, which the base does not",
    ("blip-diffusion-zero-shot", "textual-inversion"): "Zero-shot is more faithful than Textual Inversion",
    ("blip-diffusion-zero-shot", "re-imagen"): "Zero-shot is level with Re-Imagen (0.594 and 0.600)",
    ("blip-diffusion-zero-shot", "dreambooth-from-base-100"): "Zero-shot is more faithful than DreamBooth's 100 steps",
    ("blip-diffusion-zero-shot", "dreambooth-from-base-300"): "Zero-shot is more faithful than DreamBooth's 300 steps",
    (
        "blip-diffusion-finetuned",
        "dreambooth-from-base",
    ): "Fine-tuned, it is level with full DreamBooth (here 500 steps)",
    ("dreambooth-from-base", "blip-diffusion-zero-shot"): "DreamBooth is more faithful than zero-shot",
    ("dreambooth-from-base-300", "dreambooth-from-base-100"): "DreamBooth needs more than 100 steps",
    ("dreambooth-from-base", "dreambooth-from-base-300"): "DreamBooth needs more than 300 steps",
    ("re-imagen", "textual-inversion"): "Re-Imagen is more faithful than Textual Inversion",
    ("re-imagen", "dreambooth-from-base-300"): "Re-Imagen is more faithful than DreamBooth's 300 steps",
    ("textual-inversion", "dreambooth-from-base-300"): "Textual Inversion is more faithful than DreamBooth's 300 steps",
    (REAL, "blip-diffusion-finetuned"): "Real images are still more faithful than the fine-tuned model",
}
# Claimed to be level: neither is above the other by the paper's smallest step, Textual Inversion to zero-shot
LEVEL_PAIRS = (("blip-diffusion-finetuned", "dreambooth-from-base"), ("blip-diffusion-zero-shot", "re-imagen"))
LEVEL = 0.025
FIDELITY = ("dino", "identity")
SPEED_UP_OF_PAPER = 20.0  # "up to 20x" fewer fine-tuning steps
LOST = 0.1  # of a score: what is lost by less is kept
# Row of ablations.csv -> claims and the metrics that they are judged by (Sec. 3.1, 4.3)
LESS, MORE, IGNORED = "less", "more", "ignored"
ABLATION_CLAIMS = {
    "without-stage-1": (("Without stage 1 the subject is less faithful (DINO 0.521 against 0.566)", LESS, FIDELITY),),
    "frozen-text-encoder": (
        ("With a frozen text encoder the subject is more faithful", MORE, FIDELITY),
        ("With a frozen text encoder the prompt is ignored", IGNORED, ("clip_t", "prompt_right")),
    ),
    "without-subject-text": (("Without subject text the subject is less faithful", LESS, FIDELITY),),
    "without-dropping": (
        ("Without dropping the subject prompt results are worse", LESS, (*FIDELITY, "clip_t", "prompt_right")),
    ),
    "32-queries": (("32 queries overpower the text", LESS, ("clip_t", "prompt_right")),),
}
WITHOUT_EDGES = "times that without it"
NEGATED = {HOLDS: NOT_HERE, UNDECIDED: UNDECIDED, NOT_HERE: HOLDS}
KEPT = {"yes": HOLDS, "undecided": UNDECIDED, "no": NOT_HERE}


@dataclass(frozen=True)
class Verdict:
    """One claim, a figure with its interval, and what follows: HOLDS, PARTLY, UNDECIDED, NOT_HERE, or why not."""

    claim: str
    metric: str
    figure: str
    verdict: str


def above(low: float | None, high: float | None) -> str:
    """Whether a difference is above zero: HOLDS where its whole interval is, NOT_HERE where that is below, else
    UNDECIDED.
    """
    if low is None or high is None:
        return UNDECIDED
    return HOLDS if low > 0 else NOT_HERE if high < 0 else UNDECIDED


def level(low: float | None, high: float | None) -> str:
    """Whether two methods are level: HOLDS where their difference is within LEVEL of zero with its whole interval,
    NOT_HERE where it is beyond with its whole interval, else UNDECIDED.
    """
    if low is None or high is None:
        return UNDECIDED
    if low > LEVEL or high < -LEVEL:
        return NOT_HERE
    return HOLDS if low >= -LEVEL and high <= LEVEL else UNDECIDED


def kept(share: Estimate) -> str:
    """Whether a score keeps all but LOST of another one, by its share of that: HOLDS where the whole interval says so,
    NOT_HERE where none of it does, else UNDECIDED.
    """
    if share.low is None or share.high is None:
        return UNDECIDED
    return HOLDS if share.low >= 1 - LOST else NOT_HERE if share.high < 1 - LOST else UNDECIDED


def share_of(change: Estimate, of: float) -> Estimate | None:
    """A change of a score as the share that is left of it, which is taken as exact; None where it is not above zero."""
    if not of > 0:
        return None
    low, high = (None if end is None else 1 + end / of for end in (change.low, change.high))
    return replace(change, mean=1 + change.mean / of, low=low, high=high, spread=None)


def order_verdicts(frame: pd.DataFrame) -> list[Verdict]:
    """Of table1.csv: the claims on the order of the methods."""
    measured = set(frame[frame["source"] == MEASURED]["row"])
    found = []
    for line in lines_of(frame[frame["source"] == ORDERED]):
        pair = line["row"], line["minus"]
        if pair not in ORDER_CLAIMS or not set(pair) <= measured:
            continue
        for metric in FIDELITY:
            if (figure := estimate_of(line, metric)) is not None:
                text = format_figure(figure, signed=True)
                levels = pair in LEVEL_PAIRS
                verdict = (level if levels else above)(figure.low, figure.high)
                found.append(Verdict(ORDER_CLAIMS[pair], METRIC_TITLES[metric], text, verdict))
    return found


def speed_up_verdicts(frame: pd.DataFrame) -> list[Verdict]:
    """Of steps.csv: up to 20 times fewer steps than DreamBooth from the base, for the score after the headline's steps.
    It holds where the whole interval is at 20 or above, partly where it is above 1, and not where it is below.
    """
    found = []
    of_paper = frame[(frame["source"] == SPEED_UP) & (frame["name"] == "dreambooth-from-base")]
    for line in lines_of(headline(of_paper)) if len(of_paper) else ():
        if line["metric"] not in FIDELITY:
            continue
        claim, after = "Up to 20 times fewer fine-tuning steps than DreamBooth", f"{line['target_steps']:.0f} steps"
        if pd.isna(line["factor"]):
            figure = f"the score after {after} is there before the first"
            found.append(Verdict(claim, METRIC_TITLES[line["metric"]], figure, NO_GAIN))
            continue
        figure = f"{factor_text(line, ' times')}, for the score after {after}"
        verdict = above(line["low"] - 1, line["high"] - 1)  # of NaN, where there is no interval, UNDECIDED
        if verdict == HOLDS and line["low"] < SPEED_UP_OF_PAPER:
            verdict = PARTLY
        if verdict in (UNDECIDED, NOT_HERE) and pd.isna(line["steps"]):  # the factor is only a lower bound
            verdict = ENDS_EARLY
        found.append(Verdict(claim, METRIC_TITLES[line["metric"]], figure, verdict))
    return found


def preservation_verdicts(frame: pd.DataFrame) -> list[Verdict]:
    """Of preservation.csv: the subject model keeps the base's text-to-image generation."""
    found = []
    for line in lines_of(frame[frame["row"] == "subject-model"]):
        for metric in ("clip_t", "prompt_right"):
            change = estimate_of(line, f"{metric}_change")
            if change is not None and (line["prompts"] == "all" or "all" not in set(frame["prompts"])):
                ends = [end for end in (change.low, change.high) if end is not None]  # an end can be undefined
                interval = f" [{ends[0]:+.1%}, {ends[1]:+.1%}]" if len(ends) == 2 else ""
                claim = "The subject model keeps the base's text-to-image generation (at most 2% lost)"
                verdict = KEPT[line[f"{metric}_kept"]]
                found.append(Verdict(claim, METRIC_TITLES[metric], f"{change.mean:+.1%}{interval}", verdict))
    return found


def ablation_verdicts(frame: pd.DataFrame) -> list[Verdict]:
    """Of ablations.csv: what each change does to the full model; --budget small is too short to judge."""
    found = []
    for line in lines_of(frame):
        for claim, direction, metrics in ABLATION_CLAIMS.get(line["row"], ()):
            for metric in metrics:
                if (change := estimate_of(line, f"{metric}_change")) is None:
                    continue
                figure = format_figure(change, signed=True)
                if direction == MORE:
                    verdict = above(change.low, change.high)
                elif direction == LESS:
                    verdict = NEGATED[above(change.low, change.high)]
                elif (share := share_of(change, line[metric] - change.mean)) is not None:
                    figure, verdict = f"{format_figure(share)} times the full model's", NEGATED[kept(share)]
                else:
                    continue
                verdict = TOO_SHORT if line.get("budget") == "small" else verdict
                found.append(Verdict(claim, METRIC_TITLES[metric], figure, verdict))
    return found


def combination_verdicts(frame: pd.DataFrame) -> list[Verdict]:
    """Of combination.csv: the ControlNet's edges and the edited image's background are kept, and so is the subject."""
    figures = {(line["part"], line["scenes"], line["row"]): line for line in lines_of(frame[frame["kind"] == FIGURE])}
    compared = {
        (line["part"], line["scenes"], line["row"], line["minus"]): line
        for line in lines_of(frame[frame["kind"] == COMPARISON])
    }
    found = []
    line = compared.get((CONTROL, "all", "subject + edges", "subject"), {})
    if (ratio := estimate_of(line, "edge_f1")) is not None:
        claim = "With a ControlNet that was not trained with it, images have more of the edges"
        more = above(*(None if end is None else end - 1 for end in (ratio.low, ratio.high)))
        found.append(Verdict(claim, COMBINED_TITLES["edge_f1"], f"{format_figure(ratio)} {WITHOUT_EDGES}", more))
    for metric in FIDELITY:
        if (ratio := estimate_of(line, metric)) is not None:
            claim, text = "With a ControlNet the subject is kept (at most a tenth lost)", format_figure(ratio)
            found.append(Verdict(claim, COMBINED_TITLES[metric], f"{text} {WITHOUT_EDGES}", kept(ratio)))
    for scenes in ("real", "generated"):
        line = compared.get((EDITING, scenes, "fixed", "from-scratch"), {})
        own = figures.get((EDITING, scenes, "from-scratch"), {}).get("identity", math.nan)
        if (change := estimate_of(line, "psnr_outside")) is not None:
            claim = f"Edits of {scenes} images keep more of the background than drawing from scratch"
            text, verdict = format_figure(change, signed=True), above(change.low, change.high)
            found.append(Verdict(claim, COMBINED_TITLES["psnr_outside"], text, verdict))
        if (change := estimate_of(line, "identity")) is not None and (share := share_of(change, own)) is not None:
            claim = f"Edits of {scenes} images show the subject as zero-shot does (at most a tenth lost)"
            text = f"{format_figure(share)} times zero-shot's"
            found.append(Verdict(claim, COMBINED_TITLES["identity"], text, kept(share)))
    return found


VERDICTS: dict[str, Callable[[pd.DataFrame], list[Verdict]]] = {
    "table1": order_verdicts,
    "steps": speed_up_verdicts,
    "combination": combination_verdicts,
    "preservation": preservation_verdicts,
    "ablations": ablation_verdicts,
}
# The paper's research questions, which the same experiments answer
QUESTIONS = {
    "table1": "Question 1: does a pre-trained subject representation give faithful zero-shot generation?",
    "steps": "Question 2: how many fine-tuning steps does a new subject need?",
    "combination": "Question 3: does it combine with ControlNet and prompt-to-prompt without training?",
    "preservation": "Question 4: does the model keep the base model's own abilities?",
    "ablations": "Question 5: what does two-stage pre-training do?",
}


def run_all(config: ReproduceConfig) -> Path:
    """Runs every experiment, resuming what was begun, and writes OUT/claims.md. One that cannot run is left out with a
    warning. Raises InputError when none can.
    """
    ran = 0
    for name in ALL:
        try:
            show(importlib.import_module(EXPERIMENTS[name]).run(config.of(name)))
            ran += 1
        except InputError as error:
            earlier = config.of(name).csv
            judged = f"; {PAGE} judges it by {earlier}, of an earlier run" if earlier.exists() else ""
            warnings.warn(f"{name} is left out: {error}{judged}", stacklevel=2)
    if not ran:
        raise InputError("no experiment could run; the warnings above say why")
    return write_claims(config.out)


def write_claims(out: Path) -> Path:
    """Writes OUT/claims.md from the CSVs that OUT holds, alone."""
    write_page(out, claims_page(out))
    return out / PAGE


def write_page(out: Path, text: str) -> str:
    """Writes what `claims_page` made as OUT/claims.md, and returns it."""
    write_text(text, out / PAGE)
    return text


def claims_page(out: Path) -> str:
    """The page as Markdown, from the CSVs that OUT holds."""
    head = ["The paper says", "Measured in", "Figure", "Verdict"]
    parts = ["# What the paper says, what we measured"]
    missing = []
    for name, verdicts in VERDICTS.items():
        path = out / f"{name}.csv"
        if not path.exists():
            missing.append(name)
            continue
        frame = read_csv(path, name)
        with reading(path):
            lines = [[one.claim, one.metric, one.figure, one.verdict] for one in verdicts(frame)]
            note = f"`{path.name}`. {_note(name, frame)}"
        parts += [f"## {QUESTIONS[name]}", markdown_table(head, lines) if lines else "No claim was measured.", note]
    if missing:
        parts.append(f"Not measured: {', '.join(missing)}.")
    parts.append(
        "A claim holds where the whole 95% interval agrees, does not hold where the whole interval is on the other "
        f"side, and is undecided otherwise. Two are level within {LEVEL}; a score is kept where at most a tenth is "
        "lost, of the base's text-to-image generation 2%, and the prompt is ignored where more than a tenth is; what "
        "is lost is a share of the other's mean, taken as exact. The speed-up holds where the whole interval is at 20 "
        "or above, partly where it is above 1. Figures of question 1 are differences, paired over subjects; "
        "DreamBooth is from the base, as in the paper; table1.md has it from stage 2's weights, too. Figures of the "
        "mini world say nothing of full-size models."
    )
    return "\n\n".join(parts) + "\n"


def _note(name: str, frame: pd.DataFrame) -> str:
    """What the judged figures were made with, and of how many."""
    if name == "steps":
        frame = frame[frame["source"] != TRIAL]
    if name == "ablations":
        frame = frame[frame["row"].isin(["full", *ABLATION_CLAIMS])]
    note = provenance_note(frame)
    for column, what in (("n_subjects", "subjects"), ("n_scenes", "scenes"), ("n_prompts", "prompts")):
        note += f" {frame[column].max():.0f} {what}." if column in frame else ""
    if name == "ablations" and "training_seeds" in frame:
        groups = frame.groupby("training_seeds", sort=False)["row"].agg(list)
        trained = [f"seeds {seeds} ({', '.join(rows)})" for seeds, rows in groups.items()]
        note += f" Trained for {frame['steps'].max():.0f} steps, {'; '.join(trained)}."
    return note
