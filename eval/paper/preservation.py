"""Question 4: what the subject model keeps of the base's own abilities, on prompts without a subject (Sec. 3.2).

The base, the subject model without subject vectors and, on the suite's prompts, with them; all from the same noise.
Where `bdkit reproduce ablations` has trained a model without dropping the subject prompt, and the full model for as
long, both stand beside them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bdkit.checkpoints.adapters import load_start
from bdkit.checkpoints.load import checkpoint_hash
from bdkit.models.blip_diffusion import require_blip_diffusion
from bdkit.utils.env import pick_device
from dreambench.suites import Suite, SuiteSubject
from eval.experiments import Row, protocol_of
from eval.generate.executors import one_thread
from eval.generate.references import load_references, photo_hashes
from eval.paper.config import ReproduceConfig
from eval.paper.plain_prompts import (
    CAPTION,
    SUITE,
    Draw,
    PlainPrompt,
    caption_prompts,
    in_parts,
    make_images,
    plain_draw,
    render_scenes,
    suite_prompts,
)
from eval.paper.results_files import (
    estimate_of,
    lines_of,
    measured_metrics,
    provenance,
    provenance_note,
    write_csv,
)
from eval.report.plots import COLOURS, GREY, MARKERS, bars
from eval.report.statistics import interval, ratio_interval
from eval.report.tables import NOT_MEASURED, format_figure, markdown_table
from eval.results_dir import claimed, read_run, record_maker
from eval.score.encoders import Evaluators, split_outputs
from eval.score.frechet import frechet_distance, frechet_features
from eval.score.metrics import rowwise_cosine
from eval.score.weights import load_evaluators

FloatArray = NDArray[np.float64]
CAPTIONS = {"small": 250, "full": 1000}  # of scenes of the mini world, by budget
BASE_ROW, SUBJECT_MODEL, WITH_SUBJECT, WORLD = "base", "subject-model", "subject-model-with-subject", "mini-world"
TITLES = {
    BASE_ROW: "Base",
    SUBJECT_MODEL: "Subject model, no subject",
    WITH_SUBJECT: "Subject model, with a subject",
    "full": "Ablations' full model, no subject",
    "without-dropping": "Trained without dropping, no subject",
    WORLD: "The mini world's own images",
}
TRAINED = ("full", "without-dropping")  # of the ablations, those of the first training seed
METRICS = {"clip_t": "CLIP-T", "prompt_right": "Prompt right", "class_right": "Class right"}
KINDS = {SUITE: "the suite's prompts", CAPTION: "captions", "all": "both"}
BAR = 0.02  # the share of the base's score that may be lost
RESAMPLES = 100  # for the interval of a difference of Fréchet distances


def run(config: ReproduceConfig) -> Path:
    """Draws and measures the plain images, resuming what was begun, and writes OUT/preservation.csv."""
    bench = config.bench((Row(name=BASE_ROW, method="base"),), methods=None)
    suite, out = bench.load_suite(), bench.results_dir
    protocol = protocol_of(bench, suite)
    models = {BASE_ROW: config.required_base(), SUBJECT_MODEL: config.model, WITH_SUBJECT: config.model}
    trained = {row: config.out / "ablations" / f"{row}-0" / "model" for row in TRAINED}
    models |= {row: str(folder) for row, folder in trained.items() if folder.exists()}
    checkpoints = {row: checkpoint_hash(model) for row, model in models.items()}
    evaluators = load_evaluators(protocol, pick_device())  # before the images, not after
    subjects = {noun: subject.name for noun, subject in _firsts(suite).items()}
    settings = {"suite": bench.suite, "checkpoints": checkpoints, "subjects": subjects}
    settings["photos"] = photo_hashes(suite, config.photos)  # before the images, not after
    captions = caption_prompts(str(suite.split), CAPTIONS[config.budget]) if suite.source == "procedural" else []
    prompts = {SUITE: suite_prompts(suite), CAPTION: captions}
    samples = {SUITE: suite.samples_per_prompt, CAPTION: 1}
    sets: dict[tuple[str, str], ImageSet] = {}
    with claimed(out, settings), one_thread():
        for row, model in models.items():
            for kind in KINDS if row != WITH_SUBJECT else (SUITE,):
                if not prompts.get(kind):
                    continue
                paths = []
                for seed_set in bench.seed_sets:
                    folder = out / "images" / f"seed{seed_set}" / row
                    draw = _drawer(out, config, model, suite if row == WITH_SUBJECT else None)
                    paths += make_images(folder, prompts[kind], samples[kind], seed_set, draw)
                sets[row, kind] = measure(evaluators, prompts[kind], paths)
        if captions:
            count = len(captions) * len(bench.seed_sets)
            paths = render_scenes(out / "images" / WORLD, str(suite.split), len(captions), reference=False)
            sets[WORLD, CAPTION] = measure(evaluators, captions, paths)
            paths = render_scenes(out / "references", str(suite.split), count, reference=True)
            reference = in_parts(paths, lambda images: frechet_features(evaluators.encoders["dino"], images))
        else:
            reference = None
    frame = preservation_frame(sets, reference, checkpoints)
    write_csv(frame, config.csv, provenance(read_run(out), suite, protocol, bench.seed_sets))
    return config.csv


def _firsts(suite: Suite) -> dict[str, SuiteSubject]:
    """Class noun -> the first subject of it."""
    return {subject.class_noun: subject for subject in reversed(suite.subjects)}


def _drawer(out: Path, config: ReproduceConfig, model: str, suite: Suite | None) -> Callable[[], Draw]:
    """What loads a model and draws with it; of a suite, with the first subject of each class noun."""

    def load() -> Draw:
        record_maker(out)
        loaded = load_start(model)
        loaded.to(pick_device())
        if suite is None:
            return plain_draw(loaded)
        encoder = require_blip_diffusion(loaded)
        return plain_draw(
            loaded,
            {
                noun: encoder.mean_subjects(load_references(suite, subject, config.photos), noun)
                for noun, subject in _firsts(suite).items()
            },
        )

    return load


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """What one row's images of one kind of prompt score.

    values: metric -> (P,), of each prompt the mean over its images; NaN where it is not defined
    features: (n, d) for the Fréchet distance, prompt after prompt within a seed set
    """

    values: dict[str, FloatArray]
    features: FloatArray


def measure(evaluators: Evaluators, prompts: Sequence[PlainPrompt], paths: Sequence[Path]) -> ImageSet:
    """Scores images: of each seed set, and each prompt in it, equally many."""
    samples = _samples(prompts, paths)
    of = np.tile(np.repeat(np.arange(len(prompts)), samples), len(paths) // (samples * len(prompts)))
    clip = evaluators.encoders["clip"]
    texts = clip.embed_texts([prompt.text for prompt in prompts])
    scores = {"clip_t": rowwise_cosine(in_parts(paths, clip.embed_images), texts[of])}
    if evaluators.classifier is not None and prompts[0].expected:
        scores |= right(in_parts(paths, evaluators.classifier.embed_images), [prompts[k] for k in of])
    features = in_parts(paths, lambda images: frechet_features(evaluators.encoders["dino"], images))
    means = {name: np.array([values[of == k].mean() for k in range(len(prompts))]) for name, values in scores.items()}
    return ImageSet(values=means, features=features)


def _samples(prompts: Sequence[PlainPrompt], paths: Sequence[Path]) -> int:
    """Images of one prompt that follow one another."""
    first = paths[0].name.rpartition("-")[0]
    return next((k for k, path in enumerate(paths) if path.name.rpartition("-")[0] != first), len(paths))


def right(rows: FloatArray, prompts: Sequence[PlainPrompt]) -> dict[str, FloatArray]:
    """class_right and prompt_right (n,): whether the classifier finds the class, and what else the prompt names; NaN
    where it names nothing else.
    """
    best = {name: values.argmax(axis=1) for name, values in split_outputs(rows.astype(np.float32)).items()}
    found = [[float(best[output][k] == index) for output, index in one.expected] for k, one in enumerate(prompts)]
    return {
        "class_right": np.array([one[0] for one in found]),
        "prompt_right": np.array([min(one[1:], default=np.nan) for one in found]),
    }


def preservation_frame(
    sets: Mapping[tuple[str, str], ImageSet], reference: FloatArray | None, checkpoints: Mapping[str, str]
) -> pd.DataFrame:
    """A line for each row and kind of prompts: every metric with its 95% interval over prompts; its change against the
    base as a share of the base's, paired over prompts, with an interval, and whether at most `BAR` is lost: "yes" or
    "no" where the whole interval says so, else "undecided". And the Fréchet distance to the reference, without one to
    the base's images.
    """
    lines = []
    for kind in KINDS:
        kinds = (SUITE, CAPTION) if kind == "all" else (kind,)
        bases = [sets[BASE_ROW, one] for one in kinds if (BASE_ROW, one) in sets]
        for row in TITLES:
            parts = [sets[row, one] for one in kinds if (row, one) in sets]
            if not parts or len(parts) != len(bases) or (kind == "all" and len(parts) == 1):
                continue
            line: dict[str, Any] = {"row": row, "prompts": kind, "checkpoint": checkpoints.get(row, "")}
            line |= {"n_prompts": 0, "n_images": sum(len(part.features) for part in parts)}
            for metric in METRICS:
                if metric in parts[0].values:
                    values, base = (np.concatenate([one.values[metric] for one in some]) for some in (parts, bases))
                    line["n_prompts"] = max(line["n_prompts"], len(values))
                    line |= compare(metric, values, base, is_base=row == BASE_ROW)
            if kind != "all":
                line |= _frechet(row, parts[0], bases[0], reference if kind == CAPTION else None)
            lines.append(line)
    return pd.DataFrame(lines)


def compare(metric: str, values: FloatArray, base: FloatArray, *, is_base: bool) -> dict[str, Any]:
    """The columns of one metric: METRIC, _low, _high and, against the base, METRIC_change, _low, _high, METRIC_kept."""
    defined = ~np.isnan(values) & ~np.isnan(base)
    values, base = values[defined], base[defined]
    low, high = interval(values)
    columns: dict[str, Any] = {metric: values.mean(), f"{metric}_low": low, f"{metric}_high": high}
    if is_base or base.mean() <= 0:
        return columns
    with np.errstate(divide="ignore", invalid="ignore"):  # some resamples hold no image of the base that scores
        ratios = ratio_interval(values, base)
    ends = [None if end is None or not np.isfinite(end) else end - 1 for end in ratios]
    columns |= {f"{metric}_change": values.mean() / base.mean() - 1}
    columns |= {f"{metric}_change_low": ends[0], f"{metric}_change_high": ends[1]}
    return columns | {f"{metric}_kept": kept(ends[0], ends[1])}


def kept(low: float | None, high: float | None) -> str:
    """Whether at most `BAR` is lost, by the interval of the change."""
    if low is None or high is None or low < -BAR <= high:
        return "undecided"
    return "yes" if low >= -BAR else "no"


def _frechet(row: str, part: ImageSet, base: ImageSet, reference: FloatArray | None) -> dict[str, Any]:
    """The columns of the Fréchet distance; the interval of its change resamples images, those of the same noise
    together. One image has no distance.
    """
    if min(len(part.features), len(base.features)) < 2:
        return {}
    if reference is None:
        if row in (BASE_ROW, WORLD):
            return {}
        return {"frechet": frechet_distance(part.features, base.features), "frechet_to": BASE_ROW}
    ours, other = part.features, base.features
    columns: dict[str, Any] = {"frechet": frechet_distance(ours, reference), "frechet_to": WORLD}
    if row == BASE_ROW or len(ours) != len(other):
        return columns
    rng, changes = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        chosen, theirs = (rng.integers(len(one), size=len(one)) for one in (ours, reference))
        first, second = (frechet_distance(one[chosen], reference[theirs]) for one in (ours, other))
        changes.append(first - second)
    low, high = np.percentile(changes, [2.5, 97.5])
    columns |= {"frechet_change": columns["frechet"] - frechet_distance(other, reference)}
    return columns | {"frechet_change_low": low, "frechet_change_high": high}


def table(frame: pd.DataFrame) -> str:
    """The table as Markdown, from the CSV alone."""
    metrics = measured_metrics(frame, list(METRICS))
    parts = ["# What the subject model keeps of its base"]
    for kind, lines in frame.groupby("prompts", sort=False):
        head = ["Row"] + [part for metric in metrics for part in (METRICS[metric], f"Change; at most {BAR:.0%} lost")]
        head += ["Fréchet distance", "Change"]
        rows = [[TITLES[line["row"]], *_cells(line, metrics)] for line in lines_of(lines)]
        parts += [f"## On {KINDS[str(kind)]} ({lines['n_prompts'].max()} texts)", markdown_table(head, rows)]
    note = (
        "In brackets 95% bootstrap intervals over texts. Change: the share of the base's score that is gained or lost, "
        "paired over texts, both models drawing from the same noise. The Fréchet distance (the protocol's DINO, less "
        "is better) is to as many images of the mini world's own, where there are captions, else to the base's "
        "images. Its interval resamples images."
    )
    return "\n\n".join([*parts, f"{provenance_note(frame)} {note}"]) + "\n"


def _cells(line: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
    cells = []
    for metric in metrics:
        cells += [format_figure(estimate_of(line, metric)), _change(line, metric)]
    number = line.get("frechet")
    cells.append(NOT_MEASURED if number is None or pd.isna(number) else f"{number:.2f}")
    change = estimate_of(line, "frechet_change")
    cells.append(NOT_MEASURED if change is None else f"{change.mean:+.2f} [{change.low:+.2f}, {change.high:+.2f}]")
    return cells


def _change(line: Mapping[str, Any], metric: str) -> str:
    change = estimate_of(line, f"{metric}_change")
    if change is None:
        return NOT_MEASURED
    ends = "" if change.low is None or change.high is None else f" [{change.low:+.1%}, {change.high:+.1%}]"
    return f"{change.mean:+.1%}{ends}; {line[f'{metric}_kept']}"


def plot(frame: pd.DataFrame) -> Figure:
    """The change of every metric against the base in percent, with intervals; dashed: what may be lost."""
    changed = frame[~frame["row"].isin([BASE_ROW, WORLD])]
    metrics = [metric for metric in METRICS if f"{metric}_change" in changed]
    figure = Figure(figsize=(3.2 * len(metrics) + 1.6, 1.6 + 0.36 * len(changed)), layout="constrained")
    panels = figure.subplots(1, max(1, len(metrics)), squeeze=False, sharey=True)[0]
    lines = lines_of(changed)
    for axes, metric in zip(panels, metrics, strict=False):
        axes.axvline(0, color=GREY, linewidth=1)
        axes.axvline(-BAR, color=GREY, linestyle="--", linewidth=1)
        axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g}")
        for place, line in enumerate(reversed(lines)):
            number = list(TITLES).index(line["row"])
            if (change := estimate_of(line, f"{metric}_change")) is not None:
                style = {"marker": MARKERS[number], "color": COLOURS[number]}
                axes.errorbar(change.mean, place, xerr=bars([change]), **style)
        axes.set(title=METRICS[metric], xlabel="change against the base, %")
    names = [f"{TITLES[line['row']]}: {KINDS[line['prompts']]}" for line in reversed(lines)]
    panels[0].set_yticks(range(len(lines)), names)
    figure.supxlabel("95% intervals, paired over prompts; dashed: what may be lost", fontsize=8)
    return figure
