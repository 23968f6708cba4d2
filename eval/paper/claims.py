"""`bdkit reproduce all`: the page "What the paper says, what we measured", claim by claim, from the CSVs alone."""

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bdkit.utils.errors import InputError
from bdkit.utils.io import write_text
from eval.paper.config import ALL, EXPERIMENTS, ReproduceConfig
from eval.paper.results_files import estimate_of, lines_of, provenance_note, read_csv, reading, show
from eval.paper.steps import SPEED_UP, TRIAL, factor_text, headline
from eval.paper.table1 import MEASURED, ORDERED
from eval.report.summary import METRIC_TITLES
from eval.report.tables import format_figure, markdown_table
from eval.results_dir import REAL

PAGE = "claims.md"
HOLDS, PARTLY, NOT_HERE = "holds", "partly", "does not hold here"
TOO_SHORT = "not judged: trained too short"
NO_GAIN = "not judged: no gain to compare"
ENDS_EARLY = "not judged: DreamBooth's curve ends too early"
# (row, the row that the paper has below it in DINO) -> the claim; Sec. 4.1, main table
ORDER_CLAIMS = {
    ("blip-diffusion-zero-shot", "base"): "Zero-shot generation shows the subject, which the base does not",
    ("blip-diffusion-zero-shot", "textual-inversion"): "Zero-shot is more faithful than Textual Inversion",
    ("blip-diffusion-zero-shot", "re-imagen"): "Zero-shot is about as faithful as Re-Imagen (0.594 against 0.600)",
    ("blip-diffusion-finetuned", "dreambooth-from-base"): "Fine-tuned for 40 to 120 steps, it equals full DreamBooth",
    ("dreambooth-from-base", "blip-diffusion-zero-shot"): "DreamBooth is more faithful than zero-shot",
    ("dreambooth-from-base-300", "dreambooth-from-base-100"): "DreamBooth needs more than 100 steps",
    ("dreambooth-from-base", "dreambooth-from-base-300"): "DreamBooth needs more than 300 steps",
    (REAL, "blip-diffusion-finetuned"): "Real images are still more faithful than the fine-tuned model",
}
# Claimed to be equal
EQUAL = (("blip-diffusion-finetuned", "dreambooth-from-base"), ("blip-diffusion-zero-shot", "re-imagen"))
FIDELITY = ("dino", "identity")
SPEED_UP_OF_PAPER = 20.0  # "up to 20x" fewer fine-tuning steps
# Row of ablations.csv -> the claim, and the metrics that fall by it (Sec. 4.3)
ABLATION_CLAIMS = {
    "without-stage-1": (
        "Without stage 1 the subject is less faithful (DINO 0.521 against 0.566)",
        ("dino", "identity"),
    ),
    "frozen-text-encoder": (
        "With a frozen text encoder less of the prompt is kept (there it is ignored)",
        ("clip_t", "prompt_right"),
    ),
    "without-subject-text": ("Without subject text the subject is less faithful", ("dino", "identity")),
    "without-dropping": ("Without dropping the subject prompt results are worse", ("dino", "identity", "clip_t")),
}
KEPT = {"yes": HOLDS, "undecided": PARTLY, "no": NOT_HERE}


@dataclass(frozen=True)
class Verdict:
    """One claim with one measured figure and its interval, and what follows: HOLDS, PARTLY, NOT_HERE, or why not."""

    claim: str
    metric: str
    figure: str
    verdict: str


def above(difference: float, low: float | None, high: float | None, equal: bool = False) -> str:
    """Whether a difference is above zero: HOLDS where its whole interval is, PARTLY where the interval holds zero,
    NOT_HERE where all of it is below, or where the difference is and no equality was claimed. An equality holds where
    the interval holds zero, and partly where all of it is above.
    """
    if low is None or high is None:
        return PARTLY if difference > 0 or equal else NOT_HERE
    if equal:
        return NOT_HERE if high < 0 else PARTLY if low > 0 else HOLDS
    if low > 0:
        return HOLDS
    return PARTLY if difference > 0 else NOT_HERE


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
                verdict = above(figure.mean, figure.low, figure.high, pair in EQUAL)
                found.append(Verdict(ORDER_CLAIMS[pair], METRIC_TITLES[metric], text, verdict))
    return found


def speed_up_verdicts(frame: pd.DataFrame) -> list[Verdict]:
    """Of steps.csv: up to 20 times fewer steps than DreamBooth from the base, for the score after the headline's steps.
    It holds where the whole interval is at 20 or above, partly where it, or a factor without one, is above 1.
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
        has_interval = not pd.isna(line["low"])
        low = line["low"] if has_interval else line["factor"]
        figure = f"{factor_text(line, ' times')}, for the score after {after}"
        verdict = HOLDS if has_interval and low >= SPEED_UP_OF_PAPER else PARTLY if low > 1 else NOT_HERE
        if verdict == NOT_HERE and pd.isna(line["steps"]):  # the factor is only a lower bound
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
    """Of ablations.csv: each of the paper's four makes something worse; --budget small is too short to judge."""
    found = []
    for line in lines_of(frame):
        claim, metrics = ABLATION_CLAIMS.get(line["row"], ("", ()))
        for metric in metrics:
            if (change := estimate_of(line, f"{metric}_change")) is not None:
                worse = None if change.high is None else -change.high, None if change.low is None else -change.low
                verdict = TOO_SHORT if line.get("budget") == "small" else above(-change.mean, *worse)
                found.append(Verdict(claim, METRIC_TITLES[metric], format_figure(change, signed=True), verdict))
    return found


VERDICTS: dict[str, Callable[[pd.DataFrame], list[Verdict]]] = {
    "table1": order_verdicts,
    "steps": speed_up_verdicts,
    "preservation": preservation_verdicts,
    "ablations": ablation_verdicts,
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
            note = provenance_note(frame[frame["source"] != TRIAL] if name == "steps" else frame)
            note += f" {frame['n_subjects'].max():.0f} subjects." if "n_subjects" in frame else ""
        parts += [f"## {name}", markdown_table(head, lines) if lines else "No claim was measured.", note]
    if missing:
        parts.append(f"Not measured: {', '.join(missing)}.")
    parts.append(
        "A claim holds where the whole 95% interval says so, partly where the figure does but not the whole interval, "
        "and does not hold here otherwise; a claim that two methods are equal holds where the interval holds zero, "
        "partly where it is all above; the speed-up holds where the whole interval is at 20 or above, partly where it "
        "is above 1. Figures of the order are differences, paired over subjects. Figures of the mini world say nothing "
        "of full-size models."
    )
    return "\n\n".join(parts) + "\n"
