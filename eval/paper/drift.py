"""Question 4 for fine-tuned models: how far a fit on one subject moves what the model draws for other prompts, and what
the fit costs.

Every fitted model is saved, as a user would save it, loaded again, and asked for prompts without the subject, from the
same noise as the model that it started from.
"""

import gc
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from operator import call
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from bdkit.checkpoints.adapters import load_drawable
from bdkit.checkpoints.load import checkpoint_hash
from bdkit.methods import build_method
from bdkit.utils.env import measured_peak, pick_device
from bdkit.utils.errors import InputError
from bdkit.utils.images import write_png
from bdkit.utils.io import read_json, write_json
from bdkit.utils.progress import progress_bar
from bdkit.utils.seeds import derive_seed
from dreambench.suites import Prompt, Suite, SuiteSubject
from eval.experiments import BASE, Row, protocol_of
from eval.generate.executors import local_processes, one_thread, run_all, workers_of
from eval.generate.references import load_references, photo_hashes
from eval.paper.config import ReproduceConfig
from eval.paper.plain_prompts import Draw, PlainPrompt, in_parts, make_images, plain_draw, suite_prompts
from eval.paper.preservation import BASE_ROW, SUBJECT_MODEL, right
from eval.paper.results_files import estimate_of, lines_of, provenance, provenance_note, row_title, write_csv
from eval.report.grid import spread
from eval.report.plots import COLOURS, GREY, MARKERS, bars, pareto_front
from eval.report.statistics import interval
from eval.report.tables import format_figure, markdown_table
from eval.results_dir import claimed, read_run, record_maker
from eval.score.encoders import Evaluators
from eval.score.metrics import rowwise_cosine
from eval.score.weights import load_evaluators

ROWS = (
    Row(name="blip-diffusion-finetuned", method="blip-diffusion"),
    Row(name="dreambooth-from-base", method="dreambooth", overrides={"start": BASE}),
    Row(name="dreambooth", method="dreambooth"),
    Row(name="dreambooth-lora", method="dreambooth-lora", overrides={"start": BASE}),
    Row(name="textual-inversion", method="textual-inversion", overrides={"start": BASE}),
)
Chosen = Mapping[str, Sequence[PlainPrompt]]
"""The kinds of prompts -> those that a subject's fits are asked for."""
# By budget: subjects that are fitted, prompts of other classes and of the subject's own, and prompts of the subject
COUNTS = {"small": (2, 20, 8, 5), "full": (6, 60, 15, 10)}
OTHER, SAME = "other-classes", "same-class"
KINDS = {OTHER: "other classes", SAME: "the subject's class"}
CHANGES = {"dino_distance": "DINO distance", "clip_t_change": "CLIP-T", "prompt_right_change": "Prompt right"}
CHANGES |= {"likeness_change": "Likeness to the subject"}


def run(config: ReproduceConfig) -> Path:
    """Fits, draws and measures, resuming what was begun, and writes OUT/drift.csv."""
    bench = config.bench(ROWS)
    if own := [row.method for row in bench.chosen_rows if row.is_own]:
        raise InputError(f"drift loads saved fits again, which it cannot of a class of your own; leave {own[0]} out")
    subjects = COUNTS[config.budget][0] if config.subjects is None else config.subjects
    bench = replace(bench, subjects=subjects, seed_sets=bench.seed_sets[:1])
    suite, whole = bench.load_suite(), replace(bench, subjects=None, prompts=None).load_suite()
    protocol = protocol_of(bench, suite)
    starts = {BASE_ROW: config.required_base(), SUBJECT_MODEL: config.model}
    checkpoints = {name: checkpoint_hash(model) for name, model in starts.items()}
    evaluators = load_evaluators(protocol, pick_device())
    out, prompts = bench.results_dir, suite_prompts(whole)
    settings = {"suite": suite.name, "checkpoints": checkpoints, "photos": photo_hashes(suite, config.photos)}
    seed_set, lines = bench.seed_sets[0], []
    fits = [Fit(out, row, subject, seed_set) for row in bench.chosen_rows for subject in suite.subjects]
    chosen = {subject.name: choose_prompts(prompts, subject, config.budget) for subject in suite.subjects}
    wanted = [prompt for prompt in prompts if any(prompt in some for two in chosen.values() for some in two.values())]
    with claimed(out, settings), one_thread():
        for name, model in starts.items():
            draw = partial(_start_drawer, out, model)
            make_images(out / "images" / f"seed{seed_set}" / name, wanted, 1, seed_set, draw)
        make_fits(fits, config, suite, starts, chosen)
        for fit in fits:
            lines += measure_fit(fit, config, suite, evaluators, chosen[fit.subject.name])
    frame = drift_frame(pd.DataFrame(lines)).assign(checkpoint=lambda frame: frame["start"].map(checkpoints))
    write_csv(frame, config.csv, provenance(read_run(out), suite, protocol, (seed_set,)))
    return config.csv


@dataclass(frozen=True)
class Fit:
    """One subject, fitted by one row, and where its files are."""

    out: Path
    row: Row
    subject: SuiteSubject
    seed_set: int

    @property
    def start(self) -> str:
        """The row of the images that the model draws before the fit."""
        return BASE_ROW if self.row.overrides.get("start") else SUBJECT_MODEL

    @property
    def images(self) -> Path:
        """The folder of the fitted model's images."""
        return self.out / "images" / f"seed{self.seed_set}" / self.row.name / self.subject.name

    @property
    def unfitted(self) -> Path:
        """The folder of the same prompts before the fit."""
        return self.images.parents[1] / self.start

    @property
    def record(self) -> Path:
        """What the fit took."""
        return self.out / "fits" / f"{self.row.name}-{self.subject.name}-{self.seed_set}.json"

    @property
    def model(self) -> Path:
        """The saved fit, as long as images are missing."""
        return self.record.with_suffix("")


def choose_prompts(prompts: Sequence[PlainPrompt], subject: SuiteSubject, budget: str) -> Chosen:
    """Prompts of other classes and of the subject's own, spread evenly."""
    same = [prompt for prompt in prompts if prompt.class_noun == subject.class_noun]
    other = [prompt for prompt in prompts if prompt.class_noun != subject.class_noun]
    _, n_other, n_same, _ = COUNTS[budget]
    return {OTHER: spread(other, n_other), SAME: spread(same, n_same)}


def _drawer(model: str | Path) -> Draw:
    loaded = load_drawable(model)
    loaded.to(pick_device())
    return plain_draw(loaded)


def _start_drawer(out: Path, model: str) -> Draw:
    record_maker(out)
    return _drawer(model)


def make_fits(
    fits: Sequence[Fit],
    config: ReproduceConfig,
    suite: Suite,
    starts: Mapping[str, str],
    chosen: Mapping[str, Chosen],
) -> None:
    """Makes what is missing, in as many processes as suit the machine, each on one thread."""
    todo = []
    for fit in fits:
        own = _own_prompts(fit, config, suite)
        wanted = [prompt for some in chosen[fit.subject.name].values() for prompt in some]
        if not all(path.exists() for path in (fit.record, *own.values(), *_paths(fit.images, wanted))):
            todo.append(partial(make_fit, fit, config, suite, starts[fit.start], own, wanted))
        else:
            shutil.rmtree(fit.model, ignore_errors=True)  # a killed run left it
    if todo:
        record_maker(fits[0].out)
    workers = min(config.workers or workers_of(config.model), len(todo))
    with (
        progress_bar(total=len(fits), initial=len(fits) - len(todo), desc="drift", unit=" fits") as bar,
        local_processes(workers) if workers > 1 else nullcontext() as executor,
    ):
        for _ in run_all(executor, call, todo) if executor else map(call, todo):
            bar.update()


def make_fit(
    fit: Fit,
    config: ReproduceConfig,
    suite: Suite,
    start: str,
    own: Mapping[Prompt, Path],
    wanted: Sequence[PlainPrompt],
) -> None:
    """Fits, saves and draws what is missing; in the end the saved fit is removed."""
    if not (fit.record.exists() and fit.model.exists() and all(path.exists() for path in own.values())):
        _fit_and_save(fit, config, suite, start, own)
    make_images(fit.images, wanted, 1, fit.seed_set, partial(_drawer, fit.model), show_progress=False)
    shutil.rmtree(fit.model)


def _paths(folder: Path, prompts: Sequence[PlainPrompt]) -> list[Path]:
    """The images that `make_images` makes, one a prompt."""
    return [folder / f"{prompt.name}-0.png" for prompt in prompts]


def _own_prompts(fit: Fit, config: ReproduceConfig, suite: Suite) -> dict[Prompt, Path]:
    """Prompts of the subject itself, and the images that tell how well it was learned."""
    prompts = spread(suite.prompts(fit.subject), COUNTS[config.budget][3])
    return {prompt: fit.images / f"subject-{prompt.index:02d}.png" for prompt in prompts}


def _fit_and_save(fit: Fit, config: ReproduceConfig, suite: Suite, start: str, own: Mapping[Prompt, Path]) -> None:
    row, subject = fit.row, fit.subject
    shutil.rmtree(fit.model, ignore_errors=True)
    fit.record.unlink(missing_ok=True)
    overrides = {**row.overrides, "start": start} if row.overrides.get("start") else row.overrides
    method = build_method(row.method, config.model, **overrides)
    references = load_references(suite, subject, config.photos)
    seed = derive_seed("fit", suite.name, row.group, subject.name, fit.seed_set)
    with measured_peak() as peak:
        started = time.monotonic()
        method.fit(references, subject.class_noun, seed)
        seconds = time.monotonic() - started
    method.save(fit.model)
    for prompt, path in own.items():
        (image,) = method.generate(
            prompt.template, subject.class_noun, [derive_seed("drift", subject.name, prompt.index, fit.seed_set)]
        )
        write_png(image, path)
    saved = sum(path.stat().st_size for path in fit.model.rglob("*") if path.is_file())
    steps = method.settings.get("steps")
    write_json({"seconds": seconds, "peak_gib": peak[0], "saved_bytes": saved, "steps": steps}, fit.record)
    del method
    gc.collect()


def measure_fit(
    fit: Fit,
    config: ReproduceConfig,
    suite: Suite,
    evaluators: Evaluators,
    chosen: Chosen,
) -> list[dict[str, Any]]:
    """A line for each kind of prompts: the mean changes of this fit, and what it took."""
    dino, clip = evaluators.encoders["dino"], evaluators.encoders["clip"]
    references = dino.embed_images(load_references(suite, fit.subject, config.photos)).astype(np.float64)
    subject = in_parts([*_own_prompts(fit, config, suite).values()], dino.embed_images) @ references.T
    record, lines = read_json(fit.record), []
    for kind, prompts in chosen.items():
        sides: list[dict[str, NDArray[Any]]] = []
        texts = clip.embed_texts([prompt.text for prompt in prompts])
        for folder in (fit.images, fit.unfitted):
            paths = _paths(folder, prompts)
            side: dict[str, NDArray[Any]] = {"dino": in_parts(paths, dino.embed_images).astype(np.float64)}
            side["clip_t"] = rowwise_cosine(in_parts(paths, clip.embed_images), texts)
            side["likeness"] = (side["dino"] @ references.T).mean(axis=1)
            if evaluators.classifier is not None and prompts[0].expected:
                side |= right(in_parts(paths, evaluators.classifier.embed_images), prompts)
            sides.append(side)
        fitted, before = sides
        changes = {f"{name}_change": np.nanmean(fitted[name] - before[name]) for name in fitted if name != "dino"}
        distance = 1 - rowwise_cosine(fitted["dino"], before["dino"])
        lines.append(
            {
                "row": fit.row.name,
                "prompts": kind,
                "start": fit.start,
                "subject": fit.subject.name,
                "dino_distance": distance.mean(),
                **changes,
                "dino": subject.mean(),
                "seconds": record["seconds"],
                "peak_gib": record["peak_gib"],
                "saved_mib": record["saved_bytes"] / 2**20,
                "steps": record["steps"],
                "n_images": len(prompts),
            }
        )
    return lines


def drift_frame(lines: pd.DataFrame) -> pd.DataFrame:
    """A line for each row and kind of prompts: means over subjects of the changes and of the subject's own DINO, with
    95% intervals over subjects; medians of seconds and MiB, the largest peak.
    """
    frame = []
    for (row, kind, start), part in lines.groupby(["row", "prompts", "start"], sort=False):
        line: dict[str, Any] = {"row": row, "prompts": kind, "start": start}
        for name in [name for name in (*CHANGES, "dino") if name in part]:
            low, high = interval(part[name].to_numpy())
            line |= {name: part[name].mean(), f"{name}_low": low, f"{name}_high": high}
        line |= {name: part[name].median() for name in ("seconds", "saved_mib")}
        line |= {"peak_gib": part["peak_gib"].max(), "steps": part["steps"].iloc[0]}
        frame.append(line | {"n_subjects": len(part), "n_images": part["n_images"].sum()})
    return pd.DataFrame(frame)


def table(frame: pd.DataFrame) -> str:
    """The tables as Markdown, from the CSV alone."""
    parts = ["# How far a fit moves what the model draws for other prompts"]
    for kind, lines in frame.groupby("prompts", sort=False):
        names = [name for name in CHANGES if name in lines and lines[name].notna().any()]
        head = ["Method", *(CHANGES[name] for name in names), "DINO of the subject", "Steps", "Seconds"]
        head += ["Peak GiB", "Saved MiB"]
        rows = []
        for line in lines_of(lines):
            cells = [format_figure(estimate_of(line, name), signed=name.endswith("_change")) for name in names]
            cells += [format_figure(estimate_of(line, "dino")), f"{line['steps']:.0f}", f"{line['seconds']:.1f}"]
            rows.append([row_title(line["row"]), *cells, f"{line['peak_gib']:.2f}", f"{line['saved_mib']:.2f}"])
        each = lines["n_images"].iloc[0] // lines["n_subjects"].iloc[0]
        heading = f"## Prompts of {KINDS[str(kind)]} ({lines['n_subjects'].iloc[0]} subjects, {each} images each)"
        parts += [heading, markdown_table(head, rows)]
    note = (
        "Each fitted model is asked for prompts without its subject, from the same noise as the model it started from. "
        "DINO distance: 1 - cosine of the two images; the others: the fitted model's score minus that before the fit. "
        "Likeness: DINO with the subject's references. In brackets 95% bootstrap intervals over subjects."
    )
    return "\n\n".join([*parts, f"{provenance_note(frame)} {note}"]) + "\n"


def plot(frame: pd.DataFrame) -> Figure:
    """Drift on prompts of other classes against what is gained and what it costs, each with its Pareto front."""
    lines = lines_of(frame[frame["prompts"] == OTHER])
    costs = {"seconds": "seconds of the fit", "peak_gib": "peak memory, GiB", "saved_mib": "saved, MiB"}
    figure = Figure(figsize=(13.0, 3.9), layout="constrained")
    panels, names = figure.subplots(1, 1 + len(costs), sharey=True), [row.name for row in ROWS]
    for axes, (name, title) in zip(panels, {"dino": "DINO of the subject", **costs}.items(), strict=True):
        better = -1 if name == "dino" else 1  # a fit should show its subject, and cost little
        points = {line["row"]: (better * line[name], -line["dino_distance"]) for line in lines}
        front = [(better * points[row][0], -points[row][1]) for row in pareto_front(points)]
        axes.plot(*zip(*front, strict=True), color=GREY, linewidth=1, zorder=0)
        for line in lines:
            number = names.index(line["row"])
            figure_of = estimate_of(line, "dino_distance")
            if figure_of is None:
                raise ValueError(f"{line['row']} has no dino_distance")
            axes.errorbar(
                line[name], figure_of.mean, yerr=bars([figure_of]), label=row_title(line["row"]),
                color=COLOURS[number], marker=MARKERS[number], linestyle="none",
            )  # fmt: skip
        axes.set(xlabel=title, xscale="log" if name in ("seconds", "saved_mib") else "linear")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        if name == "seconds":
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        if name == "peak_gib":
            axes.set_xlim(0, 1.1 * max(line[name] for line in lines))
    panels[0].set(ylabel="DINO distance from the unfitted model")
    figure.supxlabel("95% intervals over subjects; grey: no other fit is better in both", fontsize=8)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(lines), fontsize=8)
    return figure
