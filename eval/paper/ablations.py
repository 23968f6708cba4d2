"""Question 5: what two-stage pre-training does, by leaving out or changing one part of it at a time (Sec. 4.3).

Every ablation is a stage 2 at mini size of the same number of steps, from the same base and the same stage 1; so is
"full", the paper's model again. Each draws zero-shot, and its subject vectors are compared with the words they stand
among.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from safetensors.torch import load_file

from bdkit.checkpoints.load import checkpoint_hash, load_model
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.training.pretraining.autoencoder import encode_corpus
from bdkit.training.pretraining.config import SubjectRepresentationConfig
from bdkit.training.pretraining.corpus import Corpus, build_corpus
from bdkit.training.pretraining.matting import build_mattes
from bdkit.training.pretraining.presets import PRETRAIN, PretrainConfig
from bdkit.training.pretraining.stages import MiniPretraining, new_model, random_backgrounds
from bdkit.training.pretraining.subject_representation import subject_batches, train_subject_representation
from bdkit.utils.env import pick_device
from bdkit.utils.errors import InputError
from bdkit.utils.io import read_json
from eval.experiments import BenchConfig, Row, protocol_of
from eval.generate.run import generate
from eval.paper.alignment import ALIGNMENT, measure_alignment
from eval.paper.config import ReproduceConfig
from eval.paper.results_files import (
    estimate_of,
    lines_of,
    measured_metrics,
    provenance_note,
    provenance_of,
    write_csv,
)
from eval.report.plots import COLOURS, GREY, bars
from eval.report.statistics import interval, subject_means, subject_values
from eval.report.summary import METRIC_TITLES, Results, summarise
from eval.report.tables import format_figure, markdown_table
from eval.results_dir import claimed
from eval.score.encoders import Evaluators
from eval.score.features import default_cache
from eval.score.score import ScoreOptions, score_folder
from eval.score.weights import load_evaluators

PAPER, OURS = "the paper's", "ours"


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """One change to the full model.

    title: what is changed
    source: the paper's or ours
    stage1: start from stage 1's multimodal encoder; without it from random weights beside the same image encoder
    subject: settings in place of those of stage 2
    template: where the subject vectors stand in a prompt
    queries: subject vectors; other numbers than stage 1's take its first ones, and add random ones
    drawing: settings of the method in place of the preset's; with `trained_as`, of a model that is trained already
    """

    title: str
    source: str = OURS
    stage1: bool = True
    subject: Mapping[str, Any] = field(default_factory=dict)
    template: str = "place"
    queries: int | None = None
    drawing: Mapping[str, Any] = field(default_factory=dict)
    trained_as: str = ""


FULL = "full"
ABLATIONS: dict[str, Ablation] = {
    FULL: Ablation(title="The full model", source=PAPER),
    "without-stage-1": Ablation(title="Without stage 1", source=PAPER, stage1=False),
    "frozen-text-encoder": Ablation(title="Text encoder frozen in stage 2", source=PAPER, subject={"text_rate": 0.0}),
    "without-subject-text": Ablation(
        title="No subject text to the multimodal encoder", source=PAPER, subject={"subject_text": False}
    ),
    "without-dropping": Ablation(title="Subject prompt never dropped", source=PAPER, subject={"subject_drop": 0.0}),
    "same-image": Ablation(title="Same image in and out", subject={"same_image": True}),
    "1-query": Ablation(title="1 query", queries=1),
    "4-queries": Ablation(title="4 queries", queries=4),
    "8-queries": Ablation(title="8 queries", queries=8),
    "32-queries": Ablation(title="32 queries", queries=32),
    "paper-template": Ablation(title="The paper's template", template="paper"),
    "public-template": Ablation(title="The public code's template", template="public"),
    "image-encoder-trained": Ablation(title="Image encoder trained in stage 2", subject={"image_encoder_rate": 3e-4}),
    "repeated-5": Ablation(title="Prompt 5 times", drawing={"prompt_reps": 5}, trained_as=FULL),
    "repeated-20": Ablation(title="Prompt 20 times", drawing={"prompt_reps": 20}, trained_as=FULL),
}
METRICS = ("dino", "clip_i", "clip_t", "identity", "prompt_right")
ZERO_SHOT = "blip-diffusion-zero-shot"


@dataclass(frozen=True, kw_only=True)
class AblationBudget:
    """What each training has.

    start_share: of the mini preset's steps for the image encoder and stage 1
    backgrounds: images without a subject, on which cut-outs are blended
    seeds: of the trainings of the paper's ablations; ours have the first
    """

    steps: int
    scenes: int
    mattes: int
    start_share: float
    backgrounds: int
    seeds: tuple[int, ...]
    ours: bool


BUDGETS = {
    "small": AblationBudget(
        steps=60, scenes=2048, mattes=16, start_share=0.05, backgrounds=512, seeds=(0,), ours=False
    ),
    "full": AblationBudget(
        steps=1200, scenes=16_384, mattes=256, start_share=1.0, backgrounds=4096, seeds=(0, 1), ours=True
    ),
}


def run(config: ReproduceConfig) -> Path:
    """Trains, draws and measures, resuming what was begun, and writes OUT/ablations.csv."""
    if unknown := set(config.methods or ()) - set(ABLATIONS):
        raise InputError(f"unknown ablation {sorted(unknown)[0]!r}; known are {', '.join(ABLATIONS)}")
    row = Row(name=ZERO_SHOT, method="blip-diffusion", overrides={"steps": 0})
    out = config.out / config.experiment
    bench = config.bench((row,), model=str(out), methods=None, ground_truth=False)  # the model is trained below
    evaluators = load_evaluators(protocol_of(bench, bench.load_suite()), pick_device())  # before the trainings
    budget, base = BUDGETS[config.budget], config.required_base()
    names = [name for name in ABLATIONS if name == FULL or name in (config.methods or _all_names(budget))]
    laboratory = Laboratory(out, budget, base)
    measured: dict[str, list[pd.DataFrame]] = {}
    provenance: dict[str, Any] = {}
    with claimed(out, {"base": checkpoint_hash(base), "steps": budget.steps, "scenes": budget.scenes}):
        for name in names:
            ablation = ABLATIONS[name]
            for seed in budget.seeds if ablation.source == PAPER else budget.seeds[:1]:
                model = laboratory.train(ablation.trained_as or name, seed)
                rows = (replace(row, overrides={**row.overrides, **ablation.drawing}),)
                ours = replace(bench, rows=rows, model=str(model), out=out / f"{name}-{seed}" / "bench")
                results = draw_and_score(ours, evaluators)
                means = subject_means(results.scores)
                frame = pd.DataFrame({metric: subject_values(means, ZERO_SHOT, metric) for metric in METRICS})
                loaded = load_model(model)
                frame = frame.join(measure_alignment(loaded.to(pick_device()), results.suite, config.photos))
                record = read_json(laboratory.folder(ablation.trained_as or name, seed) / "stage2" / "run.json")
                provenance = provenance_of(results)
                own = {column: provenance[column] for column in ("commit", "device")}
                own |= {"checkpoint": checkpoint_hash(model), "seconds": record["seconds"]}
                own["n_images"] = (results.scores["method"] == ZERO_SHOT).sum() // results.scores["metric"].nunique()
                measured.setdefault(name, []).append(frame.assign(seed=seed, **own))
    frame = ablations_frame(measured).assign(steps=budget.steps, budget=config.budget)
    write_csv(frame, config.csv, provenance)
    return config.csv


def draw_and_score(bench: BenchConfig, evaluators: Evaluators) -> Results:
    """Zero-shot images of a trained model, and their scores."""
    generate(bench)
    score_folder(bench.results_dir, evaluators, photos=bench.photos, options=ScoreOptions(cache=default_cache()))
    return summarise(bench.results_dir)


def _all_names(budget: AblationBudget) -> list[str]:
    return [name for name, ablation in ABLATIONS.items() if budget.ours or ablation.source == PAPER]


class Laboratory:
    """What all trainings share, made when it is first needed: the start, the corpus and its latents.

    Args:
        out: folder of all trainings.
        base: the text-to-image model that every stage 2 starts from.
    """

    def __init__(self, out: Path, budget: AblationBudget, base: str) -> None:
        self.out, self.budget, self.base = out, budget, base
        self.config = pretrain_config(budget)
        self._data: tuple[Corpus, torch.Tensor] | None = None

    def folder(self, name: str, seed: int) -> Path:
        """Of one training."""
        return self.out / f"{name}-{seed}"

    def train(self, name: str, seed: int) -> Path:
        """The folder of an ablation's model, which is trained if it is missing; a stopped training resumes."""
        folder, ablation = self.folder(name, seed), ABLATIONS[name]
        if (folder / "model").exists():
            return folder / "model"
        settings = replace(self.config.subject, **ablation.subject)
        model = self.new_model(ablation, settings, seed)
        corpus, latents = self.data(model)
        training = replace(self.config.subject_representation, seed=seed)
        count = self.budget.mattes
        mattes = build_mattes(corpus.images[:count], corpus.alphas[:count], self.out / "mattes")
        backgrounds = random_backgrounds(self.config.backgrounds, self.config.corpus.seed)
        batches = subject_batches(model, corpus, latents, backgrounds, training, settings, mattes)
        train_subject_representation(
            model, batches, training, settings, folder / "stage2", name=f"{name}, seed {seed}", device=pick_device()
        )
        model.save_pretrained(folder / "model", torch.float16)
        (folder / "stage2" / "checkpoint.pt").unlink(missing_ok=True)
        return folder / "model"

    def new_model(self, ablation: Ablation, settings: SubjectRepresentationConfig, seed: int) -> BlipDiffusion:
        """The base with the multimodal encoder of stage 1, or as much of it as the ablation has."""
        start = MiniPretraining(self.out / "start", self.config)
        start.run(["image-encoder", "stage1"])
        size, base = self.config.model.multimodal, load_model(self.base)
        queries = ablation.queries or size.num_query_tokens
        model = new_model(replace(self.config.model, multimodal=replace(size, num_query_tokens=queries)), seed)
        encoder, stage = model.multimodal_encoder, "stage1" if ablation.stage1 else "image-encoder"
        prefix = "multimodal." if ablation.stage1 else "vision."
        state = {
            key.removeprefix(prefix): value
            for key, value in load_file(self.out / "start" / stage / "weights.safetensors").items()
            if key.startswith(prefix)
        }
        if ablation.stage1:
            first = state["query_tokens"][:, :queries]
            state["query_tokens"] = torch.cat([first, encoder.query_tokens.detach()[:, first.shape[1] :]], dim=1)
            encoder.load_state_dict(state)
        else:
            encoder.vision_model.load_state_dict(state)
        model.vae, model.unet, model.text_encoder = base.vae, base.unet, base.text_encoder
        model.tokenizer, model.scheduler, model.defaults = base.tokenizer, base.scheduler, base.defaults
        model.conventions = replace(model.conventions, template=ablation.template, subject_text=settings.subject_text)
        model.vae.requires_grad_(False)
        return model.to(pick_device())

    def data(self, model: BlipDiffusion) -> tuple[Corpus, torch.Tensor]:
        """The scenes of stage 2 and their latents."""
        if self._data is None:
            corpus = build_corpus(self.config.subject_corpus, self.out / "corpus")
            self._data = corpus, encode_corpus(model.vae, corpus.images)
        return self._data


def pretrain_config(budget: AblationBudget) -> PretrainConfig:
    """The mini pre-training within a budget."""
    mini = PRETRAIN["mini"]

    def shorter(training: Any, steps: int) -> Any:
        return replace(training, steps=max(2, steps), restarts=(), warmup_steps=min(training.warmup_steps, steps // 10))

    return replace(
        mini,
        backgrounds=budget.backgrounds,
        corpus=replace(mini.corpus, scenes=round(mini.corpus.scenes * budget.start_share)),
        subject_corpus=replace(mini.subject_corpus, scenes=budget.scenes),
        image_encoder=shorter(mini.image_encoder, round(mini.image_encoder.steps * budget.start_share)),
        multimodal_representation=shorter(
            mini.multimodal_representation, round(mini.multimodal_representation.steps * budget.start_share)
        ),
        subject_representation=shorter(mini.subject_representation, budget.steps),
    )


def ablations_frame(measured: Mapping[str, Sequence[pd.DataFrame]]) -> pd.DataFrame:
    """A line for each ablation: every metric, the mean over its training seeds, its spread over them and a 95% interval
    over subjects and them; and METRIC_change, the same of the difference from the full model, paired over both.
    """
    lines = []
    for name, by_seed in measured.items():
        ablation, first = ABLATIONS[name], by_seed[0]
        line: dict[str, Any] = {"row": name, "title": ablation.title, "source": ablation.source}
        for metric in [metric for metric in (*METRICS, *ALIGNMENT) if metric in first]:
            values = _values(by_seed, metric)
            line |= _figure(metric, values)
            if name != FULL:
                line |= _figure(f"{metric}_change", values - _values(measured[FULL][: len(by_seed)], metric))
        line |= {"training_seeds": " ".join(str(one["seed"].iloc[0]) for one in by_seed)}
        line |= {"seconds": np.mean([one["seconds"].iloc[0] for one in by_seed]), "n_subjects": len(first)}
        line |= {"n_images": sum(one["n_images"].iloc[0] for one in by_seed)}
        for column in ("checkpoint", "commit", "device"):  # models of one CSV may come from several runs
            line[column] = " ".join(dict.fromkeys(one[column].iloc[0] for one in by_seed))
        lines.append(line)
    return pd.DataFrame(lines)


def _values(by_seed: Sequence[pd.DataFrame], metric: str) -> NDArray[np.float64]:
    """(subjects, training seeds)."""
    return np.stack([one[metric].to_numpy(dtype=np.float64) for one in by_seed], axis=1)


def _figure(name: str, values: NDArray[np.float64]) -> dict[str, float | None]:
    """The columns of a figure, of values (subjects, training seeds)."""
    low, high = interval(values)
    spread = float(values.mean(axis=0).std(ddof=1)) if values.shape[1] > 1 else None
    return {name: float(values.mean()), f"{name}_spread": spread, f"{name}_low": low, f"{name}_high": high}


def table(frame: pd.DataFrame) -> str:
    """The tables as Markdown, from the CSV alone."""
    parts = ["# Ablations of the pre-training"]
    metrics = measured_metrics(frame, METRICS)
    head = ["Model", *(METRIC_TITLES[metric] for metric in metrics)]
    rows = [[line["title"], *(format_figure(estimate_of(line, m)) for m in metrics)] for line in lines_of(frame)]
    parts += ["## Zero-shot", markdown_table(head, rows)]
    changed = frame[frame["row"] != FULL]
    rows = [
        [line["title"], *(format_figure(estimate_of(line, f"{metric}_change"), signed=True) for metric in metrics)]
        for line in lines_of(changed)
    ]
    parts += ["## Against the full model, paired over subjects and training seeds", markdown_table(head, rows)]
    head = ["Model", *ALIGNMENT.values()]
    rows = [[line["title"], *(format_figure(estimate_of(line, m)) for m in ALIGNMENT)] for line in lines_of(frame)]
    parts += ["## Subject vectors among words", markdown_table(head, rows)]
    ours = ", ours with the first" if OURS in set(frame["source"]) else ""
    note = (
        f"Each model is trained for {frame['steps'].iloc[0]} steps of stage 2 from the same base and stage 1; the "
        f"paper's ablations with the training seeds {frame['training_seeds'].iloc[0]}{ours}. ±: standard deviation "
        "over training seeds. In brackets 95% bootstrap intervals over subjects and training seeds."
    )
    return "\n\n".join([*parts, f"{provenance_note(frame)} {note}"]) + "\n"


def plot(frame: pd.DataFrame) -> Figure:
    """The difference of every ablation from the full model, with intervals; filled: the paper's ablations."""
    changed = lines_of(frame[frame["row"] != FULL])[::-1]
    metrics = [metric for metric in METRICS if f"{metric}_change" in frame]
    figure = Figure(figsize=(2.6 + 2.2 * max(1, len(metrics)), 1.4 + 0.3 * len(changed)), layout="constrained")
    panels = figure.subplots(1, max(1, len(metrics)), squeeze=False, sharey=True)[0]
    for axes, metric in zip(panels, metrics, strict=False):
        axes.axvline(0, color=GREY, linewidth=1)
        for place, line in enumerate(changed):
            if (change := estimate_of(line, f"{metric}_change")) is None:
                continue
            face = COLOURS[0] if line["source"] == PAPER else "white"
            style = {"marker": "o", "color": COLOURS[0], "markerfacecolor": face}
            axes.errorbar(change.mean, place, xerr=bars([change]), **style)
        axes.set(title=METRIC_TITLES[metric])
        axes.xaxis.set_major_locator(MaxNLocator(4))
    panels[0].set_yticks(range(len(changed)), [line["title"] for line in changed])
    note = "difference from the full model, 95% intervals over subjects and trainings; filled: the paper's ablations"
    figure.supxlabel(note, fontsize=8)
    return figure
