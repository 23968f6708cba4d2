"""Do the metrics mean what they should? Measured in the mini world, where the truth is known."""

import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import pandas as pd

from bdkit.miniworld.scenes import Scene, scene_for_prompt
from bdkit.miniworld.subjects import Subject, generator, sample_subject
from bdkit.utils.env import commit, device_name, library_versions, pick_device
from bdkit.utils.errors import InputError
from bdkit.utils.io import read_json, write_bytes, write_json, write_text
from bdkit.utils.progress import progress_bar
from dreambench.registry import load_suite
from dreambench.suites import Prompt
from studies.metric_validity import damage, statistics
from studies.metric_validity.damage import DAMAGES, STRENGTHS, Case, Shown, show
from studies.metric_validity.measures import MEASURED, TARGETS, YARDSTICKS, Judged, Measurer

# how far the individual is from the subject, 0 to 1
STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)
SAMPLES = 4
IMAGES_FILE = "images.parquet"  # a third of the CSV's size
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
    """The tables of a study. images: one row each, with the truth and every metric's value."""

    images: pd.DataFrame
    correlations: pd.DataFrame
    reactions: pd.DataFrame
    verdicts: pd.DataFrame
    run: dict[str, Any]


def validate_metrics(config: ValidityConfig, show_progress: bool = True) -> Results:
    """Draws the images, measures them with the shipped mini evaluators, and writes the tables and run.json to OUT."""
    started = monotonic()
    study = Study(config)
    bar = progress_bar(study.suite.subjects, desc="measuring", unit=" subjects", show=show_progress)
    rows = [row for number, _ in enumerate(bar) for row in study.measure(number)]
    return summarise(study, pd.DataFrame(rows), monotonic() - started)


class Study:
    """The subjects of a study, their references measured."""

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
            damage.reference_scenes(individual, subject.n_references, config.seed)
            for individual, subject in zip(self.individuals, self.suite.subjects, strict=True)
        ]
        self.measurer = Measurer(self.suite, pick_device())
        self.measurer.add_references([[Judged(shown=show(scene)) for scene in scenes] for scenes in self.references])

    def measure(self, number: int) -> list[dict[str, Any]]:
        """One row for each image of the suite's subject `number`: what it is, its truth, every metric's value."""
        subject, individual = self.suite.subjects[number], self.individuals[number]
        prompts = self.suite.prompts(subject)
        key = f"{self.config.seed}/{subject.name}"
        cases = _cases(individual, prompts, self.references[number], self.config.cases, key)
        images = [*drifting(individual, prompts, number, key), *damaged(cases), *repeated(individual, prompts, key)]
        values = self.measurer.measure(number, images)
        return [
            {"subject": subject.name, **judged.facts, **measured}
            for judged, measured in zip(images, values, strict=True)
        ]


def drifting(subject: Subject, prompts: tuple[Prompt, ...], number: int, key: str) -> Iterator[Judged]:
    """For every prompt an image that obeys it and one that does not, each of an individual 0 to 1 of the way to a
    stranger: over a subject's prompts every step occurs equally often, whether the prompt is obeyed or not.
    """
    stranger = sample_subject(subject.class_noun, f"drift {key}", "test")
    for order, prompt in enumerate(prompts):
        rng = generator("drift", key, prompt.index)
        for true_prompt in (1, 0):
            step = STEPS[(order + number + 2 * true_prompt) % len(STEPS)]
            individual = damage.between(subject, stranger, step)
            template = prompt.template if true_prompt else prompts[int(rng.integers(len(prompts)))].template
            scene = scene_for_prompt(individual, template, int(rng.integers(2**31)))
            while damage.obeys(scene, prompt.template) != bool(true_prompt):
                template = prompts[int(rng.integers(len(prompts)))].template
                scene = scene_for_prompt(individual, template, int(rng.integers(2**31)))
            shown = show(scene, identity=1 - damage.identity_distance(subject, individual), place=true_prompt)
            yield Judged(shown=shown, prompt=prompt, facts={**_facts("drift", prompt, shown), "step": step})


def damaged(cases: list[tuple[Prompt, Case]]) -> Iterator[Judged]:
    """Every case undamaged, then in every damage and strength."""
    for number, (prompt, case) in enumerate(cases):
        whole = show(case.scene)
        for name, strength in [("none", 0.0), *((each, strength) for each in DAMAGES for strength in STRENGTHS)]:
            shown = whole if name == "none" else DAMAGES[name](case, strength)
            facts = {**_facts("damage", prompt, shown), "case": number, "damage": name, "strength": strength}
            yield Judged(shown=shown, prompt=prompt, source=whole, facts=facts)


def repeated(subject: Subject, prompts: tuple[Prompt, ...], key: str) -> Iterator[Judged]:
    """SAMPLES images of one prompt, of which more and more repeat the first."""
    rng = generator("repeated", key)
    prompt = prompts[int(rng.integers(10))]
    samples = [show(scene_for_prompt(subject, prompt.template, seed)) for seed in range(SAMPLES)]
    for copies in range(SAMPLES):
        name = "samples repeated" if copies else "none"
        for number, sample in enumerate(samples):
            shown = samples[0] if number <= copies else sample
            facts = _facts("samples", prompt, sample)
            facts |= {"case": 1000 + number, "damage": name, "strength": copies / (SAMPLES - 1)}
            yield Judged(shown=shown, prompt=prompt, group=copies, facts=facts)


def read_results(out: Path) -> Results:
    """The tables that `validate_metrics` wrote."""
    names = (CORRELATIONS_CSV, REACTIONS_CSV, VERDICTS_CSV)
    try:
        images = pd.read_parquet(out / IMAGES_FILE)
        return Results(images, *(pd.read_csv(out / name) for name in names), read_json(out / RUN_JSON))
    except (OSError, ValueError) as error:
        message = f"{out} holds no whole study ({error}); run `python -m studies.metric_validity --out {out}`"
        raise InputError(message) from error


def _cases(
    subject: Subject, prompts: tuple[Prompt, ...], references: list[Scene], count: int, key: str
) -> list[tuple[Prompt, Case]]:
    """Prompts that name a place, so that a background can be right or wrong."""
    prompts_with_place = [prompt for prompt in prompts if prompt.kind == "context"]
    if count > len(prompts_with_place):
        raise InputError(f"{count} cases a subject are more than its {len(prompts_with_place)} prompts with a place")
    chosen = generator("cases", key).permutation(len(prompts_with_place))[:count]
    return [
        (prompts_with_place[i], damage.make_case(subject, prompts_with_place[i].template, references, f"{key}/{i}"))
        for i in chosen
    ]


def _facts(part: str, prompt: Prompt, shown: Shown) -> dict[str, Any]:
    return {
        "part": part,
        "kind": prompt.kind,
        "prompt": prompt.index,
        "true_identity": shown.identity,
        "true_prompt": shown.prompt,
        "true_place": shown.place,
    }


def summarise(study: Study, images: pd.DataFrame, seconds: float) -> Results:
    """The tables from all images' rows, written to OUT with run.json."""
    config = study.config
    metrics = [name for name in MEASURED if name in images]
    drift = images[images["part"] == "drift"].copy()
    drift["true_fraction"] = 1 - drift["step"]
    single = [name for name in metrics if drift[name].notna().any()]
    related = pd.concat(
        [
            statistics.correlations(drift, single, ("true_identity", "true_fraction", "true_prompt")),
            statistics.correlations_within(drift, single, ("true_identity", "true_prompt")),
            statistics.method_correlations(drift, single),
        ],
        ignore_index=True,
    )
    damaged_images = images[images["part"] != "drift"].copy()
    damaged_images["case"] = damaged_images["subject"] + "/" + damaged_images["case"].astype(int).astype(str)
    reacted = statistics.reactions(damaged_images, metrics)
    judged = statistics.verdicts(reacted, TARGETS, YARDSTICKS)
    record = {
        "config": {name: value for name, value in asdict(config).items() if name != "out"},
        "suite": "mini@0",
        "n_subjects": len(study.suite.subjects),
        "n_images": len(images),
        "evaluators": study.measurer.evaluators.checkpoints,
        "device": device_name(),
        "commit": commit(),
        "versions": library_versions(),
        "seconds": round(seconds, 1),
    }
    tables = {CORRELATIONS_CSV: related, REACTIONS_CSV: reacted, VERDICTS_CSV: judged}
    for name, table in tables.items():
        write_text(table.to_csv(index=False, float_format="%.6f", lineterminator="\n"), config.out / name)
    buffer = io.BytesIO()
    images.round(5).to_parquet(buffer, index=False, compression="zstd")
    write_bytes(buffer.getvalue(), config.out / IMAGES_FILE)
    write_json(record, config.out / RUN_JSON)
    return Results(images, related, reacted, judged, record)
