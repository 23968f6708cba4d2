"""The settings of `bdkit reproduce`, and the experiments by name. Imports nothing heavy."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from bdkit.utils.config import flag_of
from bdkit.utils.errors import InputError
from eval.experiments import BASE, FROM_BASE, STEP_METHODS, BenchConfig, Row

# Experiment -> its module, which has run(config) -> the CSV; table(frame) -> Markdown and plot(frame) -> Figure, which
# are made from the CSV alone
EXPERIMENTS = {
    "table1": "eval.paper.table1",
    "steps": "eval.paper.steps",
    "search": "eval.paper.search",
    "ablations": "eval.paper.ablations",
    "preservation": "eval.paper.preservation",  # after the ablations, two of whose models it measures too
    "drift": "eval.paper.drift",
    "combination": "eval.paper.combination",
}
# What `bdkit reproduce all` runs, in this order
ALL = tuple(name for name in EXPERIMENTS if name != "search")
# Options that an experiment has no use for
UNUSED: dict[str, tuple[str, ...]] = {
    "table1": ("steps",),
    "ablations": ("steps",),
    "preservation": ("steps", "methods", "dtype", "batch_size", "workers"),
    "drift": ("steps", "samples", "dtype", "batch_size"),
    "combination": (
        "base",
        "seed_sets",
        "subjects",
        "prompts",
        "samples",
        "steps",
        "methods",
        "photos",
        "protocol",
        "batch_size",
        "dtype",
        "workers",
    ),
    "all": ("methods",),  # they are of one experiment, whose rows they name
}
# What is measured where no limit is given
BUDGETS: dict[str, dict[str, Any]] = {
    "small": {"seed_sets": (0,), "subjects": 5, "prompts": 5, "samples": 1},
    "full": {"seed_sets": (0, 1, 2)},
}


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig:
    """Reproduction of the paper.

    experiment: what to reproduce, or all
    suite: as for `bdkit bench`; none: mini, and mini-dev for search
    model: a folder of weights, a hub id, or mini
    base: the text-to-image model that the model was trained from, a folder or a hub id, from which Textual Inversion,
        DreamBooth-LoRA, Custom Diffusion, Re-Imagen and the rows "base" and "from the base" start; none: mini-base
        beside it
    out: folder for NAME.csv, NAME.md and NAME.png, and for the images and scores in NAME/; a stopped run resumes there
    budget: small (5 subjects, 5 prompts, 1 image each, 1 seed set) or full (all, 3 seed sets); of drift 2 or 6
        subjects and 1 seed set, of combination 8 or 100 scenes; the limits below go before it
    seed_sets: independent seed sets, such as 0,1,2
    subjects: measure only so many subjects, spread evenly over the suite
    prompts: measure only so many prompts of each list, spread evenly over it
    samples: measure only the first so many images a prompt
    steps: numbers of training steps of steps and search, such as 0,40,80; none: the budget's
    methods: names of the rows to run, or of the methods of steps and search; the CSV holds these alone; none: all
    photos: folder of the suite's photos; none: BDKIT_DREAMBENCH_DIR, else the fetched ones (of DreamBench)
    protocol: encoders that score, as for `bdkit bench`
    batch_size: images generated together in table1, steps, search and ablations; none: as many as suit the device
    dtype: of the weights in memory while images are drawn, in the same
    workers: processes that work at the same time, in the same and in drift; none: as many as suit the machine
    """

    experiment: str = field(metadata={"positional": True, "metavar": "NAME"})
    suite: str | None = None
    model: str = "mini"
    base: str | None = None
    out: Path = Path("results/my-paper")
    budget: Literal["small", "full"] = "small"
    seed_sets: tuple[int, ...] | None = None
    subjects: int | None = None
    prompts: int | None = None
    samples: int | None = None
    steps: tuple[int, ...] | None = None
    methods: tuple[str, ...] | None = None
    photos: Path | None = None
    protocol: str | None = None
    batch_size: int | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.experiment not in (*EXPERIMENTS, "all"):
            raise InputError(f"unknown experiment {self.experiment!r}; known are {', '.join(EXPERIMENTS)} and all")
        given = {item.name for item in fields(self) if getattr(self, item.name) != item.default}
        if unused := [name for name in UNUSED.get(self.experiment, ()) if name in given]:
            raise InputError(f"{flag_of(unused[0])} is not for `bdkit reproduce {self.experiment}`; leave it out")
        if self.experiment == "ablations" and self.base is not None and "model" in given:
            raise InputError("ablations train their own models, from --base alone; leave --model out")
        if self.experiment == "drift" and len(self.seed_sets or ()) > 1:
            raise InputError("drift measures one seed set; give one number with --seed-sets")
        least = 1 if self.experiment == "search" else 0
        if self.steps is not None and (
            len(set(self.steps)) < len(self.steps) or min(self.steps, default=-1) < least or max(self.steps) < 1
        ):
            raise InputError(
                f"--steps {','.join(map(str, self.steps))}: give different whole numbers of at least {least}, one of "
                "them above 0"
            )

    def of(self, experiment: str) -> "ReproduceConfig":
        """The part of the settings that one experiment has a use for."""
        unused = UNUSED.get(experiment, ())
        values: dict[str, Any] = {item.name: item.default for item in fields(self) if item.name in unused}
        if experiment == "ablations" and self.base is not None:
            values["model"] = "mini"  # it only finds the base
        if experiment == "drift" and self.seed_sets is not None:
            values["seed_sets"] = self.seed_sets[:1]
        return replace(self, experiment=experiment, **values)

    @property
    def csv(self) -> Path:
        """The experiment's result."""
        return self.out / f"{self.experiment}.csv"

    @property
    def search_csv(self) -> Path:
        """Where `bdkit reproduce search` leaves the learning rates that it chose."""
        return self.out / "search.csv"

    @property
    def base_model(self) -> str | None:
        """The given base, else mini-base beside the model; None: there is none."""
        from bdkit.methods.base import start_beside

        return self.base or start_beside(BASE, self.model)

    def required_base(self) -> str:
        """The same; InputError where there is none."""
        if (base := self.base_model) is None:
            raise InputError(f"no {BASE} is beside {self.model}; name the model that it was trained from with --base")
        return base

    def chosen_step_methods(self) -> list[str]:
        """The names of STEP_METHODS that are run."""
        if self.methods is not None and (unknown := sorted(set(self.methods) - set(STEP_METHODS))):
            raise InputError(f"unknown method {unknown[0]!r}; known are {', '.join(STEP_METHODS)}")
        return [name for name in STEP_METHODS if self.methods is None or name in self.methods]

    def bench(self, rows: Sequence[Row], **changes: Any) -> BenchConfig:
        """The run of these rows, within the budget; `changes` are fields of BenchConfig."""
        limits = {
            name: given
            for name in ("seed_sets", "subjects", "prompts", "samples")
            if (given := getattr(self, name)) is not None
        }
        shared = ("model", "methods", "photos", "protocol", "batch_size", "dtype", "workers")
        return BenchConfig(
            rows=tuple(self.with_base(row) for row in rows),
            **{
                "suite": self.suite or "mini",
                **{name: getattr(self, name) for name in shared},
                **BUDGETS[self.budget],
                **limits,
                "out": self.out / self.experiment,
                **changes,
            },
        )

    def with_base(self, row: Row) -> Row:
        """The row; one that starts from the base, from the given one. Raises InputError where there is none."""
        start = row.overrides.get("start", BASE if row.method in FROM_BASE else None)
        if start != BASE:
            return row
        base = self.required_base()
        return row if self.base is None else replace(row, overrides={**row.overrides, "start": base})
