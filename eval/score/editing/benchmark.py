"""What an editing benchmark is: its cases, its metrics, and the values of one edited image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from PIL import Image

from bdkit.utils.errors import InputError

# What a metric needs: pixels alone, or a network too
Needs = Literal["pixels", "lpips", "structure", "clip", "dino"]
# The end of the name of a metric that differs from the published one of the same name
MENDED = "_mended"


@dataclass(frozen=True, kw_only=True)
class EditCase:
    """One edit that a benchmark asks for.

    name: path below a method's folder, without suffix, such as "0_random_140/000000000000"
    kind: the part of the benchmark that it belongs to
    source: file of the image to edit
    """

    name: str
    kind: str
    source: Path


@dataclass(frozen=True, kw_only=True)
class EditMetric:
    """One metric; its name in scores.csv is its key, the published code's own for a published one.

    title: in the table's head, with the factor that papers print
    scale: that factor; scores.csv has the values without it
    digits: after the point, in the table
    """

    title: str
    needs: Needs
    scale: float = 1.0
    digits: int = 3
    higher_is_better: bool = True


class EditBenchmark(Protocol):
    """A benchmark with its networks loaded.

    key: changes with all that values depend on, but for the files
    """

    @property
    def name(self) -> str: ...
    @property
    def cases(self) -> Sequence[EditCase]: ...
    @property
    def metrics(self) -> Mapping[str, EditMetric]: ...
    @property
    def key(self) -> str: ...
    @property
    def checkpoints(self) -> Mapping[str, Any]: ...

    def content(self, case: EditCase, method: str) -> bytes:
        """All that values depend on beside the source and the edited image."""

    def values(self, case: EditCase, method: str, source: Image.Image, edited: Image.Image) -> Mapping[str, float]:
        """Metric -> value of one edited image; NaN where it is not defined. Sizes are those of the files."""

    def fit(self, edited: tuple[int, int], source: tuple[int, int]) -> str | None:
        """What is wrong with the (width, height) of an edited image of a source; None: nothing."""


def choose_metrics(metrics: Mapping[str, EditMetric], chosen: Sequence[str]) -> dict[str, EditMetric]:
    """Those of the chosen names in the benchmark's order; all where none is chosen."""
    if unknown := [name for name in chosen if name not in metrics]:
        raise InputError(f"unknown metric {unknown[0]!r}; known are {', '.join(metrics)}")
    return {name: metric for name, metric in metrics.items() if not chosen or name in chosen}


def needed(metrics: Mapping[str, EditMetric]) -> set[str]:
    """What the metrics need."""
    return {metric.needs for metric in metrics.values()}
