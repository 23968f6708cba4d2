"""The un-personalised base: plain text-to-image with the class noun, the floor of every table."""

from typing import ClassVar

from PIL import Image
from torch import Tensor

from bdkit.methods.base import ModelMethod
from bdkit.models.latent_diffusion import LatentDiffusion
from bdkit.training.method_config import TextToImageConfig
from bdkit.utils.errors import InputError


class TextToImage(ModelMethod):
    """Any dog for "a dog in the jungle": looks at no image and learns nothing."""

    name: ClassVar[str] = "base"

    def __init__(self, model: LatentDiffusion, config: TextToImageConfig) -> None:
        super().__init__(model, config)
        self.config = config

    def fit(self, images: list[Image.Image], class_noun: str, seed: int) -> None:
        self.check_class_noun(class_noun)

    def select(self, step: int | None) -> None:
        if step is not None:
            raise InputError("the base is not trained and has no snapshots; leave the step out")

    def generate(self, prompt_template: str | list[str], class_noun: str, seeds: list[int]) -> list[Image.Image]:
        self.check_class_noun(class_noun)
        token = self.config.token or self.model.record.get("learned_token")
        return self.draw(prompt_template, f"{token} {class_noun}" if token else class_noun, seeds)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        if state:
            raise InputError("the base learns nothing; this fit belongs to another method")
