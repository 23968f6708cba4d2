"""Do the metrics mean what they should? In the mini world, where the truth is known."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import pandas as pd
from PIL import Image
from tqdm import tqdm

from bdkit.miniworld.scenes import scene_for_prompt
from bdkit.miniworld.subjects import Subject, generator, sample_subject
from bdkit.utils.config import add_dataclass_arguments, config_from_args
from bdkit.utils.env import commit, device_name, library_versions, pick_device
from bdkit.utils.errors import InputError
from bdkit.utils.io import write_json, write_text
from dreambench.registry import load_suite
from dreambench.suites import Prompt
from studies.metric_validity.measures import MEASURED, TARGETS, YARDSTICKS, Judged, Measurer
from studies.metric_validity.mini_damage import (
    DAMAGES,
    STRENGTHS,
    Case,
    Shown,
    between,
    identity_distance,
    make_case,
    obeys,
    reference_scenes,
    show,
)
from studies.metric_validity.study import correlations, correlations_within, method_correlations, reactions, verdicts

# how far the individual is from the subject, 0 to 1
STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)
SAMPLES = 4
IMAGES_CSV = "pictures.csv"
CORRELATIONS_CSV = "correlations.csv"
REACTIONS_CSV = "reactions.csv"
VERDICTS_CSV = "verdicts.csv"
RUN_JSON = "run.json"


@dataclass(frozen=True, kw_only=True)
class ValidityConfig:
    """A study of the metrics.

    out: folder for the tables
    subjects: only so many of the suite's 30 held-out subjects, spread evenly
    cases: undamaged images a subject, each damaged in every way
    seed: other images of the same subjects
    """

    out: Path = Path("results/metric-validity")
    subjects: int | None = None
    cases: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Results:
    """The tables of a study. pictures: one row each, with the truth and every metric's value."""

    pictures: pd.DataFrame
    correlations: pd.DataFrame
    reactions: pd.DataFrame
    verdicts: pd.DataFrame
    run: dict[str, Any]


def validate_metrics(config: ValidityConfig, show_progress: bool = True) -> Results:
    """Draws the images, measures them with the shipped mini evaluators, and writes the tables and run.json to OUT.

    Raises InputError for settings that leave nothing to measure, and where the evaluators are not there.
    """
    started = monotonic()
    study = Study(config)
    bar = tqdm(study.suite.subjects, desc="measuring", unit=" subjects", disable=not show_progress, dynamic_ncols=True)
    rows = [row for number, _ in enumerate(bar) for row in study.measure(number)]
    return summarise(study, pd.DataFrame(rows), monotonic() - started)


class Study:
    """The subjects of a study, their references measured.

    Raises InputError for settings that leave nothing to measure, and where the evaluators are not there.
    """

    def __init__(self, config: ValidityConfig) -> None:
        if config.cases < 1 or config.seed < 0:
            raise InputError("--cases must be at least 1 and --seed at least 0")
        self.config = config
        self.suite = load_suite("mini").limited(config.subjects)
        if len(self.suite.subjects) < 2:
            raise InputError("intervals need at least 2 subjects; give --subjects 2 or more")
        # the individuals that `bdkit bench mini` draws
        self.individuals = [
            sample_subject(subject.class_noun, key=f"test/0/{subject.name}", split="test")
            for subject in self.suite.subjects
        ]
        self.references = [
            reference_scenes(individual, subject.n_references, config.seed)
            for individual, subject in zip(self.individuals, self.suite.subjects, strict=True)
        ]
        self.measurer = Measurer(self.suite, pick_device())
        self.measurer.add_references([[_judged(show(scene)) for scene in own] for own in self.references])

    def measure(self, number: int) -> list[dict[str, Any]]:
        """One row for each image of the suite's subject `number`: what it is, its truth, every metric's value."""
        subject, individual = self.suite.subjects[number], self.individuals[number]
        prompts = self.suite.prompts(subject)
        key = f"{self.config.seed}/{subject.name}"
        cases = _cases(individual, prompts, self.references[number], self.config.cases, key)
        shown = [*drifting(individual, prompts, number, key), *damaged(cases), *repeated(individual, prompts, key)]
        values = self.measurer.measure(number, [item.judged for item in shown])
        return [
            {"subject": subject.name, **item.facts, **measured} for item, measured in zip(shown, values, strict=True)
        ]


@dataclass(frozen=True)
class Labelled:
    """An image for the measurer, and its row's first columns."""

    judged: Judged
    facts: dict[str, Any]


def drifting(subject: Subject, prompts: tuple[Prompt, ...], number: int, key: str) -> Iterator[Labelled]:
    """For every prompt an image that obeys it and one that does not, each of an individual 0 to 1 of the way to a
    stranger: over a subject's prompts every step occurs equally often, whether the prompt is obeyed or not.
    """
    stranger = sample_subject(subject.class_noun, f"drift {key}", "test")
    for place, prompt in enumerate(prompts):
        rng = generator("drift", key, prompt.index)
        for true_prompt in (1, 0):
            step = STEPS[(place + number + 2 * true_prompt) % len(STEPS)]
            individual = between(subject, stranger, step)
            template = prompt.template if true_prompt else prompts[int(rng.integers(len(prompts)))].template
            scene = scene_for_prompt(individual, template, int(rng.integers(2**31)))
            while obeys(scene, prompt.template) != bool(true_prompt):
                template = prompts[int(rng.integers(len(prompts)))].template
                scene = scene_for_prompt(individual, template, int(rng.integers(2**31)))
            identity = 1 - identity_distance(subject, individual)
            picture = show(scene)
            judged = _judged(picture, prompt)
            yield Labelled(
                judged,
                {**_facts("drift", prompt, replace(picture, identity=identity, place=true_prompt)), "step": step},
            )


def damaged(cases: list[tuple[Prompt, Case]]) -> Iterator[Labelled]:
    """Every case undamaged, then in every damage and strength."""
    for number, (prompt, case) in enumerate(cases):
        whole = show(case.scene)
        for damage, strength in [("none", 0.0), *((name, strength) for name in DAMAGES for strength in STRENGTHS)]:
            found = whole if damage == "none" else DAMAGES[damage](case, strength)
            facts = _facts("damage", prompt, found)
            judged = _judged(found, prompt, source=whole)
            yield Labelled(judged, {**facts, "case": number, "damage": damage, "strength": strength})


def repeated(subject: Subject, prompts: tuple[Prompt, ...], key: str) -> Iterator[Labelled]:
    """SAMPLES images of one prompt, of which more and more repeat the first."""
    rng = generator("repeated", key)
    prompt = prompts[int(rng.integers(10))]
    samples = [show(scene_for_prompt(subject, prompt.template, seed)) for seed in range(SAMPLES)]
    for copies in range(SAMPLES):
        strength = copies / (SAMPLES - 1)
        for number, sample in enumerate(samples):
            judged = _judged(samples[0] if number <= copies else sample, prompt, group=copies)
            facts = _facts("samples", prompt, sample)
            damage = "samples repeated" if copies else "none"
            yield Labelled(judged, {**facts, "case": 1000 + number, "damage": damage, "strength": strength})


def run(args: argparse.Namespace) -> int:
    """Runs the study and prints what the paper's three metrics make of each damage."""
    config = config_from_args(ValidityConfig, args)
    results = validate_metrics(config)
    shown = results.verdicts[results.verdicts["metric"].isin(["dino", "clip_i", "clip_t"])]
    print(shown.pivot(index="damage", columns="metric", values="verdict").reindex(list(DAMAGES)).to_string())
    print(f"The tables are in {config.out}: {CORRELATIONS_CSV}, {REACTIONS_CSV}, {VERDICTS_CSV}, {IMAGES_CSV}.")
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `ValidityConfig`."""
    add_dataclass_arguments(parser, ValidityConfig)


def read_results(out: Path) -> Results:
    """The tables that `validate_metrics` wrote. Raises InputError where one is missing or damaged."""
    names = (IMAGES_CSV, CORRELATIONS_CSV, REACTIONS_CSV, VERDICTS_CSV)
    try:
        tables = [pd.read_csv(out / name) for name in names]
        record = json.loads((out / RUN_JSON).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{out} holds no whole study ({error}); run the study with --out {out}") from error
    pictures, correlations, reactions, verdicts = tables
    return Results(pictures, correlations, reactions, verdicts, record)


def _cases(
    subject: Subject, prompts: tuple[Prompt, ...], references: list[Any], count: int, key: str
) -> list[tuple[Prompt, Case]]:
    """Prompts that name a place, so that a background can be right or wrong."""
    places = [prompt for prompt in prompts if prompt.kind == "context"]
    if count > len(places):
        raise InputError(f"{count} cases a subject are more than its {len(places)} prompts with a place")
    chosen = generator("cases", key).permutation(len(places))[:count]
    return [(places[i], make_case(subject, places[i].template, references, f"{key}/{i}")) for i in chosen]


def _facts(part: str, prompt: Prompt, shown: Shown) -> dict[str, Any]:
    return {
        "part": part,
        "kind": prompt.kind,
        "prompt": prompt.index,
        "true_identity": shown.identity,
        "true_prompt": shown.prompt,
        "true_place": shown.place,
    }


def _judged(
    shown: Shown, prompt: Prompt | None = None, source: Shown | None = None, group: int | None = None
) -> Judged:
    return Judged(
        image=Image.fromarray(shown.image),
        alpha=shown.alpha,
        prompt=prompt,
        group=group,
        source=None if source is None else (source.image, source.alpha),
    )


def summarise(study: Study, pictures: pd.DataFrame, seconds: float) -> Results:
    """The tables from all images' rows, written to OUT with run.json."""
    config = study.config
    metrics = [name for name in MEASURED if name in pictures]
    drift = pictures[pictures["part"] == "drift"].copy()
    drift["true_fraction"] = 1 - drift["step"]
    single = [name for name in metrics if drift[name].notna().any()]
    related = pd.concat(
        [
            correlations(drift, single, ("true_identity", "true_fraction", "true_prompt")),
            correlations_within(drift, single, ("true_identity", "true_prompt")),
            method_correlations(drift, single),
        ],
        ignore_index=True,
    )
    harmed = pictures[pictures["part"] != "drift"].copy()
    harmed["case"] = harmed["subject"] + "/" + harmed["case"].astype(int).astype(str)
    reacted = reactions(harmed, metrics)
    judged = verdicts(reacted, TARGETS, YARDSTICKS)
    record = {
        "config": {name: value for name, value in asdict(config).items() if name != "out"},
        "suite": "mini@0",
        "n_subjects": len(study.suite.subjects),
        "n_images": len(pictures),
        "evaluators": study.measurer.evaluators.checkpoints,
        "device": device_name(),
        "commit": commit(),
        "versions": library_versions(),
        "seconds": round(seconds, 1),
    }
    tables = {CORRELATIONS_CSV: related, REACTIONS_CSV: reacted, VERDICTS_CSV: judged, IMAGES_CSV: pictures}
    for name, table in tables.items():
        write_text(table.to_csv(index=False, float_format="%.6f", lineterminator="\n"), config.out / name)
    write_json(record, config.out / RUN_JSON)
    return Results(pictures, related, reacted, judged, record)
