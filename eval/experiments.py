"""What is measured, as data: the rows of the tables and the settings of a run. Imports nothing heavy."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from bdkit.checkpoints.config import SpeedConfig
from bdkit.training.config import AUTO
from bdkit.utils.config import checked_value
from bdkit.utils.errors import InputError
from bdkit.utils.io import check_name
from dreambench.registry import load_suite
from dreambench.suites import Suite
from eval.results_dir import GROUND_TRUTH, REAL, REAL_WITH_SELF

# Models that photos are scored for with the small shipped evaluators, because their images have 64 pixels a side
SMALL_MODELS = ("mini", "mini-base")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table. Rows with the same method and overrides share one fit per subject and seed set.

    method: a name of `bdkit.methods.METHODS`, or a class of your own, "my_package.my_module:MyMethod"
    overrides: settings in place of those of the model's preset
    snapshot: training steps after which the images are generated; None: after the last
    """

    name: str
    method: str
    overrides: Mapping[str, Any] = field(default_factory=dict, hash=False)
    snapshot: int | None = None

    @property
    def is_own(self) -> bool:
        """Whether its method is a class of your own."""
        return ":" in self.method

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
# The text-to-image model that the mini model was trained from; `bdkit reproduce --base` puts another one in its place
BASE = "mini-base"
# Methods that start from it in the questions of the paper, as they do in the mini model's presets
FROM_BASE = ("base", "textual-inversion", "dreambooth-lora", "custom-diffusion", "re-imagen")
# Further rows of `bdkit reproduce table1`; the paper's DreamBooth starts from the base, not from stage 2's weights
TABLE1_FURTHER = (
    Row(name="re-imagen", method="re-imagen"),
    Row(name="dreambooth-from-base-100", method="dreambooth", overrides={"start": BASE}, snapshot=100),
    Row(name="dreambooth-from-base-300", method="dreambooth", overrides={"start": BASE}, snapshot=300),
    Row(name="dreambooth-from-base", method="dreambooth", overrides={"start": BASE}),
    Row(name="dreambooth-prior", method="dreambooth", overrides={"prior_loss_weight": 1.0}),
    Row(name="dreambooth-lora", method="dreambooth-lora"),
    Row(name="custom-diffusion", method="custom-diffusion"),
)

# `bdkit reproduce steps`: name -> method and overrides, the training steps after which images are generated, and the
# factors on the preset's learning rate that `bdkit reproduce search` tries for every one of them
STEP_METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "blip-diffusion": ("blip-diffusion", {}),
    "dreambooth-from-base": ("dreambooth", {"start": BASE}),
    "dreambooth": ("dreambooth", {}),
    "dreambooth-lora": ("dreambooth-lora", {}),
    "textual-inversion": ("textual-inversion", {}),
}
# Of these the one whose fit can choose its number of steps itself (`--steps auto`)
AUTO_STEPS = "blip-diffusion"
STEP_BUDGETS = {"small": (0, 10, 40, 80, 200, 400), "full": (0, 5, 10, 20, 40, 80, 120, 200, 400, 800)}
# With --budget small the methods that no speed-up is claimed against, and BLIP-Diffusion itself, end earlier
SMALL_LAST_STEP = {"blip-diffusion": 200, "dreambooth-lora": 200, "textual-inversion": 200}
SEARCH_STEPS = (20, 80, 200)
RATE_FACTORS = (0.25, 0.5, 1.0, 2.0)


def step_budget(name: str, budget: str) -> tuple[int, ...]:
    """The numbers of steps of a method of STEP_METHODS."""
    last = SMALL_LAST_STEP.get(name) if budget == "small" else None
    return tuple(step for step in STEP_BUDGETS[budget] if last is None or step <= last)


def step_rows(name: str, budgets: tuple[int, ...], **overrides: Any) -> tuple[Row, ...]:
    """One row for each of the numbers of steps, all of the one fit of a method of STEP_METHODS."""
    method, start = STEP_METHODS[name]
    values = {**start, "steps": max(budgets), "snapshots": tuple(sorted(budgets)), **overrides}
    label = "".join(f"-{key.replace('_', '-')}-{value:g}" for key, value in overrides.items())
    return tuple(
        Row(name=f"{name}{label}-{step}", method=method, overrides=values, snapshot=step) for step in sorted(budgets)
    )


def auto_row(**overrides: Any) -> Row:
    """The row of AUTO_STEPS whose fits choose their number of steps."""
    method, start = STEP_METHODS[AUTO_STEPS]
    return Row(name=f"{AUTO_STEPS}-auto", method=method, overrides={**start, "steps": AUTO, **overrides})


@dataclass(frozen=True, kw_only=True)
class BenchConfig(SpeedConfig):
    """Benchmark.

    suite: dreambench, dreambench-plus, mini, mini@SEED, mini-dev or mini-quick
    model: a folder of weights, a hub id, or mini
    out: folder for the results; a run that was stopped resumes there; none: results/SUITE
    rows: rows of the table
    methods: names of the rows to run, and classes of your own as my_package.my_module:MyMethod; none: all rows
    seed_sets: independent seed sets, such as 0,1,2
    photos: folder of the suite's photos; none: BDKIT_DREAMBENCH_DIR, else the fetched ones (of DreamBench)
    subjects: measure only so many subjects, spread evenly over the suite
    prompts: measure only so many prompts of each list, spread evenly over it
    samples: measure only the first so many images a prompt
    protocol: encoders that score, mini or dreambench; none: mini for mini suites and models, else dreambench
    batch_size: images generated together; none: as many as suit the device
    dtype: of the weights in memory while images are drawn
    ground_truth: add the mini world's own image of each prompt as a row
    shard: generate only part i of n, written i/n; when all parts are in one folder, the command without it scores them
    workers: processes that work at the same time, each on one thread; none: as many as suit the machine, 1 with a GPU;
        with ray: one a GPU of the cluster, or one a core where it has no GPU
    executor: who works: processes of this machine, or ray, the machines of a Ray cluster
    address: HOST:PORT of the Ray cluster's head, or auto; none: RAY_ADDRESS, else a Ray of this machine alone
    remake: delete the images of these rows and generate them again
    held_out: references of each subject, the last ones, that no fit sees
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
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    ground_truth: bool = True
    shard: str | None = None
    workers: int | None = None
    executor: Literal["processes", "ray"] = "processes"
    address: str | None = None
    remake: bool = False
    held_out: int = 0

    def __post_init__(self) -> None:
        _check_classes((*(self.methods or ()), *(row.method for row in self.rows)))
        _check_rows((*self.rows, *self._own_rows), self.methods)
        if len({number for number in self.seed_sets if 0 <= number < 10**9}) < max(1, len(self.seed_sets)):
            raise InputError(f"seed sets must be different whole numbers from 0 to 999,999,999, not {self.seed_sets}")
        for name, value in (("batch of {} images", self.batch_size), ("number of workers of {}", self.workers)):
            if value is not None and value < 1:
                raise InputError(f"a {name.format(value)} is too small; give at least 1")
        if self.address is not None and self.executor != "ray":
            raise InputError("--address is of --executor ray alone; leave it out")

    @property
    def results_dir(self) -> Path:
        """The folder of the results."""
        return self.out or Path("results") / self.suite

    @property
    def chosen_rows(self) -> tuple[Row, ...]:
        """The rows that are run."""
        known = tuple(row for row in self.rows if self.methods is None or row.name in self.methods)
        return known + self._own_rows

    @property
    def _own_rows(self) -> tuple[Row, ...]:
        """One for each class among the methods, named after it."""
        names = dict.fromkeys(name for name in self.methods or () if ":" in name)
        return tuple(Row(name=name.rpartition(":")[2], method=name) for name in names)

    @property
    def drawing(self) -> dict[str, Any]:
        """What of dtype, channels_last and compile is not as it is by default: it changes the images."""
        chosen = {"dtype": self.dtype, "channels_last": self.channels_last, "compile": self.compile}
        return {name: value for name, value in chosen.items() if value not in ("float32", False)}

    def load_suite(self) -> Suite:
        """The suite within the limits."""
        suite = load_suite(self.suite, self.photos).limited(self.subjects, self.prompts, self.samples)
        if self.photos is not None and suite.source != "photos":
            raise InputError(f"--photos is for suites of photos, and {suite.name} is drawn; leave it out")
        return suite


def protocol_of(config: BenchConfig, suite: Suite) -> str:
    """The protocol that `config` names, else the one that fits the suite and the model."""
    if config.protocol is not None:
        return config.protocol
    ours = any(not row.is_own for row in config.chosen_rows)
    return "mini" if suite.source == "procedural" or (ours and config.model in SMALL_MODELS) else "dreambench"


def read_rows(path: Path) -> tuple[Row, ...]:
    """The rows of a JSON file: a list of objects with `name`, `method` and perhaps `overrides` and `snapshot`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; check the path") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON ({str(error).splitlines()[0]}); mend it") from error
    if not isinstance(values, list) or not values:
        raise InputError(f'{path} must be a list of rows, such as [{{"name": "mine", "method": "dreambooth"}}]')
    return tuple(_row(value, f"{path}, row {number}") for number, value in enumerate(values, 1))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for key, _ in pairs:
        if [name for name, _ in pairs].count(key) > 1:
            raise InputError(f"it has the key {key!r} twice")
    return dict(pairs)


def _no_constant(text: str) -> None:
    raise InputError(f"{text} is no number of JSON")


def _row(value: Any, label: str) -> Row:
    known = {field.name: field.default is MISSING and field.default_factory is MISSING for field in fields(Row)}
    if not isinstance(value, dict):
        raise InputError(f"{label} is {value!r}; write an object with {', '.join(known)}")
    unknown = sorted(set(value) - set(known))
    missing = [key for key, needed in known.items() if needed and key not in value]
    if unknown or missing:
        raise InputError(
            f"{label} {'has no ' + ' and no '.join(missing) if missing else 'has unknown ' + ', '.join(unknown)}; "
            f"its keys are {', '.join(known)}"
        )
    if not isinstance(value.get("overrides", {}), dict):
        raise InputError(f"{label}: overrides is {value['overrides']!r}; write an object of settings and their values")
    named = {key: checked_value(Row, key, value[key], f"{label}: {key}") for key in value if key != "overrides"}
    row = Row(**named, overrides=value.get("overrides", {}))
    if row.snapshot is not None and row.snapshot < 0:
        raise InputError(f"{label}: snapshot is {row.snapshot}; use a number of training steps, or null for the last")
    return row


def _check_classes(names: Iterable[str]) -> None:
    for name in names:
        if ":" in name and not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", name):
            raise InputError(f"{name!r} does not name a class; write it like my_package.my_module:MyMethod")


def _check_rows(rows: tuple[Row, ...], methods: tuple[str, ...] | None) -> None:
    names = [row.name for row in rows]
    if not names or methods == ():
        raise InputError("no rows to generate; name at least one method")
    for name in names:
        if names.count(name) > 1 or name in (REAL, REAL_WITH_SELF, GROUND_TRUTH):
            raise InputError(f"the row name {name!r} is taken; give the row another name")
        if not name.isprintable() or len(name.encode()) > 100 or name.startswith("."):
            raise InputError(f"the row name {name!r} cannot name a folder; give the row another name")
        check_name(name, "the row name")
    for name in methods or ():
        if ":" not in name and name not in names:
            raise InputError(
                f"unknown method {name!r}; known are {', '.join(names)}, and classes as my_package.my_module:MyMethod"
            )
