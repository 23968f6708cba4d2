"""One progress bar over fits and pictures, which take very different times."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from tqdm import tqdm

# Until a fit was timed: one training step costs about as much as so many pictures
STEP_IN_PICTURES = 4.0
UNKNOWN_STEPS = 200
BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} pictures [{elapsed}{postfix}]"


class JobProgress:
    """A bar that counts pictures and estimates the time left from how long each kind of work took so far.

    pictures: group -> pictures still to be made; fits: group -> fits still to be made
    done: pictures that are there already
    """

    def __init__(self, pictures: dict[str, int], fits: dict[str, int], done: int, show: bool = True) -> None:
        self._left = {("picture", group): count for group, count in pictures.items()}
        self._left |= {("fit", group): count for group, count in fits.items()}
        self._steps: dict[str, int] = {}
        self._seconds: dict[tuple[str, str], float] = defaultdict(float)
        self._count: dict[tuple[str, str], int] = defaultdict(int)
        total = done + sum(pictures.values())
        self._bar = tqdm(total=total, initial=done, bar_format=BAR, disable=not show, dynamic_ncols=True)

    def describe(self, text: str) -> None:
        """Names what is being done."""
        self._bar.set_description_str(text, refresh=False)
        self._refresh()

    def set_steps(self, group: str, steps: int) -> None:
        """Tells how many training steps one fit of the group takes."""
        self._steps[group] = steps

    @contextmanager
    def working(self, kind: str, group: str, count: int = 1) -> Iterator[None]:
        """Times the body: `count` pictures (kind "picture") or fits (kind "fit") of a group."""
        start = monotonic()
        yield
        key = (kind, group)
        self._seconds[key] += monotonic() - start
        self._count[key] += count
        self._left[key] = max(0, self._left.get(key, 0) - count)
        if kind == "picture":
            self._bar.update(count)
        self._refresh()

    def seconds_left(self) -> float | None:
        """Estimated seconds of work left, None before anything was timed."""
        if not self._count:
            return None
        picture = self._mean([key for key in self._count if key[0] == "picture"], weights=None)
        step = self._mean([key for key in self._count if key[0] == "fit"], weights=self._steps)
        if picture is None:
            picture = (step or 0.0) / STEP_IN_PICTURES
        if step is None:
            step = picture * STEP_IN_PICTURES
        left = 0.0
        for (kind, group), count in self._left.items():
            measured = self._count.get((kind, group))
            if measured:
                each = self._seconds[kind, group] / measured
            elif kind == "picture":
                each = picture
            else:
                each = step * self._steps.get(group, UNKNOWN_STEPS)
            left += count * each
        return left

    def close(self) -> None:
        """Ends the bar."""
        self._refresh()
        self._bar.close()

    def _mean(self, keys: list[tuple[str, str]], weights: dict[str, int] | None) -> float | None:
        units = sum(self._count[key] * (1 if weights is None else weights.get(key[1], 0)) for key in keys)
        return sum(self._seconds[key] for key in keys) / units if units else None

    def _refresh(self) -> None:
        left = self.seconds_left()
        if left is not None:
            self._bar.set_postfix_str(f"{tqdm.format_interval(left)} left", refresh=False)
        self._bar.refresh()
