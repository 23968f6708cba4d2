"""One progress bar over fits and images, which take very different times."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from tqdm import tqdm

# Until a fit was timed: one training step costs about as much as so many images
STEP_IN_IMAGES = 4.0
SHOWN_TASKS = 2
BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} images [{elapsed}{postfix}]"


@dataclass(frozen=True)
class Event:
    """Something that happened to a task.

    kind: "begin": it is being worked on; "fit": its fit was made, or taken up (`fresh` is off); "image": `count` of
        its images were made; "found": `count` of its images were there already, made by another process; "end"
    group, label: of the task (see `eval.generate.units.Task`)
    seconds: what it took
    """

    kind: Literal["begin", "fit", "picture", "found", "end"]
    group: str
    label: str
    count: int = 1
    seconds: float = 0.0
    fresh: bool = True


Report = Callable[[Event], None]


class JobProgress:
    """A bar that counts images and estimates the time left from how long each kind of work took so far.

    pictures: group -> images still to be made; fits: group -> fits still to be made
    steps: group -> training steps of one fit
    done: images that are there already
    workers: processes that share the work
    """

    def __init__(
        self,
        pictures: Mapping[str, int],
        fits: Mapping[str, int],
        steps: Mapping[str, int],
        done: int,
        *,
        workers: int = 1,
        show: bool = True,
    ) -> None:
        self._left = {("picture", group): count for group, count in pictures.items()}
        self._left |= {("fit", group): count for group, count in fits.items()}
        self._steps = steps
        self._workers = workers
        self._under_way: list[str] = []
        self._seconds: dict[tuple[str, str], float] = defaultdict(float)
        self._count: dict[tuple[str, str], int] = defaultdict(int)
        total = done + sum(pictures.values())
        self._bar = tqdm(total=total, initial=done, bar_format=BAR, disable=not show, dynamic_ncols=True)

    def handle(self, event: Event) -> None:
        """Takes an event into account and shows it."""
        if event.kind == "begin":
            self._under_way.append(event.label)
        elif event.kind == "end":
            self._under_way.remove(event.label)
        else:
            self._take(event)
        self._bar.set_description_str(" + ".join(self._under_way[:SHOWN_TASKS]), refresh=False)
        self.refresh()

    def _take(self, event: Event) -> None:
        key = ("fit" if event.kind == "fit" else "picture", event.group)
        if event.kind != "found":
            self._seconds[key] += event.seconds
            self._count[key] += event.count
        self._left[key] = max(0, self._left.get(key, 0) - event.count)
        if event.kind != "fit":
            self._bar.update(event.count)

    def seconds_left(self) -> float | None:
        """Estimated seconds until all workers are done, None before anything was timed."""
        if not self._count:
            return None
        picture = self._mean([key for key in self._count if key[0] == "picture"], weights=None)
        trained = [key for key in self._count if key[0] == "fit" and self._steps.get(key[1])]
        step = self._mean(trained, weights=self._steps)
        if picture is None and step is None:
            return None
        if picture is None:
            picture = (step or 0.0) / STEP_IN_IMAGES
        if step is None:
            step = picture * STEP_IN_IMAGES
        left = 0.0
        for (kind, group), count in self._left.items():
            measured = self._count.get((kind, group))
            if measured:
                each = self._seconds[kind, group] / measured
            elif kind == "picture":
                each = picture
            else:
                each = step * self._steps.get(group, 0)
            left += count * each
        return left / self._workers

    def close(self) -> None:
        """Ends the bar."""
        self._under_way.clear()
        self._bar.set_description_str("pictures", refresh=False)
        self.refresh()
        self._bar.close()

    def refresh(self) -> None:
        """Draws the bar anew, its clock among it."""
        left = self.seconds_left()
        if left is not None:
            self._bar.set_postfix_str(f"{tqdm.format_interval(left)} left", refresh=False)
        self._bar.refresh()

    def _mean(self, keys: list[tuple[str, str]], weights: Mapping[str, int] | None) -> float | None:
        units = sum(self._count[key] * (1 if weights is None else weights.get(key[1], 0)) for key in keys)
        return sum(self._seconds[key] for key in keys) / units if units else None
