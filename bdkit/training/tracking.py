"""Training one can watch: numbers and sample images, by accelerate's trackers, from the main process alone."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bdkit.utils.env import is_main_process, process_gib
from bdkit.utils.errors import InputError
from bdkit.utils.images import write_png

TRACKERS = ("tensorboard", "wandb", "trackio")
Samples = Callable[[Path], tuple[Image.Image, dict[str, float]]]
"""Writes sample images below a folder; returns a grid of them and their scores by name."""


class Tracking:
    """Sends a training's numbers to a tracker, and now and then samples of what the model draws.

    Args:
        name: tensorboard, wandb or trackio; None: samples alone, as files.
        folder: of tensorboard's events, wandb's files and the sample grids.
        every: steps between two lines of numbers.
        samples: draws with the model in training; None: no samples.
        sample_every: steps between two grids.

    Raises InputError when the tracker is not installed.
    """

    def __init__(
        self,
        name: str | None,
        folder: Path,
        *,
        every: int = 10,
        samples: Samples | None = None,
        sample_every: int = 500,
    ) -> None:
        if name is not None:
            check_tracker(name)
        if every < 1 or sample_every < 1:
            raise InputError(f"--log-every is {every}, --sample-every {sample_every}; use at least 1 for both")
        self.name, self.folder, self.every = name, folder, every
        self.samples, self.sample_every = samples, sample_every
        self._tracker: Any = None
        self._last = (0, 0.0)

    def start(self, settings: dict[str, Any], step: int, seconds: float) -> None:
        """Begins or resumes a run, at a step that was reached after so many seconds."""
        self._last = (step, seconds)
        if self.name is None or not is_main_process():
            return
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        options: dict[str, dict[str, Any]] = {
            "tensorboard": {"logging_dir": self.folder},
            "wandb": {"dir": str(self.folder), "name": self.folder.parent.name},
            "trackio": {"name": self.folder.parent.name, "resume": "allow", "embed": False},
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        self._tracker = LOGGER_TYPE_TO_CLASS[self.name]("bdkit", **options[self.name])
        self._tracker.start()
        if step == 0 and self.name != "tensorboard":  # whose page of hyperparameters is another run
            self._tracker.store_init_configuration({key: str(value) for key, value in settings.items()})

    def log(self, step: int, seconds: float, images: int, values: dict[str, float]) -> None:
        """Sends the numbers of a step; `images` a step make images a second, since the last line."""
        before, then = self._last
        self._last = (step, seconds)
        if self._tracker is None:
            return
        speed = images * (step - before) / max(seconds - then, 1e-9)
        used = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else process_gib()
        self._tracker.log({**values, "images_per_second": speed, "memory_gib": used}, step=step)

    def sample(self, step: int) -> None:
        """Draws samples and sends them; the grid is also written as a file."""
        if self.samples is None or not is_main_process():
            return
        grid, scores = self.samples(self.folder / "samples" / f"step-{step:07d}")
        write_png(grid, self.folder / "samples" / f"step-{step:07d}.png")
        if self.name == "tensorboard":
            self._tracker.log_images({"samples": np.asarray(grid)[None]}, step=step, dataformats="NHWC")
        elif self.name == "wandb":
            self._tracker.log_images({"samples": [grid]}, step=step)
        elif self.name == "trackio":
            import trackio

            self._tracker.log({"samples": trackio.Image(grid)}, step=step)
        if self._tracker is not None and scores:
            self._tracker.log(scores, step=step)

    def finish(self) -> None:
        """Ends the run."""
        if self._tracker is not None:
            self._tracker.finish()
            self._tracker = None


def check_tracker(name: str) -> None:
    """Refuses a tracker that is not known or not installed."""
    if name not in TRACKERS:
        raise InputError(f"--log-with is {name!r}; use {', '.join(TRACKERS)}")
    if find_spec(name) is None:
        how = "pip install wandb" if name == "wandb" else "pip install 'bdkit[trackers]'"
        raise InputError(f"--log-with {name}: {name} is not installed; {how}")
