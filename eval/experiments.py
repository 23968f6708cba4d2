"""What is measured, as data: the rows of the tables and the settings of a run. Imports nothing heavy."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bdkit.utils.errors import InputError
from dreambench.registry import load_suite
from dreambench.suites import Suite
from eval.results_dir import GROUND_TRUTH, REAL, REAL_WITH_SELF

# Models that photos are scored for with the small shipped evaluators, because their images have 64 pixels a side
SMALL_MODELS = ("mini", "mini-base")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table. Rows with the same method and overrides share one fit per subject and seed set.

    method: a name of `bdkit.methods.METHODS`
    overrides: settings in place of those of the model's preset
    snapshot: training steps after which the images are generated; None: after the last
    """

    name: str
    method: str
    overrides: Mapping[str, Any] = field(default_factory=dict, hash=False)
    snapshot: int | None = None

    @property
    def group(self) -> str:
        """The same text for rows that share their fits."""
        return f"{self.method} {json.dumps(dict(self.overrides), sort_keys=True, default=str)}"


# The paper's Table 1 and its floor, the base model; the numbers come from the model's preset.
TABLE1 = (
    Row(name="base", method="base"),
    Row(name="textual-inversion", method="textual-inversion"),
    Row(name="dreambooth-100", method="dreambooth", snapshot=100),
    Row(name="dreambooth-300", method="dreambooth", snapshot=300),
    Row(name="dreambooth", method="dreambooth"),
    Row(name="blip-diffusion-zero-shot", method="blip-diffusion", overrides={"steps": 0}),
    Row(name="blip-diffusion-finetuned", method="blip-diffusion"),
)


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Benchmark.

    suite: dreambench, dreambench-plus, mini, mini@SEED, mini-dev or mini-quick
    model: a folder of weights, a hub id, or mini
    out: folder for the results; a run that was stopped resumes there; none: results/SUITE
    rows: rows of the table
    methods: names of the rows to run; none: all
    seed_sets: independent seed sets, such as 0,1,2
    photos: folder of the suite's photos; none: BDKIT_DREAMBENCH_DIR, else the fetched ones (of DreamBench)
    subjects: measure only so many subjects, spread evenly over the suite
    prompts: measure only so many prompts of each list, spread evenly over it
    samples: measure only the first so many images a prompt
    protocol: encoders that score, mini or dreambench; none: mini for mini suites and models, else dreambench
    batch_size: images generated together; none: as many as suit the device
    ground_truth: add the mini world's own image of each prompt as a row
    shard: generate only part i of n, written i/n; when all parts are in one folder, the command without it scores them
    workers: processes that work at the same time, each on one thread; none: as many as suit the machine, 1 with a GPU
    remake: delete the images of these rows and generate them again
    """

    suite: str = field(default="mini-quick", metadata={"positional": True})
    model: str = "mini"
    out: Path | None = None
    rows: tuple[Row, ...] = TABLE1
    methods: tuple[str, ...] | None = None
    seed_sets: tuple[int, ...] = (0,)
    photos: Path | None = None
    subjects: int | None = None
    prompts: int | None = None
    samples: int | None = None
    protocol: str | None = None
    batch_size: int | None = None
    ground_truth: bool = True
    shard: str | None = None
    workers: int | None = None
    remake: bool = False

    def __post_init__(self) -> None:
        _check_rows(self.rows, self.methods)
        if not self.seed_sets or min(self.seed_sets) < 0 or len(set(self.seed_sets)) < len(self.seed_sets):
            raise InputError(f"seed sets must be different whole numbers from 0, not {self.seed_sets}")
        for name, value in (("batch of {} images", self.batch_size), ("number of workers of {}", self.workers)):
            if value is not None and value < 1:
                raise InputError(f"a {name.format(value)} is too small; give at least 1")

    @property
    def results_dir(self) -> Path:
        """The folder of the results."""
        return self.out or Path("results") / self.suite

    @property
    def chosen_rows(self) -> tuple[Row, ...]:
        """The rows that are run."""
        return tuple(row for row in self.rows if self.methods is None or row.name in self.methods)

    def load_suite(self) -> Suite:
        """The suite within the limits."""
        return load_suite(self.suite, self.photos).limited(self.subjects, self.prompts, self.samples)


def protocol_of(config: BenchConfig, suite: Suite) -> str:
    """The protocol that `config` names, else the one that fits the suite and the model."""
    if config.protocol is not None:
        return config.protocol
    return "mini" if suite.source == "procedural" or config.model in SMALL_MODELS else "dreambench"


def _check_rows(rows: tuple[Row, ...], methods: tuple[str, ...] | None) -> None:
    names = [row.name for row in rows]
    if not names or methods == ():
        raise InputError("no rows to generate; name at least one method")
    for name in names:
        if names.count(name) > 1 or name in (REAL, REAL_WITH_SELF, GROUND_TRUTH):
            raise InputError(f"the row name {name!r} is taken; give the row another name")
        if not name or Path(name).name != name or name.startswith("."):
            raise InputError(f"the row name {name!r} cannot name a folder; give the row another name")
    for name in methods or ():
        if name not in names:
            raise InputError(f"unknown method {name!r}; known are {', '.join(names)}")
