"""Settings of the app, free of torch and Gradio, so that the command line's help answers at once."""

from dataclasses import dataclass
from pathlib import Path

from bdkit.checkpoints.config import CheckpointConfig
from bdkit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class AppConfig(CheckpointConfig):
    """App.

    subjects: folders of bdkit finetune, whose subjects everybody may draw, with commas between
    controlnet: folder of the ControlNet that keeps edges (default: the model's own, else the shipped one)
    host: address to listen on; 0.0.0.0 for all of this machine's, which lets everybody in the network in
    port: port to listen on (default: the first free one from 7860)
    share: make the page public for a week by way of Gradio's servers
    open: open the page in the browser
    max_images: images of a subject, and images that are drawn at once
    max_megabytes: size of an uploaded file
    max_steps: training steps of one lesson
    keep_minutes: how long the folder of a page that was closed is kept
    """

    subjects: tuple[Path, ...] = ()
    controlnet: str | None = None
    host: str = "127.0.0.1"
    port: int | None = None
    share: bool = False
    open: bool = False
    max_images: int = 8
    max_megabytes: int = 20
    max_steps: int = 500
    keep_minutes: float = 10.0

    def __post_init__(self) -> None:
        for name in ("max_images", "max_megabytes", "max_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; use at least 1")
        if self.port is not None and not 0 < self.port < 65536:
            raise InputError(f"port is {self.port}; use 1 to 65535")
        if not 0 <= self.keep_minutes < 1e6:
            raise InputError(f"keep_minutes is {self.keep_minutes}; use at least 0")
