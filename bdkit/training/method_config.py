"""Settings of every method, free of torch, so that the command line's help answers at once."""

import math
from dataclasses import dataclass

from bdkit.models.configs import MODIFIER_TOKEN, PLACEHOLDER_TOKEN, RARE_TOKEN
from bdkit.training.config import FewStepConfig, FinetuneConfig
from bdkit.utils.errors import InputError

# The neutral captions of the original code of Textual Inversion
CAPTION_TEMPLATES = (
    "a photo of a {}",
    "a rendering of a {}",
    "a cropped photo of the {}",
    "the photo of a {}",
    "a photo of a clean {}",
    "a photo of a dirty {}",
    "a dark photo of the {}",
    "a photo of my {}",
    "a photo of the cool {}",
    "a close-up photo of a {}",
    "a bright photo of the {}",
    "a cropped photo of a {}",
    "a photo of the {}",
    "a good photo of the {}",
    "a photo of one {}",
    "a close-up photo of the {}",
    "a rendition of the {}",
    "a photo of the clean {}",
    "a rendition of a {}",
    "a photo of a nice {}",
    "a good photo of a {}",
    "a photo of the nice {}",
    "a photo of the small {}",
    "a photo of the weird {}",
    "a photo of the large {}",
    "a photo of a cool {}",
    "a photo of a small {}",
)


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Where a method starts, and how it generates.

    start: folder or name of the model it starts from; none: the given model
    guidance_scale: how strictly to follow the prompt; none: the model's default
    num_inference_steps: denoising steps; none: the model's default
    scheduler: name of a sampler, a diffusers class such as DDIMScheduler; none: the model's default
    negative_prompt: what not to show; none: the model's default
    prompt_reps: how often the text is repeated; none: the model's default
    """

    start: str | None = None
    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    scheduler: str | None = None
    negative_prompt: str | None = None
    prompt_reps: int | None = None


@dataclass(frozen=True, kw_only=True)
class TextToImageConfig(MethodConfig):
    """Base.

    token: word before the class noun in every prompt, such as a LoRA's own; none: the word that the start has learned
    """

    token: str | None = None


@dataclass(frozen=True, kw_only=True)
class BlipDiffusionConfig(FinetuneConfig, MethodConfig):
    """Few-step fine-tuning and generation; ``steps=0`` is zero-shot."""


@dataclass(frozen=True, kw_only=True)
class PriorConfig(FewStepConfig, MethodConfig):
    """A method that can preserve the prior of the subject's class.

    prior_loss_weight: weight of the loss on images of the class, which keeps "a dog" any dog; 0: no such images
    class_images: how many of them the model itself generates from "a dog" before it is trained
    """

    prior_loss_weight: float = 0.0
    class_images: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        wrong = not 0 <= self.prior_loss_weight < math.inf or self.class_images < 0
        if wrong or (self.prior_loss_weight > 0 and self.class_images < 1):
            raise InputError(
                f"prior_loss_weight is {self.prior_loss_weight} with {self.class_images} class_images; "
                "use a weight of at least 0, and with a weight at least 1 image"
            )


@dataclass(frozen=True, kw_only=True)
class DreamBoothConfig(PriorConfig):
    """DreamBooth.

    token: the rare word that comes to mean the subject
    train_text_encoder: train the text encoder too
    """

    token: str = RARE_TOKEN
    train_text_encoder: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_word("token", self.token)


@dataclass(frozen=True, kw_only=True)
class DreamBoothLoraConfig(DreamBoothConfig):
    """DreamBooth-LoRA.

    rank: of the added matrices
    alpha: the addition is scaled by alpha / rank; none: the rank
    target_modules: ends of the names of the linear layers that get an addition
    """

    rank: int = 4
    alpha: float | None = None
    target_modules: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            raise InputError(f"rank is {self.rank}; use at least 1")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise InputError(f"alpha is {self.alpha}; use a number above 0, or none for the rank")
        if not self.target_modules:
            raise InputError("target_modules is empty; name at least one layer, such as to_q")
        if self.train_text_encoder:
            raise InputError("dreambooth-lora trains the U-Net alone; leave train_text_encoder out, or use dreambooth")


@dataclass(frozen=True, kw_only=True)
class TextualInversionConfig(FewStepConfig, MethodConfig):
    """Textual Inversion.

    placeholder_token: the new word
    templates: captions of the subject's images, one drawn for each
    with_class_noun: write "<*> dog" rather than "<*>", in training as in the prompts
    """

    placeholder_token: str = PLACEHOLDER_TOKEN
    templates: tuple[str, ...] = CAPTION_TEMPLATES
    with_class_noun: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_word("placeholder_token", self.placeholder_token)


@dataclass(frozen=True, kw_only=True)
class CustomDiffusionConfig(TextualInversionConfig, PriorConfig):
    """Custom Diffusion.

    initializer_token: the rare word whose embedding the new one starts from; of several tokens, their mean
    """

    placeholder_token: str = MODIFIER_TOKEN
    templates: tuple[str, ...] = ("photo of a {}",)
    prior_loss_weight: float = 1.0
    initializer_token: str = "ktn"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_word("initializer_token", self.initializer_token)


@dataclass(frozen=True, kw_only=True)
class ReImagenConfig(MethodConfig):
    """Re-Imagen.

    adapter: folder that `bdkit pretrain re-imagen` wrote; none: mini-re-imagen beside the start
    neighbours: how many of the subject's images are looked at; of more images, the seed chooses
    neighbour_guidance_scale: how strictly to follow the neighbours; none: as guidance_scale, which is of the text
    text_share: share of the steps that the text guides; the neighbours guide the others
    """

    adapter: str | None = None
    neighbours: int = 2
    neighbour_guidance_scale: float | None = None
    text_share: float = 0.5

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise InputError(f"neighbours is {self.neighbours}; use at least 1")
        if not 0 <= self.text_share <= 1:
            raise InputError(f"text_share is {self.text_share}; use a share from 0 to 1")


METHOD_CONFIGS: dict[str, type[MethodConfig]] = {
    "base": TextToImageConfig,
    "textual-inversion": TextualInversionConfig,
    "dreambooth": DreamBoothConfig,
    "dreambooth-lora": DreamBoothLoraConfig,
    "custom-diffusion": CustomDiffusionConfig,
    "re-imagen": ReImagenConfig,
    "blip-diffusion": BlipDiffusionConfig,
}
"""The settings of each of `bdkit.methods.METHODS`, whose modules import torch."""


def _check_word(name: str, word: str) -> None:
    """The word takes a placeholder's position in prompts, so it may be neither empty nor a placeholder itself."""
    if not word or word != word.strip() or "{" in word or "}" in word:
        raise InputError(f"{name} is {word!r}; use a word without braces or spaces around it")
